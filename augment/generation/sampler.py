"""A network made ready for sampling: fewer operations, the same images."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from augment.interface.condition import Condition
from augment.interface.randomness import RowRandom
from augment.interface.system import PoseTransfer
from augment.pose.pose import Pose
from manifests.compute.devices import device_class
from manifests.compute.precision import Precision
from manifests.runtime.console import UserError
from manifests.runtime.settings import Frozen

Convolution = nn.Conv2d | nn.ConvTranspose2d
Generate = Callable[[Condition, RowRandom], Tensor]

COMPILE_MIN_ROWS: Final = 5_000_000
"""From how many images of a worker on compiling is taken to repay itself on a GPU.

An assumption until one is measured: a minute of compiling, a tenth saved, 8,000 img/s; then
60 s x 8,000 / 0.1 = 4.8 million images give back the minute.
"""


@dataclass(frozen=True, slots=True)
class Sampler:
    """A prepared network and where it runs."""

    network: PoseTransfer
    device: torch.device
    options: Frozen
    """Of the network's class ``Options``."""
    compiled: bool = False

    def generator(self) -> Generate:
        """Return what makes a batch of images; all batches must have one size if it is compiled.

        A compiled one takes its time at the first batch. On a GPU its output is overwritten by the
        next batch: what reads it must be queued on the device before that.
        """
        if self.compiled:
            return _compiled(self.network, self.device, self.options)
        return lambda condition, random: self.network.generate(condition, random, self.options)

    def draw_people(self, who: RowRandom, random: RowRandom, target_pose: Pose) -> Tensor:
        """Return images of people who do not exist; never compiled."""
        return self.network.new_people(who, random, target_pose)

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

    An identity replaces the norm, so names and indices stay.
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


def repays_compiling(device: torch.device, num_rows: int) -> bool:
    """Return whether a worker has enough rows to compile its network, and a device for it.

    Never on a CPU, where compiled networks were measured to be slower.
    """
    # Inductor writes its GPU kernels in Triton, which does not come with every torch.
    has_triton = importlib.util.find_spec("triton") is not None
    return device.type == "cuda" and has_triton and num_rows >= COMPILE_MIN_ROWS


def _compiled(network: PoseTransfer, device: torch.device, options: Frozen) -> Generate:
    """Return ``network.generate`` as fused kernels; on a GPU a batch is one replayed CUDA graph."""
    # Importing it takes a second, which only those who compile shall pay.
    from torch._dynamo.exc import TorchDynamoException

    on_gpu = device.type == "cuda"
    mode = "reduce-overhead" if on_gpu else "default"
    compiled = torch.compile(network.generate, dynamic=False, mode=mode)

    def generate(condition: Condition, random: RowRandom) -> Tensor:
        if on_gpu:
            # The output of the batch before may be overwritten from here on.
            torch.compiler.cudagraph_mark_step_begin()
        try:
            return compiled(condition, random, options)
        except TorchDynamoException as error:
            why = str(error).strip().splitlines()[0]
            raise UserError(
                f"--compile: the network could not be compiled here ({why}); expected a C++ "
                "compiler, and Triton on a GPU; or take --compile no and another --out"
            ) from error

    return generate


@contextmanager
def sampling_mode(device: torch.device, precision: Precision) -> Generator[None]:
    """No gradients, and autocast to bf16 where ``precision`` says so, while the block runs.

    Of several GPUs the one meant is the current one, whose streams and events are used.
    """
    with (
        torch.cuda.device(device) if device.type == "cuda" else nullcontext(),
        torch.inference_mode(),
        torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"),
    ):
        yield
