"""The state of a training in memory, and what one step does to it."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor, nn

from manifests.compute.distributed import SINGLE_PROCESS, ProcessGroup
from manifests.compute.precision import settled_precision
from manifests.compute.training_state import read_training_state, restoring, write_training_state
from manifests.io import write_bytes
from manifests.runtime.console import UserError
from manifests.runtime.json_files import is_whole
from reid.models.network import ReidNetwork
from reid.models.run_folder import STATE
from reid.training.added import AddedBatch
from reid.training.batches import Batch
from reid.training.depthwise import depthwise_in_float32
from reid.training.losses import batch_hard_triplet, centre_loss, smoothed_cross_entropy
from reid.training.parallel import data_parallel, gather_rows
from reid.training.settings import TrainSettings


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Return the rate of a step.

    ``one-cycle`` rises and falls as a cosine (Smith and Topin 2018, with the ends of
    ``torch.optim.lr_scheduler.OneCycleLR``). The others rise in a straight line from a hundredth
    of the peak; then ``cosine`` falls to nearly zero, and ``multi-step`` by a tenth after every
    milestone.
    """
    peak, steps, rise = settings.learning_rate, settings.steps, settings.warmup * settings.steps
    if step < rise:
        if settings.schedule == "one-cycle":
            return peak * (0.04 + 0.96 * (1 - math.cos(math.pi * step / rise)) / 2)
        return peak * (0.01 + 0.99 * step / rise)
    if settings.schedule == "multi-step":
        marks = sorted(round(share * steps) for share in settings.milestones)
        return peak * 0.1 ** bisect_right(marks, step)
    return peak * (1 + math.cos(math.pi * (step - rise) / (steps - rise))) / 2


def make_optimizer(network: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """Return the fused optimiser; AdamW alone spares biases and normalisations the decay."""
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(trained, rate, momentum=0.9, weight_decay=decay, fused=True)
    if settings.optimizer != "adamw":
        amsgrad = settings.optimizer == "amsgrad"
        return torch.optim.Adam(trained, rate, weight_decay=decay, amsgrad=amsgrad, fused=True)
    groups = [
        {"params": [w for w in trained if w.ndim > 1], "weight_decay": decay},
        {"params": [w for w in trained if w.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, fused=True)


def compiled(network: nn.Module) -> Callable[[Tensor], Any]:
    """Return the network compiled, or as it is where compilation fails (no C++ compiler)."""
    dynamo: Any = import_module("torch._dynamo")
    dynamo.config.suppress_errors = True
    return torch.compile(network)


class Trainer:
    """The state of a run in memory: network, optimiser, centres, steps done."""

    def __init__(
        self,
        network: ReidNetwork,
        settings: TrainSettings,
        device: torch.device,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        # torch's own annotations leave this form of ``to`` out.
        network.module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self._precision = settled_precision(settings.precision, device)
        if device.type == "cpu" and self._precision == "bf16":
            depthwise_in_float32(network.module)
        self.network = network.to(device)
        self.group = group
        self.done = 0
        self.best = -math.inf
        self._settings = settings
        self._device = device
        self._with_features = needs_features(settings)
        self.centres: Tensor | None = None
        if settings.centre_weight:
            self.centres = _drawn_centres(network.module).to(device).requires_grad_()
        wrapped = data_parallel(network.module, group, device)
        self.optimizer = make_optimizer(network.module, settings)
        self._forward: Callable[[Tensor], Any] = compiled(wrapped) if settings.compile else wrapped

    def update(self, batch: Batch) -> Float[Tensor, ""]:
        """Take one optimiser step and return its loss."""
        settings = self._settings
        rate = learning_rate(batch.step, settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        base_is_fixed = batch.step < settings.fixbase * settings.steps
        self._set_modes(base_is_fixed=base_is_fixed)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._precision == "bf16"):
            outputs = self._forward(batch.images)
            added = None if batch.added is None else self._forward(batch.added.images)
        loss = self._loss(outputs, batch)
        if batch.added is not None:
            loss = loss + self._added_loss(added, batch.added)
        self.optimizer.zero_grad(set_to_none=True)
        # The wrapper takes the mean of the gradients over processes; ours are parts of a sum.
        (loss * self.group.size).backward()
        if base_is_fixed:
            for name, weight in self.network.module.named_parameters():
                if not _is_new(name):
                    weight.grad = None
        self.optimizer.step()
        self._move_centres()
        self.done = batch.step + 1
        return loss.detach()

    def _loss(self, outputs: Any, batch: Batch) -> Float[Tensor, ""]:
        settings = self._settings
        logits, features = outputs if self._with_features else (outputs, ())
        # Networks of several parts return the logits and features of each.
        terms = [
            smoothed_cross_entropy(part, batch.labels, batch.smoothing, batch.weight)
            for part in self._gathered(logits)
        ]
        loss = torch.stack(terms).mean()
        for part in self._gathered(features):
            share = 1 / len(_parts(features))
            if settings.triplet_weight:
                triplet = batch_hard_triplet(
                    part,
                    batch.labels,
                    batch.weight,
                    settings.margin,
                    soft_margin=settings.soft_margin,
                )
                loss = loss + settings.triplet_weight * share * triplet
            if self.centres is not None:
                centre = centre_loss(part, batch.labels, batch.weight, self.centres)
                loss = loss + settings.centre_weight * share * centre
        return loss

    def _added_loss(self, outputs: Any, added: AddedBatch) -> Float[Tensor, ""]:
        """Return the cross entropy of the added images, each weighing what one of the batch does.

        A weighted mean alone would forget a weight that all of them share.
        """
        logits = outputs[0] if self._with_features else outputs
        terms = [
            smoothed_cross_entropy(part, added.labels, added.smoothing, added.weight)
            for part in self._gathered(logits)
        ]
        return torch.stack(terms).mean() * added.weight.sum() / self._settings.batch_size

    def _gathered(self, outputs: Any) -> list[Tensor]:
        return [gather_rows(part, self.group) for part in _parts(outputs)]

    def _move_centres(self) -> None:
        if self.centres is None or self.centres.grad is None:
            return
        # Every process has the whole gradient; the weight of the loss is not meant for centres.
        scale = self._settings.centre_weight * self.group.size
        with torch.no_grad():
            self.centres -= self._settings.centre_learning_rate / scale * self.centres.grad
        self.centres.grad = None

    def _set_modes(self, *, base_is_fixed: bool) -> None:
        """Keep the statistics of a fixed base fixed, as torchreid does."""
        if self._settings.fixbase:
            for name, module in self.network.module.named_children():
                module.train(not base_is_fixed or _is_new(name))

    def save(self, folder: Path) -> None:
        """Write the training state, whole or not at all."""
        state = {
            "network": self.network.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "centres": None if self.centres is None else self.centres.detach(),
            "done": self.done,
            "best": self.best,
        }
        write_training_state(state, folder / STATE)

    def restore(self, folder: Path) -> int:
        """Go back to the saved state, if there is one, and return how many steps are done.

        Raises:
            UserError: If it cannot be read.
        """
        path = folder / STATE
        if not path.exists():
            return self.done
        state = read_training_state(path, self._device)
        with restoring(path):
            _check_steps(state["done"], self._settings)
            self.network.module.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.centres is not None:
                self.centres = state["centres"].requires_grad_()
            self.done, self.best = state["done"], state["best"]
        return self.done

    def export(self, path: Path) -> None:
        """Write the weights alone."""
        state = self.network.module.state_dict()
        tensors = {name: tensor.contiguous().cpu() for name, tensor in state.items()}
        write_bytes(save(tensors), path)


def saved_steps(settings: TrainSettings) -> int:
    """Return how many steps of a run are done in its saved state; 0 if there is none.

    Raises:
        UserError: If it cannot be read.
    """
    path = settings.out / STATE
    if not path.exists():
        return 0
    state = read_training_state(path, torch.device("cpu"))
    with restoring(path):
        _check_steps(state["done"], settings)
    return state["done"]


def _check_steps(done: object, settings: TrainSettings) -> None:
    if not is_whole(done, 0, settings.steps):
        raise ValueError(f"{done} steps")


def needs_features(settings: TrainSettings) -> bool:
    """Return whether a training needs the features of the network beside its logits."""
    return bool(settings.triplet_weight or settings.centre_weight or settings.neck != "none")


def _drawn_centres(network: nn.Module) -> Float[Tensor, "people width"]:
    classifier = getattr(network, "classifier", None)
    if not isinstance(classifier, nn.Linear):
        raise UserError(
            "--centre-weight needs a network with one feature and one classifier, as osnet and "
            f"resnet; found {type(network).__name__}"
        )
    return torch.randn(classifier.weight.shape)


def _parts(outputs: Any) -> list[Tensor]:
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def _is_new(name: str) -> bool:
    """Return whether a weight or child is none of the pretrained base's."""
    return name.partition(".")[0] in {"classifier", "neck"}
