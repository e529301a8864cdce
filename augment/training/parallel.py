"""Training on several devices: one process, a rank, for each; torchrun starts them.

Every rank holds the whole network and all images and computes its part of every batch. Gradients
and batch statistics are those of the whole batch, so that all ranks make the same update and only
the pools of past fakes differ. One process alone needs nothing of this: its ranks, ``ALONE``, do
not communicate.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.distributed as dist

# Takes today's default group, none, into its functions' defaults. Imported in passing while a run
# has one, it would keep that one's threads alive, which may abort the process as it leaves.
import torch.distributed.nn  # pyright: ignore[reportUnusedImport]
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from augment.interface.schedule import Stage
from augment.objectives.adversarial import ImagePool
from manifests.runtime.console import UserError

TORCHRUN_SETS: Final = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process is rank ``index`` of ``count``; a sole one unless ``joined`` made it."""

    index: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this rank writes the files and speaks."""
        return self.index == 0

    def part(self, batch_size: int) -> slice:
        """Return which rows of a whole batch are this rank's.

        >>> Ranks(1, 4).part(8)
        slice(2, 4, None)
        """
        size = batch_size // self.count
        return slice(self.index * size, (self.index + 1) * size)

    def check_even_shares(self, stages: Sequence[Stage]) -> None:
        """Check that every batch can be split evenly.

        Raises:
            UserError: If one cannot; names the stage.
        """
        for stage in stages:
            if stage.batch_size % self.count:
                raise UserError(
                    f"stage '{stage.name}' has batches of {stage.batch_size}, which {self.count} "
                    "processes cannot split evenly; expected a number of processes that divides it"
                )

    def averaged(self, gradients: list[Tensor]) -> list[Tensor]:
        """Return the means over all ranks, by one exchange; strides stay."""
        if self.count == 1:
            return gradients
        flat = gradients[0].new_empty(sum(gradient.numel() for gradient in gradients))
        means: list[Tensor] = []
        begin = 0
        for gradient in gradients:
            place = flat.as_strided(gradient.size(), gradient.stride(), begin)
            means.append(place.copy_(gradient))
            begin += gradient.numel()
        dist.all_reduce(flat)
        flat.div_(self.count)
        return means

    def mean(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the means over all ranks of single numbers."""
        if self.count == 1 or not values:
            return dict(values)
        stacked = torch.stack(list(values.values()))
        dist.all_reduce(stacked)
        return dict(zip(values, stacked / self.count, strict=True))

    def any(self, flag: bool) -> bool:
        """Return whether it is true on any rank; the device is not waited for."""
        if self.count == 1:
            return flag
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags)

    def pools(self, network: nn.Module) -> list[dict[str, Tensor]] | None:
        """Return the pools of all ranks to the first one, None to the others."""
        mine = _pools(network)
        found: list[dict[str, Tensor]] = [{} for _ in range(self.count)]
        for name, value in mine.items():
            parts = [torch.empty_like(value) for _ in range(self.count)] if self.first else None
            dist.gather(value, parts)
            for rank, part in enumerate(parts or []):
                found[rank][name] = part
        return found if self.first else None

    def restore_pools(self, network: nn.Module, pools: Sequence[Mapping[str, Tensor]]) -> None:
        """Give this rank back its pools of what ``pools`` returned."""
        network.load_state_dict(pools[self.index], strict=False)


ALONE: Final = Ranks()
"""The sole process of a run."""


@contextmanager
def joined(device: torch.device, environ: Mapping[str, str] | None = None) -> Generator[Ranks]:
    """Take part in the run that torchrun started, if it did, while the block runs.

    Args:
        device: This rank's own, by ``rank_device``.
        environ: Where torchrun says who we are; the process's by default.
    """
    environ = os.environ if environ is None else environ
    count = int(environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Flags are exchanged on the host even where gradients are on GPUs.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    ranks = Ranks(dist.get_rank(), count)
    try:
        yield ranks
        # Whoever leaves first with an error code has the others killed: leave together.
        ranks.any(False)
    finally:
        dist.destroy_process_group()


def rank_device(setting: str, environ: Mapping[str, str] | None = None) -> str:
    """Return the name of this rank's device: with several GPUs each rank has its own.

    Raises:
        UserError: If all ranks were to share one GPU, or something else than torchrun set
            ``WORLD_SIZE``.
    """
    environ = os.environ if environ is None else environ
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
    on_gpus = setting == "cuda" or (setting == "auto" and torch.cuda.is_available())
    return f"cuda:{environ['LOCAL_RANK']}" if on_gpus else setting


def synchronise(network: nn.Module, ranks: Ranks, device: torch.device) -> None:
    """Let a network's batch normalisations take their statistics over all ranks.

    ``nn.SyncBatchNorm`` refuses tensors on the CPU, where ``WholeBatchNorm`` takes its place.
    """
    if ranks.count == 1:
        return
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, WholeBatchNorm(child, ranks))


class WholeBatchNorm(nn.Module):
    """Batch normalisation with the statistics of the whole batch, for any device.

    Takes over parameters, buffers and their names. Every rank must hold as many images.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, alone: nn.BatchNorm2d, ranks: Ranks) -> None:
        super().__init__()
        self.weight, self.bias = alone.weight, alone.bias
        for name, value in alone.named_buffers():
            self.register_buffer(name, value)
        self._ranks = ranks
        self._eps = alone.eps
        self._momentum = alone.momentum if alone.momentum is not None else 0.1

    def forward(
        self, features: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the features with mean 0 and variance 1 per channel, scaled and shifted."""
        if not self.training:
            return F.batch_norm(
                features, self.running_mean, self.running_var, self.weight, self.bias, eps=self._eps
            )
        # Statistics in bf16 would be worth three digits.
        x = features.to(self.weight.dtype)
        var, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
        means, variances = _Gathered.apply(torch.stack([mean, var]), self._ranks).unbind(1)
        mean = means.mean(0)
        var = (variances + (means - mean) ** 2).mean(0)
        self._remember(mean.detach(), var.detach(), x.numel() // len(mean) * self._ranks.count)
        scale = self.weight * torch.rsqrt(var + self._eps)
        shift = self.bias - mean * scale
        return (x * scale[:, None, None] + shift[:, None, None]).to(features.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, var: Tensor, count: int) -> None:
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self._momentum)
        self.running_var.lerp_(var * (count / (count - 1)), self._momentum)


class _Gathered(torch.autograd.Function):
    """Every rank's value, stacked; a gradient comes back from every rank."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, ranks: Ranks) -> Tensor:
        ctx.rank = ranks.index
        parts = [torch.empty_like(value) for _ in range(ranks.count)]
        dist.all_gather(parts, value.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total[ctx.rank], None


def _pools(network: nn.Module) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": value
        for name, module in network.named_modules()
        if isinstance(module, ImagePool)
        for key, value in module.named_buffers()
    }
