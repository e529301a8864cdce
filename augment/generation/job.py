"""``augment generate``: the whole batch job in one process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import numpy as np

from augment.generation import manifest, shards
from augment.generation.data_card import card
from augment.generation.demo_people import made_up_people
from augment.generation.plan import GenerationPlan
from augment.generation.resolve import (
    Weights,
    open_weights,
    own_device,
    plan_of,
    resolve,
    resolve_again,
)
from augment.generation.run_config import RunConfig, begin, is_begun, read_run_config
from augment.generation.sampler import Sampler, prepare_for_sampling
from augment.generation.settings import DEFAULT_WEIGHTS, SAMPLE_WEIGHTS, GenerateSettings
from augment.generation.worker import Job, sample_cost, work
from manifests.compute.devices import cpu_threads
from manifests.io import Images
from manifests.runtime import cluster
from manifests.runtime.console import Console, Exit, Stopped, UserError, duration
from manifests.runtime.signals import stopping
from manifests.runtime.storage import StoragePath

NUM_IMAGES_LOOKED_FOR: Final = 16


@dataclass(frozen=True, slots=True)
class Executor:
    """How a run is begun and how its shards are made: in this process, or on Ray."""

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
        console: Where progress and the outcome are reported.
        weights: The network; by default ``settings.weights`` is opened.
        executor: What does it; by default this process.

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
        _say_stopped(settings.out, stopped.code, console)
        return stopped.code


def _say_stopped(out: StoragePath, code: Exit, console: Console) -> None:
    kept = rows = 0
    with suppress(UserError):  # a folder that was about to be refused
        if (run := read_run_config(out)) is not None:
            kept, rows = shards.num_rows_kept(out, run), run.content.rows
    what = f"; {kept:,} of {rows:,} images are kept" if rows else ""
    again = ", the rest of a shard that was being made is made again" if kept < rows else ""
    console.say(
        f"{out}: stopped{what}{again}; the same command goes on from here",
        event="stopped",
        code=int(code),
        kept=kept,
        rows=rows,
    )


def _generate(
    settings: GenerateSettings, console: Console, weights: Weights | None, executor: Executor
) -> Exit:
    worker = cluster.worker_index(settings.worker, os.environ, settings.num_workers)
    cluster.introduce(worker, console)
    if settings.images is None:
        images = made_up_people(settings.out, console)
        name = settings.weights or SAMPLE_WEIGHTS
        settings = settings.model_copy(update={"images": images, "weights": name})
    weights = weights or open_weights(settings.weights or DEFAULT_WEIGHTS)
    plan = plan_of(settings, weights)
    if weights.about:
        console.say(weights.about, event="weights")
    _say_about(plan, console)
    if settings.dry_run:
        run = resolve(settings, plan, weights, read_run_config(settings.out))
        is_begun(settings.out, run)  # what the real run would refuse is refused now
        job = job_of(settings, run, plan, weights)
        if not is_finished(settings.out, run):
            check_images_exist(job)
        return _dry_run(job, weights, console)
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
    if manifest.finalise(job.out, run, card(run, plan)) is None:
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
    run = resolve(settings, plan, weights, found)
    try:
        begin(settings.out, run, made_from)
    except UserError:
        created = read_run_config(settings.out)
        if found is not None or created is None:
            raise
        # Another worker created the run in between.
        run = resolve_again(run, settings, created)
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
        needs=weights.needs,
        fail=settings.on_error == "fail",
        device=settings.device,
    )


def open_sampler(job: Job, weights: Weights) -> Sampler:
    """Return the network, made ready on this worker's device."""
    sampling = job.run.content.sampling
    device = own_device(sampling.device if job.device == "auto" else job.device)
    network = prepare_for_sampling(weights.load(device), sampling.precision)
    options = weights.system.Options.from_json(json.dumps(job.run.content.options))
    return Sampler(network, device, options, sampling.compiled)


def make_here(job: Job, weights: Weights, numbers: Sequence[int], console: Console) -> None:
    """Make these shards in this process.

    Raises:
        UserError: If none of the images that are looked for exists, a shard cannot be written, or
            a row fails under ``--on-error fail``.
    """
    if not numbers:
        return
    check_images_exist(job)
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


def check_images_exist(job: Job) -> None:
    """Refuse folders that hold none of a few images: every row would fail.

    Raises:
        UserError: With the first of them.
    """
    if not job.plan.are_new:
        _check_exist(job.plan.sources, "source images")
    if job.needs & {"target_image", "background"} and not job.plan.own_streets:
        _check_exist(job.plan.bank.images, "images of target poses")


def _check_exist(images: Images, kind: str) -> None:
    rows = np.unique(np.linspace(0, len(images) - 1, NUM_IMAGES_LOOKED_FOR).astype(int)).tolist()
    if not any(images.file(row).exists() for row in rows):
        raise UserError(
            f"{images.root}: found none of {len(rows)} {kind} that were looked for, the "
            f"first {images.file(0)}; expected the folder of the images (--root)"
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


def _say_about(plan: GenerationPlan, console: Console) -> None:
    if plan.at_test_time:
        console.say(
            f"{len(plan.sources):,} query and gallery images, each in {plan.per_id} poses, for "
            f"'reid score --centralise' alone; {plan.num_left_out:,} are left out for want of "
            f"{plan.left_out_for}",
            event="test_images",
            images=len(plan.sources),
            left_out=plan.num_left_out,
        )
    if plan.num_without_torso:
        console.say(
            f"{plan.num_without_torso:,} of {len(plan.people):,} people have no image with both "
            "shoulders and both hips; their most complete images serve as sources",
            event="people_without_torso",
            people=plan.num_without_torso,
        )
    if plan.num_without_mask:
        console.say(
            f"{plan.num_without_mask:,} people are left out: no image of theirs has "
            f"{plan.left_out_for}",
            event="people_without_mask",
            people=plan.num_without_mask,
        )


def _dry_run(job: Job, weights: Weights, console: Console) -> Exit:
    """Say what would be made; the time is that of two batches, extrapolated."""
    sampler = open_sampler(job, weights)
    with cpu_threads(job.run.content.sampling.threads):
        seconds, bytes_per_row = sample_cost(job, sampler)
    run, num_people = job.run, len(job.plan.people)
    rows = run.content.rows
    whose = "test images" if job.plan.at_test_time else "people"
    console.say(
        f"{rows:,} images: {num_people:,} {whose} x {run.content.per_id:,}, in "
        f"{run.num_shards:,} shards of {run.rows_per_shard:,}; about "
        f"{rows * bytes_per_row / 1e6:,.1f} MB and {duration(rows * seconds)} "
        f"({1 / seconds:,.1f} img/s) on one {sampler.kind}",
        event="dry_run",
        rows=rows,
        people=num_people,
        shards=run.num_shards,
        megabytes=round(rows * bytes_per_row / 1e6, 3),
        seconds=round(rows * seconds, 3),
    )
    return Exit.DONE


def _say_done(job: Job, console: Console, how: str) -> Exit:
    errors = shards.num_errors(job.out / shards.MANIFEST_NAME)
    rows = job.run.content.rows
    failed = f", {errors:,} of them failed (the column 'error' says why)" if errors else ""
    console.say(f"{job.out}: {how}, {rows:,} rows{failed}", event="complete", errors=errors)
    if not errors:
        console.suggest("augment", "preview", job.out, "--out", "preview.png")
    return Exit.ROW_ERRORS if errors else Exit.DONE
