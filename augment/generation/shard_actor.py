"""The shard actor: a worker that gets its shards one by one, in whatever process it runs."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

from augment.generation.job import begin_or_join, check_images_exist, job_of, open_sampler
from augment.generation.reading import PlannedBatch, ShardInProgress
from augment.generation.resolve import Weights, open_weights, plan_of
from augment.generation.settings import DEFAULT_WEIGHTS, GenerateSettings
from augment.generation.worker import Job, ShardPipeline, finish
from manifests.compute.devices import cpu_threads


class ShardActor:
    """Makes the shards of one run; several calls of ``make`` may run at once.

    One thread of its own computes, so that the next shard goes through the network while the one
    before is encoded and written.
    """

    def __init__(self, settings: GenerateSettings, weights: Weights | None) -> None:
        self._settings = settings
        self._weights = weights
        self._compute = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._job: Job | None = None
        self._pipeline: tuple[ShardPipeline, str] | None = None

    def begin(self) -> str:
        """Begin the run or join it; return it as JSON.

        Raises:
            UserError: If an input is bad, or the folder belongs to another run.
        """
        plan = plan_of(self._settings, self._network())
        run = begin_or_join(self._settings, plan, self._network())
        self._job = job_of(self._settings, run, plan, self._network())
        return run.to_json()

    def make(self, shard: int) -> int:
        """Make a shard, publish it, and return its number of rows.

        Raises:
            UserError: If it cannot be written, a row fails under ``--on-error fail``, or none of
                the images that are looked for is seen from here.
        """
        assert self._job is not None, "an actor begins before it makes"
        if self._pipeline is None:
            check_images_exist(self._job)
        # Planned and read while the shard before computes.
        batches = self._job.read([shard])
        made, kind = self._compute.submit(self._start, self._job, batches).result()
        finish(self._job, made, kind)
        return len(made.rows)

    def _network(self) -> Weights:
        if self._weights is None:
            self._weights = open_weights(self._settings.weights or DEFAULT_WEIGHTS)
        return self._weights

    def _start(self, job: Job, batches: Generator[PlannedBatch]) -> tuple[ShardInProgress, str]:
        sampling = job.run.content.sampling
        if self._pipeline is None:
            sampler = open_sampler(job, self._network())
            self._pipeline = ShardPipeline(job, sampler), sampler.kind
        pipeline, kind = self._pipeline
        with cpu_threads(sampling.threads):
            (shard,) = pipeline.start(batches, _Nothing())
        return shard, kind


class _Nothing:
    """Counts nothing: the driver counts whole shards."""

    def advance(self, count: int = 1) -> None:
        del count
