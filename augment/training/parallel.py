"""What several processes that train one network exchange: gradients, batch statistics, pools.

Every process holds the whole network and all images and computes its part of every batch.
Gradients and batch statistics are those of the whole batch, so that all processes make the same
update and only the pools of past fakes differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from augment.interface.schedule import Stage
from augment.objectives.adversarial import ImagePool
from manifests.compute.distributed import ProcessGroup
from manifests.runtime.console import UserError


def check_batches_divide(stages: Sequence[Stage], group: ProcessGroup) -> None:
    """Check that every batch can be split evenly over the processes.

    Raises:
        UserError: If one cannot; names the stage.
    """
    for stage in stages:
        if stage.batch_size % group.size:
            raise UserError(
                f"stage '{stage.name}' has batches of {stage.batch_size}, which {group.size} "
                "processes cannot split evenly; expected a number of processes that divides it"
            )


def mean_gradients(gradients: list[Tensor], group: ProcessGroup) -> list[Tensor]:
    """Return the means over all processes, by one exchange; strides stay."""
    if group.size == 1:
        return gradients
    flat = gradients[0].new_empty(sum(gradient.numel() for gradient in gradients))
    means: list[Tensor] = []
    begin = 0
    for gradient in gradients:
        view = flat.as_strided(gradient.size(), gradient.stride(), begin)
        means.append(view.copy_(gradient))
        begin += gradient.numel()
    group.sum(flat).div_(group.size)
    return means


def gather_pools(network: nn.Module, group: ProcessGroup) -> list[dict[str, Tensor]] | None:
    """Return the image pools of all processes to the primary one, None to the others."""
    pools: list[dict[str, Tensor]] = [{} for _ in range(group.size)]
    for name, value in _pool_buffers(network).items():
        parts = [torch.empty_like(value) for _ in range(group.size)] if group.is_primary else None
        dist.gather(value, parts)
        for rank, part in enumerate(parts or []):
            pools[rank][name] = part
    return pools if group.is_primary else None


def restore_pools(
    network: nn.Module, pools: Sequence[Mapping[str, Tensor]], group: ProcessGroup
) -> None:
    """Give this process back its pools of what ``gather_pools`` returned."""
    network.load_state_dict(pools[group.rank], strict=False)


def _pool_buffers(network: nn.Module) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": value
        for name, module in network.named_modules()
        if isinstance(module, ImagePool)
        for key, value in module.named_buffers()
    }


def synchronise_batch_norm(network: nn.Module, group: ProcessGroup, device: torch.device) -> None:
    """Let a network's batch normalisations take their statistics over all processes.

    ``nn.SyncBatchNorm`` refuses tensors on the CPU, where ``WholeBatchNorm`` takes its place.
    """
    if group.size == 1:
        return
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, WholeBatchNorm(child, group))


class WholeBatchNorm(nn.Module):
    """Batch normalisation with the statistics of the whole batch, for any device.

    Takes over parameters, buffers and their names. Every process must hold as many images.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, local: nn.BatchNorm2d, group: ProcessGroup) -> None:
        super().__init__()
        self.weight, self.bias = local.weight, local.bias
        for name, value in local.named_buffers():
            self.register_buffer(name, value)
        self._group = group
        self._tracks = local.track_running_stats
        self._eps = local.eps
        self._momentum = local.momentum if local.momentum is not None else 0.1

    def forward(
        self, features: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the features with mean 0 and variance 1 per channel, scaled and shifted."""
        if not self.training and self._tracks:
            return F.batch_norm(
                features, self.running_mean, self.running_var, self.weight, self.bias, eps=self._eps
            )
        # Statistics in bf16 would be worth three digits.
        x = features.to(self.weight.dtype)
        var, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
        means, variances = _AllGather.apply(torch.stack([mean, var]), self._group).unbind(1)
        mean = means.mean(0)
        var = (variances + (means - mean) ** 2).mean(0)
        if self._tracks:
            count = x.numel() // len(mean) * self._group.size
            self._update_running_statistics(mean.detach(), var.detach(), count)
        scale = self.weight * torch.rsqrt(var + self._eps)
        shift = self.bias - mean * scale
        return (x * scale[:, None, None] + shift[:, None, None]).to(features.dtype)

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, var: Tensor, count: int) -> None:
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self._momentum)
        self.running_var.lerp_(var * (count / (count - 1)), self._momentum)


class _AllGather(torch.autograd.Function):
    """The values of all processes, stacked; a gradient comes back from every process."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return torch.stack(group.all_gather(value))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.group.sum(gradients[0].contiguous())[ctx.group.rank], None
