"""``augment generate``: the whole batch job in one process."""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import torch

from augment.checkpoints import store
from augment.generation import shards
from augment.generation.card import card
from augment.generation.run import (
    Content,
    Encoding,
    ImageFormat,
    Precision,
    Run,
    Sampling,
    Subsampling,
    default_rows_per_shard,
    make_run,
    table_digest,
)
from augment.generation.sampler import Sampler, prepare_for_sampling
from augment.generation.signals import Stopped, stopping
from augment.generation.worker import work
from augment.pose.bank import pose_bank
from augment.pose.plan import Plan, make_plan
from augment.transfer import PoseTransfer
from manifests import io
from manifests.console import Console, Exit, UserError
from manifests.settings import Frozen

Auto = Literal["auto"]


class GenerateSettings(Frozen):
    """Make images of the same people in other poses."""

    images: Path
    """Images table whose train rows give the people (made by 'augment index')."""
    out: Path = Path("synthetic")
    """Folder of the run; the same command again goes on where it stopped."""
    weights: str = "patn-market1501"
    """Name of shipped weights, or a file."""
    per_id: int = 10
    """Images per person."""
    poses: Path | None = None
    """Images table whose train rows give the target poses (default: the same table)."""
    root: Path | None = None
    """Where the images lie, if not where the table says."""
    seed: int = 0
    """Another seed draws other sources and poses."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network runs."""
    precision: Auto | Precision = "auto"
    """Arithmetic of the network; auto: bf16 where the device has it."""
    batch_size: Auto | int = "auto"
    """Images per forward pass; auto: 16 on a CPU, 256 on a GPU."""
    threads: Auto | int = "auto"
    """CPU threads of the network; auto: torch's own choice."""
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
    """'i/N': make every Nth shard, beginning with shard i (from 0)."""
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


def generate(settings: GenerateSettings, console: Console, weights: Weights | None = None) -> Exit:
    """Run the job, or this worker's part of it, as far as it is not done yet.

    Args:
        settings: What to make.
        console: Where it is told.
        weights: The network; by default ``settings.weights`` is opened.

    Returns:
        ``DONE`` if this worker's part is complete, ``ROW_ERRORS`` if the whole run is and some rows
        failed, ``STOPPED_EARLY`` after SIGTERM, ``INTERRUPTED`` after SIGINT.

    Raises:
        UserError: If an input is bad, or the folder holds another run or cannot be written.
    """
    try:
        with stopping():
            return _generate(settings, console, weights or open_weights(settings.weights))
    except Stopped as stopped:
        console.say(
            "stopped early; the same command goes on from here", event="stopped", code=stopped.code
        )
        return stopped.code


def open_weights(name: str) -> Weights:
    """Return shipped weights or those of a file, not yet loaded.

    Raises:
        UserError: If there is no such file or it is none of ours.
    """
    path = store.find(name)
    network = store.load(path, "cpu")
    return Weights(
        store.read_header(path).generator,
        io.sha256_file(path),
        network.image_size,
        lambda device: network.to(device),
    )


def plan_of(settings: GenerateSettings, size: tuple[int, int]) -> Plan:
    """Return the plan of a job.

    Args:
        settings: Where the tables are, how many images, which seed.
        size: (width, height) of the generated images.

    Raises:
        UserError: If a table is bad or the bank too small.
    """
    images = io.read_images(settings.images, settings.root)
    poses = images if settings.poses is None else io.read_images(settings.poses, settings.root)
    return make_plan(images, pose_bank(poses, size), settings.per_id, settings.seed, size)


def _generate(settings: GenerateSettings, console: Console, weights: Weights) -> Exit:
    index, count = parse_worker(settings.worker)
    height, width = weights.image_size
    plan = plan_of(settings, (width, height))
    if plan.num_without_torso:
        console.say(
            f"{plan.num_without_torso:,} of {len(plan.people):,} people have no image with both "
            "shoulders and both hips; their most complete ones serve",
            event="people_without_torso",
            people=plan.num_without_torso,
        )
    found = shards.read_run(settings.out)
    run = describe(settings, plan, weights, found)
    torch.set_num_threads(run.content.sampling.threads)
    if settings.dry_run:
        return _dry_run(run, plan, weights, console)
    run = shards.begin(settings.out, run)
    if settings.retry_failed:
        raise UserError("--retry-failed: not there yet")
    if shards.read_success(settings.out, run) is not None:
        console.say(f"{settings.out}: already complete ({run.rows:,} rows)", event="complete")
        return _code(settings.out)
    _work(settings, run, plan, weights, (index, count), console)
    if shards.finalise(settings.out, run, card(run, plan)) is None:
        console.say(f"worker {index} of {count}: done; other shards are missing", event="part_done")
        return Exit.DONE
    return _say_done(settings.out, run, console)


def _work(
    settings: GenerateSettings,
    run: Run,
    plan: Plan,
    weights: Weights,
    worker: tuple[int, int],
    console: Console,
) -> None:
    index, count = worker
    own = range(index, run.num_shards, count)
    missing = [shard for shard in own if shards.shard_state(settings.out, run, shard) != "complete"]
    if not missing:
        return
    sampler = load_sampler(weights, run)
    total, todo = (sum(_num_rows(run, shard) for shard in part) for part in (own, missing))
    console.say(
        f"{settings.out}: {todo:,} of {run.rows:,} images to make in {len(missing):,} shards "
        f"on {sampler.kind}",
        event="begin",
        rows=todo,
        shards=len(missing),
        device=sampler.kind,
    )
    with console.progress("generate", total, start=total - todo) as bar:
        work(settings.out, run, plan, sampler, missing, bar, fail=settings.on_error == "fail")


def load_sampler(weights: Weights, run: Run) -> Sampler:
    """Return the network, prepared as the run says."""
    device = torch.device(run.content.sampling.device)
    network = prepare_for_sampling(weights.load(device), run.content.sampling.precision)
    return Sampler(network, device)


def describe(settings: GenerateSettings, plan: Plan, weights: Weights, found: Run | None) -> Run:
    """Return the run that the settings ask for; what is 'auto' is as in ``found``, if given."""
    sampling = _sampling(settings, None if found is None else found.content.sampling)
    height, width = weights.image_size
    lossy = settings.image_format == "jpg"
    content = Content(
        generator=weights.generator,
        weights_sha256=weights.sha256,
        images_sha256=table_digest(plan.sources),
        poses_sha256=plan.bank.digest,
        per_id=settings.per_id,
        seed=settings.seed,
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
    if rows_per_shard == "auto":
        rows_per_shard = (
            found.rows_per_shard
            if found is not None
            else default_rows_per_shard(len(plan), sampling.batch_size)
        )
    return make_run(
        content, len(plan), rows_per_shard, settings.model_dump(mode="json"), _versions()
    )


def parse_worker(text: str | None) -> tuple[int, int]:
    """Return (index, count) of 'i/N'; without a text the only worker.

    >>> parse_worker("3/8")
    (3, 8)

    Raises:
        UserError: If it is not two numbers, the first below the second.
    """
    if text is None:
        return 0, 1
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise UserError(f"--worker: found '{text}', expected i/N with 0 <= i < N, such as 0/4")
    return int(index), int(count)


def _sampling(settings: GenerateSettings, found: Sampling | None) -> Sampling:
    device = settings.device
    if device == "auto":
        device = found.device if found else "cuda" if torch.cuda.is_available() else "cpu"
    precision = settings.precision
    if precision == "auto":
        precision = found.precision if found else _best_precision(device)
    batch_size = settings.batch_size
    if batch_size == "auto":
        batch_size = found.batch_size if found else 16 if device == "cpu" else 256
    threads = settings.threads
    if threads == "auto":
        threads = found.threads if found else torch.get_num_threads()
    return Sampling(
        device=device,
        precision=precision,
        batch_size=batch_size,
        threads=threads,
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        torch=torch.__version__,
    )


def _best_precision(device: str) -> Precision:
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "float32"
    # Without these instructions bf16 is emulated and slower than float32.
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()  # noqa: SLF001
    return "bf16" if has_bf16 else "float32"


def _dry_run(run: Run, plan: Plan, weights: Weights, console: Console) -> Exit:
    console.say(
        f"{run.rows:,} images of {len(plan.people):,} people in {run.num_shards:,} shards of "
        f"{run.rows_per_shard:,}",
        event="dry_run",
        rows=run.rows,
        shards=run.num_shards,
    )
    return Exit.DONE


def _num_rows(run: Run, shard: int) -> int:
    start, stop = run.shard_rows(shard)
    return stop - start


def _code(out: Path) -> Exit:
    return Exit.ROW_ERRORS if shards.num_errors(out) else Exit.DONE


def _say_done(out: Path, run: Run, console: Console) -> Exit:
    errors = shards.num_errors(out)
    told = f", {errors:,} rows failed (their 'error' says why)" if errors else ""
    console.say(f"{out}: complete, {run.rows:,} rows{told}", event="complete", errors=errors)
    return Exit.ROW_ERRORS if errors else Exit.DONE


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pyarrow": pa.__version__,
    }
