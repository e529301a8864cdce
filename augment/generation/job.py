"""``augment generate``: the whole batch job in one process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
import torch
from pydantic import Field

from augment.checkpoints import store
from augment.generation import shards
from augment.generation.data_card import card
from augment.generation.demo_people import made_up_people
from augment.generation.plan import GenerationPlan, make_plan
from augment.generation.run_config import (
    Content,
    Encoding,
    ImageFormat,
    Precision,
    RunConfig,
    Sampling,
    Subsampling,
    begin,
    default_rows_per_shard,
    is_begun,
    read_run_config,
    table_digest,
)
from augment.generation.sampler import Sampler, prepare_for_sampling, repays_compiling
from augment.generation.worker import Job, sample_cost, work
from augment.interface.system import PoseTransfer
from augment.pose.bank import pose_bank
from manifests import io, subset
from manifests.compute.devices import cpu_threads, device_class, has_bf16, own_gpu, pick_device
from manifests.io import Images
from manifests.runtime import cluster
from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.settings import Frozen
from manifests.runtime.signals import Stopped, stopping
from manifests.runtime.storage import StoragePath, StoragePathFlag

Auto = Literal["auto"]

DEFAULT_WEIGHTS: Final = "patn-market1501"
SAMPLE_WEIGHTS: Final = "patn-sample"
CPU_BATCH_SIZE: Final = 16
GPU_BATCH_SIZE: Final = 256
NUM_SOURCES_LOOKED_FOR: Final = 16


class GenerateSettings(Frozen):
    """Make images of the same people in other poses."""

    images: Path | None = None
    """Images table whose train rows give the people (made by 'augment index'); default: made-up
    people, drawn beside OUT (in the current folder where OUT is a URL)."""
    out: StoragePathFlag = Path("synthetic")
    """Folder of the run, or a URL like s3://bucket/run; the same command again goes on where it
    stopped."""
    weights: str | None = None
    """Name of shipped weights, or a file; default: patn-market1501, for made-up people
    patn-sample."""
    per_id: int = 10
    """Images per person."""
    poses: Path | None = None
    """Images table whose train rows give the target poses (default: the same table)."""
    root: Path | None = None
    """Where the images lie, if not where the table says."""
    real_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Take sources and poses from this part of the train rows, as 'reid train' does."""
    data_seed: int = 0
    """Draws that part; the same here and in 'reid train' is the same part."""
    seed: int = 0
    """Another seed draws other sources and poses."""
    device: str = "auto"
    """Where the network runs: auto, cpu, cuda or cuda:N; auto and cuda: with several GPUs, the one
    of the local rank that torchrun or srun gives."""
    precision: Auto | Precision = "auto"
    """Arithmetic of the network; auto: bf16 where the device has it."""
    batch_size: Auto | int = "auto"
    """Images per forward pass; auto: 16 on a CPU, 256 on a GPU."""
    threads: Auto | int = "auto"
    """CPU threads of the network; auto: torch's own choice."""
    compile: Literal["auto", "yes", "no"] = "auto"
    """torch.compile, on a GPU with CUDA graphs; auto: on a GPU, from 5,000,000 images per worker
    on."""
    image_format: ImageFormat = "jpg"
    """How images are stored; a Market-1501 export needs jpg."""
    quality: int = 95
    """JPEG quality, 1 to 100."""
    subsampling: Subsampling = "4:2:0"
    """JPEG colour resolution."""
    rows_per_shard: Auto | int = "auto"
    """Images per file; auto: about a 64th of the job, 512 to 20,480."""
    on_error: Literal["record", "fail"] = "record"
    """A source that cannot be read: a row with an error text, or the end of the job."""
    worker: str | None = None
    """i/N: make every Nth shard from shard i on (counted from 0); on Slurm and under torchrun this
    is found out."""
    num_workers: int | None = None
    """How many workers share the job, where the environment does not say (Kubernetes)."""
    dry_run: bool = False
    """Print rows, shards, disk and estimated time, and make nothing."""
    retry_failed: bool = False
    """Make the shards that have failed rows again."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A trained network that is loaded when it is needed."""

    generator: str
    sha256: str
    image_size: tuple[int, int]
    """(height, width)."""
    load: Callable[[torch.device], PoseTransfer]
    facts: Mapping[str, str | int | float] = field(default_factory=dict[str, str | int | float])
    """What the weights say of their training."""
    system: type[PoseTransfer] = PoseTransfer
    """Its ``needs`` and ``Options``."""


@dataclass(frozen=True, slots=True)
class Executor:
    """Who begins a run and who makes its shards."""

    begin: Callable[[GenerateSettings, GenerationPlan, Weights], RunConfig]
    make: Callable[[Job, Weights, Sequence[int], Console], None]


def generate(
    settings: GenerateSettings,
    console: Console,
    weights: Weights | None = None,
    executor: Executor | None = None,
) -> Exit:
    """Run the job, or this worker's part of it, as far as it is not done yet.

    Args:
        settings: What to make.
        console: Where it is told.
        weights: The network; by default ``settings.weights`` is opened.
        executor: Who does it; by default this process.

    Returns:
        ``DONE`` if this worker's part is complete, ``ROW_ERRORS`` if the whole run is and some rows
        failed, ``STOPPED_EARLY`` after SIGTERM, ``INTERRUPTED`` after SIGINT.

    Raises:
        UserError: If an input is bad, or the folder holds another run or cannot be written.
    """
    try:
        with stopping():
            return _generate(
                settings, console, weights, executor or Executor(begin_or_join, make_here)
            )
    except Stopped as stopped:
        console.say(
            f"{settings.out}: stopped; the same command goes on from here",
            event="stopped",
            code=int(stopped.code),
        )
        return stopped.code


def open_weights(name: str) -> Weights:
    """Return shipped weights or those of a file.

    Raises:
        UserError: If there is no such file or it is none of ours.
    """
    path = store.find(name)
    network = store.load(path)
    header = store.read_header(path)
    return Weights(
        generator=header.generator,
        sha256=io.sha256_file(path),
        image_size=network.image_size,
        load=network.to,
        facts=header.facts,
        system=type(network),
    )


def plan_of(settings: GenerateSettings, size: tuple[int, int]) -> GenerationPlan:
    """Return the plan of a job.

    Args:
        settings: Where the tables are, how many images, which seed.
        size: (width, height) of the generated images.

    Raises:
        UserError: If a table is bad or the bank too small.
    """
    assert settings.images is not None, "made-up people are drawn before"
    images = io.read_images(settings.images, settings.root)
    images = subset.subset_train(images, settings.real_fraction, settings.data_seed)
    # The poses' own images are never opened, so they may lie anywhere or nowhere.
    poses = images if settings.poses is None else io.read_images(settings.poses, settings.root)
    return make_plan(images, pose_bank(poses, size), settings.per_id, settings.seed, size)


def options_of(settings: GenerateSettings, weights: Weights) -> Frozen:
    """Return what was chosen for the sampling, by default the system's defaults.

    Raises:
        UserError: If it was chosen for another system.
    """
    options: Frozen | None = getattr(settings, "options", None)
    if options is None:
        return weights.system.Options()
    return weights.system.Options.from_json(options.to_json(), where="--options")


def describe(
    settings: GenerateSettings, plan: GenerationPlan, weights: Weights, found: RunConfig | None
) -> RunConfig:
    """Return the run that the settings ask for; what is 'auto' is as in ``found``, if given.

    Raises:
        UserError: If a number is out of range or the device is not there.
    """
    _check_numbers(settings)
    height, width = weights.image_size
    lossy = settings.image_format == "jpg"
    sampling = _sampling(settings, None if found is None else found.content.sampling, len(plan))
    content = Content(
        generator=weights.generator,
        weights_sha256=weights.sha256,
        images_sha256=table_digest(plan.sources),
        poses_sha256=plan.bank.digest,
        rows=len(plan),
        per_id=settings.per_id,
        seed=settings.seed,
        options=options_of(settings, weights).model_dump(mode="json"),
        width=width,
        height=height,
        encoding=Encoding(
            image_format=settings.image_format,
            quality=settings.quality if lossy else None,
            subsampling=settings.subsampling if lossy else None,
        ),
        sampling=sampling,
    )
    rows_per_shard = settings.rows_per_shard
    if rows_per_shard == "auto" and found is not None:
        rows_per_shard = found.rows_per_shard
    elif rows_per_shard == "auto":
        rows_per_shard = default_rows_per_shard(len(plan), sampling.batch_size)
    return RunConfig(content=content, rows_per_shard=rows_per_shard)


def _generate(
    settings: GenerateSettings, console: Console, weights: Weights | None, executor: Executor
) -> Exit:
    worker = cluster.worker_index(settings.worker, os.environ, settings.num_workers)
    if settings.images is None:
        images = made_up_people(settings.out, console)
        name = settings.weights or SAMPLE_WEIGHTS
        settings = settings.model_copy(update={"images": images, "weights": name})
    weights = weights or open_weights(settings.weights or DEFAULT_WEIGHTS)
    height, width = weights.image_size
    plan = plan_of(settings, (width, height))
    _say_about(plan, worker, console)
    if settings.dry_run:
        run = describe(settings, plan, weights, read_run_config(settings.out))
        is_begun(settings.out, run)  # what the real run would refuse is refused now
        return _dry_run(job_of(settings, run, plan, weights), weights, console)
    run = executor.begin(settings, plan, weights)
    job = job_of(settings, run, plan, weights)
    if settings.retry_failed:
        if worker.count > 1:
            raise UserError(f"--retry-failed: found {worker}, expected a single worker")
        again = failed_shards(settings.out, run)
        if again:
            shards.withdraw(settings.out)
    else:
        if is_finished(settings.out, run):
            # Of several who finish a run at once, one may be killed after the others are done.
            shards.tidy(settings.out)
            return _say_done(job, console, "already complete")
        again = []
    own = range(worker.index, run.num_shards, worker.count)
    missing = [shard for shard in own if shards.shard_state(job.out, run, shard) != "complete"]
    executor.make(job, weights, sorted({*missing, *again}), console)
    if shards.finalise(job.out, run, card(run, plan)) is None:
        console.say(f"{worker}: done; shards of other workers are missing", event="part_done")
        return Exit.DONE
    return _say_done(job, console, "complete")


def begin_or_join(settings: GenerateSettings, plan: GenerationPlan, weights: Weights) -> RunConfig:
    """Create the run or join it; what is 'auto' is decided by its creator alone.

    Raises:
        UserError: If the folder belongs to another run, or this machine would make other bytes.
    """
    made_from = {**settings.model_dump(mode="json"), "weights_facts": dict(weights.facts)}
    found = read_run_config(settings.out)
    run = describe(settings, plan, weights, found)
    try:
        begin(settings.out, run, made_from)
    except UserError:
        created = read_run_config(settings.out)
        if found is not None or created is None:
            raise
        # Another worker created the run in between.
        run = describe(settings, plan, weights, created)
        begin(settings.out, run, made_from)
    return run


def job_of(
    settings: GenerateSettings, run: RunConfig, plan: GenerationPlan, weights: Weights
) -> Job:
    """Return what a worker with these settings needs to know."""
    return Job(
        settings.out,
        run,
        plan,
        needs=weights.system.needs,
        fail=settings.on_error == "fail",
        device=settings.device,
    )


def open_sampler(job: Job, weights: Weights) -> Sampler:
    """Return the network, made ready on this worker's device."""
    sampling = job.run.content.sampling
    device = _own_device(sampling.device if job.device == "auto" else job.device)
    network = prepare_for_sampling(weights.load(device), sampling.precision)
    options = weights.system.Options.from_json(json.dumps(job.run.content.options))
    return Sampler(network, device, options, sampling.compiled)


def make_here(job: Job, weights: Weights, numbers: Sequence[int], console: Console) -> None:
    """Make these shards in this process.

    Raises:
        UserError: If none of some sources is there, a shard cannot be written, or a row fails and
            that shall be the end.
    """
    if not numbers:
        return
    _check_sources_exist(job.plan.sources)
    sampling = job.run.content.sampling
    sampler = open_sampler(job, weights)
    rows = sum(job.run.num_rows(shard) for shard in numbers)
    console.say(
        f"{job.out}: {rows:,} of {job.run.content.rows:,} images to make, {len(numbers):,} shards, "
        f"on {sampler.kind}",
        event="begin",
        rows=rows,
        shards=len(numbers),
        device=sampler.kind,
    )
    with cpu_threads(sampling.threads), console.progress("generate", rows) as bar:
        work(job, sampler, numbers, bar)


def _check_sources_exist(sources: Images) -> None:
    """Refuse a folder that holds none of a few sources: every row would fail.

    Raises:
        UserError: With the first of them.
    """
    rows = np.unique(np.linspace(0, len(sources) - 1, NUM_SOURCES_LOOKED_FOR).astype(int)).tolist()
    if not any(sources.file(row).exists() for row in rows):
        raise UserError(
            f"{sources.root}: found none of {len(rows)} source images that were looked for, the "
            f"first {sources.file(0)}; expected the folder of the images (--root)"
        )


def is_finished(out: StoragePath, run: RunConfig) -> bool:
    """Return whether the run has its mark of success and every shard is still there.

    Raises:
        UserError: If there is a shard or a mark of another run.
    """
    return shards.read_success(out, run) is not None and not shards.unfinished(out, run)


def failed_shards(out: StoragePath, run: RunConfig) -> list[int]:
    """Return the complete shards that have rows without an image."""
    return [
        shard
        for shard in range(run.num_shards)
        if shards.shard_state(out, run, shard) == "complete"
        and shards.num_errors(shards.shard_file(out, shard))
    ]


def _sampling(settings: GenerateSettings, found: Sampling | None, num_rows: int) -> Sampling:
    name = found.device if found is not None and settings.device == "auto" else settings.device
    device = _own_device(name)
    on_cpu = device.type == "cpu"
    precision, batch_size, threads = settings.precision, settings.batch_size, settings.threads
    if precision == "auto":
        best = "bf16" if has_bf16(device) else "float32"
        precision = best if found is None else found.precision
    if batch_size == "auto":
        best = CPU_BATCH_SIZE if on_cpu else GPU_BATCH_SIZE
        batch_size = best if found is None else found.batch_size
    if threads == "auto":
        threads = torch.get_num_threads() if found is None else found.threads
    compiled = settings.compile == "yes"
    if settings.compile == "auto":
        # Every worker compiles for itself.
        share = (
            num_rows
            // cluster.worker_index(settings.worker, os.environ, settings.num_workers).count
        )
        compiled = repays_compiling(device, share) if found is None else found.compiled
    return Sampling(
        device=device.type,
        precision=precision,
        batch_size=batch_size,
        threads=threads,
        cpu=device_class(device) if on_cpu else None,
        torch=torch.__version__,
        compiled=compiled,
    )


def _own_device(name: str) -> torch.device:
    return pick_device(own_gpu(name, os.environ, torch.cuda.device_count()))


def _check_numbers(settings: GenerateSettings) -> None:
    for name in ("batch_size", "threads", "rows_per_shard"):
        value = getattr(settings, name)
        if value != "auto" and value < 1:
            raise UserError(f"--{name.replace('_', '-')}: found {value}, expected at least 1")
    if not 1 <= settings.quality <= 100:
        raise UserError(f"--quality: found {settings.quality}, expected 1 to 100")


def _say_about(plan: GenerationPlan, worker: cluster.WorkerIndex, console: Console) -> None:
    if worker.count > 1:
        console.say(str(worker), event="worker", index=worker.index, count=worker.count)
    if plan.num_without_torso:
        console.say(
            f"{plan.num_without_torso:,} of {len(plan.people):,} people have no image with both "
            "shoulders and both hips; their most complete images serve as sources",
            event="people_without_torso",
            people=plan.num_without_torso,
        )


def _dry_run(job: Job, weights: Weights, console: Console) -> Exit:
    """Say what would be made; the time is that of two batches, extrapolated."""
    sampler = open_sampler(job, weights)
    with cpu_threads(job.run.content.sampling.threads):
        seconds, bytes_per_row = sample_cost(job, sampler)
    run, num_people = job.run, len(job.plan.people)
    rows = run.content.rows
    console.say(
        f"{rows:,} images: {num_people:,} people x {run.content.per_id:,}, in "
        f"{run.num_shards:,} shards of {run.rows_per_shard:,}; about "
        f"{rows * bytes_per_row / 1e6:,.1f} MB and {_duration(rows * seconds)} "
        f"({1 / seconds:,.1f} img/s) on one {sampler.kind}",
        event="dry_run",
        rows=rows,
        people=num_people,
        shards=run.num_shards,
        megabytes=round(rows * bytes_per_row / 1e6, 3),
        seconds=round(rows * seconds, 3),
    )
    return Exit.DONE


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _say_done(job: Job, console: Console, how: str) -> Exit:
    errors = shards.num_errors(job.out / shards.MANIFEST_NAME)
    rows = job.run.content.rows
    failed = f", {errors:,} of them failed (the column 'error' says why)" if errors else ""
    console.say(f"{job.out}: {how}, {rows:,} rows{failed}", event="complete", errors=errors)
    return Exit.ROW_ERRORS if errors else Exit.DONE
