"""The one training loop: stages and phases are data, every system runs through it.

All randomness of a step follows from (seed, step, rank of the process), so a stopped run goes on
bit by bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from augment.interface.condition import Pair
from augment.interface.schedule import Adam, Phase, Stage
from augment.interface.system import PoseTransfer
from augment.training.ema import EMA
from augment.training.pairs import TrainingImages
from augment.training.parallel import (
    check_batches_divide,
    gather_pools,
    mean_gradients,
    restore_pools,
    synchronise_batch_norm,
)
from augment.training.rmsprop import TensorFlowRMSProp
from manifests.compute.distributed import SINGLE_PROCESS, ProcessGroup
from manifests.compute.precision import Auto, Precision, settled_precision
from manifests.runtime.console import UserError
from manifests.runtime.json_files import is_whole
from manifests.runtime.random_numbers import random_bits
from manifests.runtime.settings import AboveZero, Count, Frozen


class LoopSettings(Frozen):
    """What the loop adds to a system's own recipe."""

    seed: Count = 0
    """Of the first weights, the pairs and all else that is random."""
    precision: Auto | Precision = "auto"
    """Arithmetic of the networks, bf16 or float32; auto: bf16 where the device computes in it.
    Losses, weights and optimisers stay float32."""
    channels_last: bool = True
    """Channels lie innermost in memory: faster convolutions."""
    compile: bool = False
    """Compile the networks; repays itself in runs of an hour and more."""
    ema_half_life_images: AboveZero = 10_000.0
    """The saved weights are an exponential moving average (EMA) with this half-life."""


@dataclass(slots=True)
class Trainer:
    """A network in training: its optimisers, its EMA, how far it has come."""

    network: PoseTransfer
    images: TrainingImages
    settings: LoopSettings
    device: torch.device
    group: ProcessGroup = SINGLE_PROCESS
    step: int = 0
    images_seen: int = 0
    stage: Stage = field(init=False)
    ema: EMA = field(init=False)
    _precision: Precision = field(init=False)
    _parameters: dict[str, list[Tensor]] = field(init=False)
    _optimizers: dict[str, torch.optim.Optimizer] = field(init=False)

    def __post_init__(self) -> None:
        check_batches_divide(self.network.stages(), self.group)
        self._precision = settled_precision(self.settings.precision, self.device)
        synchronise_batch_norm(self.network, self.group, self.device)
        if self.settings.channels_last:
            self.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.ema = EMA(self.network, self.settings.ema_half_life_images)
        self._enter_stage(self.network.stages()[0])

    @property
    def num_steps(self) -> int:
        """Steps of the whole plan."""
        return sum(stage.steps for stage in self.network.stages())

    def begin_at(self, step: int) -> None:
        """Begin at a step of the plan, with weights that have made those before."""
        self.step, begin = step, 0
        for stage in self.network.stages():
            self.images_seen += min(stage.steps, max(0, step - begin)) * stage.batch_size
            begin += stage.steps

    def _enter_stage(self, stage: Stage) -> None:
        self.stage = stage
        self._parameters = {
            phase.name: [value for _, value in trained(self.network, phase)]
            for phase in stage.phases
        }
        self._optimizers = {
            phase.name: _optimizer(phase, self._parameters[phase.name]) for phase in stage.phases
        }

    def steps(self) -> Iterator[dict[str, Tensor]]:
        """Make the remaining steps; yield the loss terms of each, still on the device."""
        begin = 0
        for stage in self.network.stages():
            end = begin + stage.steps
            if self.step < end:
                if stage != self.stage:
                    self._enter_stage(stage)
                while self.step < end:
                    yield self._make_step(self.step - begin)
            begin = end

    def _make_step(self, stage_step: int) -> dict[str, Tensor]:
        seed = self.settings.seed
        bits = random_bits(seed, "step", counter=self.step, stream=self.group.rank)
        torch.manual_seed(int(bits[0] >> 1))
        self.network.train()
        pair, shared = self._fresh(0)
        terms: dict[str, Tensor] = {}
        batches = itertools.count(1)
        for phase in self.stage.phases:
            for repetition in range(phase.repeat):
                seen, outputs = (
                    (pair, shared) if phase.batch == "shared" else self._fresh(next(batches))
                )
                last_use = phase is self.stage.phases[-1] and repetition == phase.repeat - 1
                losses = self._update(phase, seen, outputs, stage_step, keep_graph=not last_use)
                terms |= {f"{phase.name}/{name}": value for name, value in losses.items()}
        self.step += 1
        self.images_seen += self.stage.batch_size
        self.ema.update(self.network, self.images_seen, self.stage.batch_size)
        return terms

    def _fresh(self, stream: int) -> tuple[Pair, Mapping[str, Tensor]]:
        whole = self.stage.batch_size
        part = self.group.part(whole)
        pair = self.images.draw(self.settings.seed, self.step, whole, stream, part)
        return pair, self._run(pair)

    def _autocast(self) -> torch.autocast:
        enabled = self._precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def _run(self, pair: Pair) -> Mapping[str, Tensor]:
        with self._autocast():
            return self.network.run(pair, self.stage.name)

    def _update(
        self,
        phase: Phase,
        pair: Pair,
        outputs: Mapping[str, Tensor],
        stage_step: int,
        *,
        keep_graph: bool,
    ) -> dict[str, Tensor]:
        with self._autocast():
            terms = self.network.losses(phase.name, pair, outputs)
        total = torch.stack([term.float() for term in terms.values()]).sum()
        parameters = self._parameters[phase.name]
        # torch's annotation leaves out that unused parameters have no gradient.
        gradients = cast(
            "tuple[Tensor | None, ...]",
            torch.autograd.grad(total, parameters, retain_graph=keep_graph, allow_unused=True),
        )
        reached = [gradient for gradient in gradients if gradient is not None]
        if len(reached) < len(parameters):
            raise RuntimeError(self._unreached(phase, gradients))
        alike = list(map(_laid_out_like, parameters, reached))
        for parameter, gradient in zip(parameters, mean_gradients(alike, self.group), strict=True):
            parameter.grad = gradient
        optimizer = self._optimizers[phase.name]
        rate = phase.optimizer.learning_rate * phase.schedule.factor(stage_step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if phase.clamp is not None:
            with torch.no_grad():
                for parameter in parameters:
                    parameter.clamp_(-phase.clamp, phase.clamp)
        return {name: term.detach() for name, term in terms.items()}

    def _unreached(self, phase: Phase, gradients: tuple[Tensor | None, ...]) -> str:
        names = [
            name
            for (name, _), gradient in zip(trained(self.network, phase), gradients, strict=True)
            if gradient is None
        ]
        return f"phase '{phase.name}' trains {', '.join(names[:5])}, but its losses do not reach it"

    @property
    def learning_rates(self) -> dict[str, float]:
        """Return the learning rate of the last update, by phase of the stage."""
        return {
            name: float(optimizer.param_groups[0]["lr"])
            for name, optimizer in self._optimizers.items()
        }

    def state(self) -> dict[str, object]:
        """Return everything that the next step depends on; to the primary process, that of all."""
        state: dict[str, object] = {
            "step": self.step,
            "images_seen": self.images_seen,
            "network": self.network.state_dict(),
            "ema": self.ema.tensors,
            "stage": self.stage.name,
            "optimizers": {
                name: optimizer.state_dict() for name, optimizer in self._optimizers.items()
            },
        }
        if self.group.size > 1:
            state["pools"] = gather_pools(self.network, self.group)
        return state

    def restore(self, state: Mapping[str, object]) -> None:
        """Go on from what ``state`` returned.

        Raises:
            ValueError: If it is of a step that the plan does not have.
        """
        if not is_whole(state["step"], 0, self.num_steps):
            raise ValueError(f"{state['step']} steps")
        (stage,) = (s for s in self.network.stages() if s.name == state["stage"])
        self._enter_stage(stage)
        self.step = state["step"]  # pyright: ignore[reportAttributeAccessIssue]
        self.images_seen = state["images_seen"]  # pyright: ignore[reportAttributeAccessIssue]
        self.network.load_state_dict(state["network"])  # pyright: ignore[reportArgumentType]
        if self.group.size > 1:
            restore_pools(self.network, state["pools"], self.group)  # pyright: ignore[reportArgumentType]
        for name, value in state["ema"].items():  # pyright: ignore[reportAttributeAccessIssue]
            self.ema.tensors[name].copy_(value)
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])  # pyright: ignore[reportIndexIssue]


def trained(network: PoseTransfer, phase: Phase) -> list[tuple[str, Tensor]]:
    """Return the named parameters that a phase trains.

    Raises:
        UserError: If a prefix names no parameter.
    """

    def under(name: str, prefix: str) -> bool:
        return name == prefix or name.startswith(prefix + ".")

    named = list(network.named_parameters())
    for prefix in phase.trains:
        if not any(under(name, prefix.removeprefix("-")) for name, _ in named):
            raise UserError(f"phase '{phase.name}' trains '{prefix}', which the network lacks")
    includes = [prefix for prefix in phase.trains if not prefix.startswith("-")]
    excludes = [prefix[1:] for prefix in phase.trains if prefix.startswith("-")]
    return [
        (name, parameter)
        for name, parameter in named
        if any(under(name, prefix) for prefix in includes)
        and not any(under(name, prefix) for prefix in excludes)
    ]


def _laid_out_like(parameter: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient in the parameter's order in memory.

    Fused Adam walks through memory: a gradient laid out otherwise than its parameter would go to
    the wrong weights, without an error.
    """
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def _optimizer(phase: Phase, parameters: list[Tensor]) -> torch.optim.Optimizer:
    settings = phase.optimizer
    if isinstance(settings, Adam):
        betas = (settings.beta1, settings.beta2)
        return torch.optim.Adam(parameters, lr=settings.learning_rate, betas=betas, fused=True)
    return TensorFlowRMSProp(parameters, lr=settings.learning_rate)
