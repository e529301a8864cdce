"""Several processes on one training, as torchrun starts them: each takes its part of every batch.

The loss of a batch is not a sum over parts (weights are normalised and triplets mined over the
whole of it), so outputs are gathered and every process computes the whole loss; its gradient
flows through its own part alone.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

# Takes today's default group, none, into its functions' defaults. Imported in passing while a run
# has one, it would keep that one's threads alive, which may abort the process as it leaves.
import torch.distributed.nn  # pyright: ignore[reportUnusedImport]
from jaxtyping import Float
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from manifests.runtime.console import UserError


@dataclass(frozen=True, slots=True)
class Group:
    """Process ``rank`` of ``size``; alone it changes nothing."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Return whether this process writes."""
        return self.rank == 0

    def part(self, count: int) -> slice:
        """Return this process's part of ``count`` rows.

        >>> Group(1, 2).part(8)
        slice(4, 8, None)

        Raises:
            UserError: If the rows do not divide evenly, or come to one each of several processes,
                which batch normalisation cannot do with.
        """
        each, rest = divmod(count, self.size)
        if rest or each < min(2, self.size):
            raise UserError(
                f"--batch-size {count} over {self.size} processes; expected a multiple of their "
                "number, two images or more for each"
            )
        return slice(self.rank * each, (self.rank + 1) * each)

    def gather(self, rows: Float[Tensor, "part width"]) -> Float[Tensor, "batch width"]:
        """Return the rows of all processes in order of rank; a gradient reaches only the own."""
        if self.size == 1:
            return rows
        rows = rows.float()
        parts = [torch.empty_like(rows) for _ in range(self.size)]
        distributed.all_gather(parts, rows.detach().contiguous())
        parts[self.rank] = rows
        return torch.cat(parts)

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.size > 1:
            distributed.barrier()

    def wrap(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Return the network with its gradients averaged over processes, if there are several.

        On CUDA its batch normalisation becomes one over all of them; on the CPU every process
        normalises its own part, and the leading one's statistics are kept.
        """
        if self.size == 1:
            return network
        if device.type != "cuda":
            return DistributedDataParallel(network)
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return DistributedDataParallel(network, device_ids=[torch.cuda.current_device()])


@contextmanager
def joined(device: torch.device) -> Generator[Group]:
    """Join the processes that torchrun started; alone without it.

    Raises:
        UserError: If there are more of them on this machine than CUDA devices.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "MASTER_ADDR" not in os.environ:
        yield Group()
        return
    if device.type == "cuda":
        own, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if own >= count:
            raise UserError(
                f"torchrun: found process {own + 1} on a machine of {count} CUDA devices, expected "
                f"--nproc-per-node {count} at most, or --device cpu"
            )
        torch.cuda.set_device(own)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Group(distributed.get_rank(), size)
    finally:
        distributed.destroy_process_group()
