"""Training by several processes, as torchrun starts them: who this process is, what all exchange.

A process that nobody started as one of several, ``SINGLE_PROCESS``, exchanges nothing.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch
import torch.distributed as dist

# Takes today's default group, none, into its functions' defaults. Imported in passing while a run
# has one, it would keep that one's threads alive, which may abort the process as it leaves.
import torch.distributed.nn  # pyright: ignore[reportUnusedImport]
from torch import Tensor

from manifests.runtime.cluster import check_one_training
from manifests.runtime.console import UserError

TORCHRUN_SETS: Final = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """Process ``rank`` of ``size`` that train together; ``init_distributed`` makes it."""

    rank: int = 0
    size: int = 1

    @property
    def is_primary(self) -> bool:
        """Whether this process writes the files and reports progress."""
        return self.rank == 0

    def part(self, batch_size: int) -> slice:
        """Return which rows of a whole batch are this process's.

        >>> ProcessGroup(1, 4).part(8)
        slice(2, 4, None)
        """
        each = batch_size // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over all processes, in place of the values."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def mean(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the means over all processes of scalars, by one exchange."""
        if self.size == 1 or not values:
            return dict(values)
        means = self.sum(torch.stack(list(values.values()))) / self.size
        return dict(zip(values, means, strict=True))

    def any(self, flag: bool) -> bool:
        """Return whether it is true in any process; the device is not waited for."""
        if self.size == 1:
            return flag
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags)

    def barrier(self) -> None:
        """Return when every process has come here; the device is not waited for."""
        self.any(False)

    def all_gather(self, values: Tensor) -> list[Tensor]:
        """Return the values of all processes in order of rank; no gradient passes."""
        if self.size == 1:
            return [values]
        values = values.detach().contiguous()
        parts = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(parts, values)
        return parts


SINGLE_PROCESS: Final = ProcessGroup()


@contextmanager
def init_distributed(
    device: torch.device, environ: Mapping[str, str] | None = None
) -> Generator[ProcessGroup]:
    """Initialise torch's process group, if torchrun started several, while the block runs.

    Args:
        device: This process's own, by ``rank_device``.
        environ: Where torchrun says who we are; the process's by default.
    """
    environ = os.environ if environ is None else environ
    size = int(environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield SINGLE_PROCESS
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Flags are exchanged on the host even where gradients are on GPUs.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    group = ProcessGroup(dist.get_rank(), size)
    try:
        yield group
        # Whoever leaves first with an error code has the others killed: leave together.
        group.barrier()
    finally:
        dist.destroy_process_group()
        # DistributedDataParallel holds the group in a reference cycle; threads of the group that
        # outlive it may abort the process as it leaves.
        gc.collect()


def rank_device(setting: str, environ: Mapping[str, str] | None = None) -> str:
    """Return the name of this process's device: with several GPUs each process has its own.

    Raises:
        UserError: If processes were to share a GPU, something else than torchrun set
            ``WORLD_SIZE``, or srun started several of which each would train the same run.
    """
    environ = os.environ if environ is None else environ
    check_one_training(environ)
    if environ.get("WORLD_SIZE", "1") == "1":
        return setting
    missing = [name for name in TORCHRUN_SETS if name not in environ]
    if missing:
        raise UserError(
            f"found WORLD_SIZE={environ['WORLD_SIZE']} but no {', '.join(missing)}; expected "
            "torchrun to start several processes"
        )
    if setting.startswith("cuda:"):
        raise UserError(
            f"--device {setting}: found {environ['WORLD_SIZE']} processes for one GPU; expected "
            "auto, cuda or cpu"
        )
    num_gpus = torch.cuda.device_count()
    if setting == "cpu" or (setting == "auto" and not num_gpus):
        return setting
    local_rank = int(environ["LOCAL_RANK"])
    if 0 < num_gpus <= local_rank:
        raise UserError(
            f"torchrun: found process {local_rank + 1} on a machine of {num_gpus} CUDA devices, "
            f"expected --nproc-per-node {num_gpus} at most, or --device cpu"
        )
    return f"cuda:{local_rank}"
