"""A network made ready for sampling: fewer operations, the same images."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, UInt64
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from augment.devices import device_class
from augment.generation.run import Precision
from augment.transfer import PoseTransfer
from manifests.draws import draws

Convolution = nn.Conv2d | nn.ConvTranspose2d


@dataclass(frozen=True, slots=True)
class Sampler:
    """A prepared network and where it runs."""

    network: PoseTransfer
    device: torch.device

    @property
    def kind(self) -> str:
        """The device class; images are byte-identical within one."""
        return device_class(self.device)


def prepare_for_sampling(network: PoseTransfer, precision: Precision) -> PoseTransfer:
    """Change a network in place into one that only generates, and return it.

    Evaluation mode, batch normalisation folded into the convolution before it, channels-last
    weights; in bf16 the weights of convolutions and linear layers are rounded once.
    """
    network.eval().requires_grad_(requires_grad=False)
    fold_batch_norms(network)
    for module in network.modules():
        if isinstance(module, Convolution):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    if precision == "bf16":
        for module in network.modules():
            if isinstance(module, Convolution | nn.Linear):
                module.to(torch.bfloat16)
    return network


def fold_batch_norms(network: nn.Module) -> int:
    """Fold every batch norm that follows a convolution in a sequence; return how many.

    The norm's place is kept by an identity, so names and indices stay.
    """
    count = 0
    for sequence in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        for (name, first), (after, second) in pairwise(list(sequence.named_children())):
            if not isinstance(first, Convolution) or not isinstance(second, nn.BatchNorm2d):
                continue
            if second.running_mean is None:
                continue
            transposed = isinstance(first, nn.ConvTranspose2d)
            setattr(sequence, name, fuse_conv_bn_eval(first, second, transpose=transposed))
            setattr(sequence, after, nn.Identity())
            count += 1
    return count


@contextmanager
def sampling_mode(device: torch.device, precision: Precision) -> Generator[None]:
    """No gradients, and bf16 arithmetic where asked for, while the block runs."""
    with (
        torch.inference_mode(),
        torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"),
    ):
        yield


def noise_of(seeds: UInt64[np.ndarray, " rows"], width: int) -> Float[Tensor, "rows width"] | None:
    """Return standard normal numbers that follow from each row's seed alone; none for width 0.

    The polar form of Box and Muller (1958) on raw 64-bit draws.
    """
    if width == 0:
        return None
    uniforms = np.stack([draws(int(seed), "noise", 2 * width) for seed in seeds])
    # 53 bits, away from 0 where the logarithm ends.
    halves = ((uniforms >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
    radius = np.sqrt(-2.0 * np.log(halves[:, :width]))
    normal = radius * np.cos(2.0 * np.pi * halves[:, width:])
    return torch.from_numpy(normal.astype(np.float32))
