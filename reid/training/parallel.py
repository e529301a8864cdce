"""What several processes that train one re-ID network exchange.

The loss of a batch is not a sum over parts (weights are normalised and triplets mined over the
whole of it), so outputs are gathered and every process computes the whole loss; its gradient
flows through its own part alone.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from manifests.compute.distributed import ProcessGroup
from manifests.runtime.console import UserError


def batch_part(batch_size: int, group: ProcessGroup, what: str = "--batch-size") -> slice:
    """Return which rows of a batch are this process's.

    Args:
        batch_size: Rows of all processes together.
        group: The processes.
        what: What the rows are, for messages.

    Raises:
        UserError: If the rows do not divide evenly, or come to one each of several processes,
            which batch normalisation cannot do with.
    """
    if batch_size % group.size or batch_size // group.size < min(2, group.size):
        raise UserError(
            f"{what} {batch_size} over {group.size} processes; expected a multiple of their "
            "number, two images or more for each"
        )
    return group.part(batch_size)


def gather_rows(
    rows: Float[Tensor, "part width"], group: ProcessGroup
) -> Float[Tensor, "batch width"]:
    """Return the rows of all processes in order of rank; a gradient reaches only this one's."""
    if group.size == 1:
        return rows
    rows = rows.float()
    parts = group.all_gather(rows)
    parts[group.rank] = rows
    return torch.cat(parts)


def data_parallel(network: nn.Module, group: ProcessGroup, device: torch.device) -> nn.Module:
    """Return the network with its gradients averaged over processes, if there are several.

    On CUDA its batch normalisation becomes one over all of them; on the CPU every process
    normalises its own part, and the primary one's statistics are kept. So nobody waits for
    statistics of another: the wrapper would overwrite them before every forward pass, those that
    the backward pass of the first of two still needs.
    """
    if group.size == 1:
        return network
    if device.type != "cuda":
        return DistributedDataParallel(network, broadcast_buffers=False)
    network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    here = [torch.cuda.current_device()]
    return DistributedDataParallel(network, device_ids=here, broadcast_buffers=False)
