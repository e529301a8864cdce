"""Train a re-ID network on real and synthetic images: ``reid train``.

Everything random in a step follows from (seed, step): which rows, how they are cropped, dropout.
So a run that was stopped and continued ends with the same bits as a straight one (on CPU, with
the same number of threads).
"""

from __future__ import annotations

import io
import json
import math
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from manifests import claims
from manifests.console import Console, Exit, UserError
from manifests.draws import draws
from manifests.io import read_images, read_synthetic, sha256_file, write_bytes
from manifests.pixels import read_all
from manifests.places import PlaceFlag
from manifests.settings import Frozen
from reid import torchreid_adapter
from reid.augmentation import Augmentation, augment
from reid.dataset import Selection, TrainingSet, labels_of, load_training_set, select
from reid.embed import Device, choose_device, embed
from reid.losses import smoothed_cross_entropy
from reid.mixing import Mixture, mixture
from reid.ranking import distance_of, rank
from reid.runs import LOG, STATE, Run
from reid.score import ScoreSettings, score

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]


class TrainSettings(Frozen):
    """Train a re-ID network on real images, with or without synthetic ones, and score it."""

    images: Path
    """Table of real images, from 'augment index'."""
    out: Path
    """Folder of the run. The same command on it goes on, or says that it is complete."""
    synthetic: PlaceFlag | None = None
    """Finished folder of 'augment generate', or its URL; its images join their people."""
    synthetic_share: Share | None = None
    """Synthetic part of every batch. Without it, rows are drawn from one pool."""
    real_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Part of the real train images to use, at least one per person."""
    val_people: Annotated[int, Field(ge=0)] = 0
    """People set aside from training to choose the best checkpoint."""
    data_seed: int = 0
    """Draws the real fraction and the validation people; keep it over runs to be compared."""
    root: Path | None = None
    """Where the images' relative paths start, if not where the table says."""

    model: str = "osnet_x0_25"
    """torchreid's name of the network, for example osnet_x1_0 or resnet50."""
    weights: Path | None = None
    """State file (.pth or .safetensors) to start from, instead of random weights."""
    height: Positive = 128
    """Height of the network's input in pixels."""
    width: Positive = 64
    """Width of the network's input in pixels."""

    steps: Positive = 3000
    """Optimiser steps."""
    batch_size: Positive = 64
    """Images per step."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    """Peak of the one-cycle schedule (AdamW)."""
    warmup: Share = 0.1
    """Part of the steps in which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """Of AdamW, on matrices and kernels only."""
    label_smoothing: Share = 0.1
    """For real images."""
    synthetic_smoothing: Share = 0.1
    """Label smoothing for synthetic images."""
    synthetic_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of a synthetic image in the loss; a real one has 1."""
    augmentation: Augmentation = Augmentation()

    seed: int = 0
    """Draws the weights, the batches and their augmentation."""
    precision: Literal["bf16", "float32"] = "bf16"
    """Of the forward and backward pass; weights and losses stay float32."""
    compile: bool = False
    """Compile the network first; pays in long runs. Falls back where there is no compiler."""
    device: Device = "auto"
    """auto is cuda where there is one."""
    checkpoint_every: Positive = 500
    """Steps between two saved states."""
    log_every: Positive = 50
    """Steps between two lines of log.jsonl."""
    score: bool = True
    """Score query against gallery at the end."""


_NOT_IN_RECIPE = {
    "images", "synthetic", "weights", "out", "root", "device", "checkpoint_every", "log_every",
    "score", "compile",
}  # fmt: skip
"""Paths count by their contents; the rest does not change what is trained."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step sees."""

    step: int
    images: Float[Tensor, "batch 3 height width"]
    labels: Int[Tensor, " batch"]
    smoothing: Float[Tensor, " batch"]
    weight: Float[Tensor, " batch"]


class Batches:
    """The batches of the steps that are left, each a function of (seed, step)."""

    def __init__(
        self, data: TrainingSet, settings: TrainSettings, device: torch.device, start: int
    ) -> None:
        self._settings = settings
        self._start = start
        self._mixture: Mixture = mixture(
            data.synthetic, settings.batch_size, settings.synthetic_share, settings.seed
        )
        self._pixels = torch.from_numpy(data.pixels).to(device)
        self._labels = torch.from_numpy(data.labels).to(device)
        synthetic = torch.from_numpy(data.synthetic)
        smoothing = torch.where(synthetic, settings.synthetic_smoothing, settings.label_smoothing)
        weight = torch.from_numpy(data.weight)
        self._smoothing = smoothing.to(device)
        self._weight = torch.where(synthetic, weight * settings.synthetic_weight, weight).to(device)

    def __len__(self) -> int:
        return self._settings.steps - self._start

    def __iter__(self) -> Iterator[Batch]:
        for step in range(self._start, self._settings.steps):
            yield self.batch(step)

    def batch(self, step: int) -> Batch:
        """Return the batch of a step, having seeded torch's global generators for it."""
        seed = int(draws(self._settings.seed, "train step", counter=step)[0] >> np.uint64(1))
        torch.manual_seed(seed)
        rows = self._mixture.batch(step)
        index = torch.from_numpy(rows).to(self._pixels.device)
        images = augment(
            self._pixels[index],
            self._settings.augmentation,
            torch.Generator().manual_seed(seed),
        )
        return Batch(step, images, self._labels[index], self._smoothing[index], self._weight[index])


def count_seen(synthetic: Bool[np.ndarray, " rows"], settings: TrainSettings) -> dict[str, int]:
    """Return how many real and synthetic images the steps of a run see, counted batch by batch."""
    mixed = mixture(synthetic, settings.batch_size, settings.synthetic_share, settings.seed)
    num_synthetic = sum(int(synthetic[mixed.batch(step)].sum()) for step in range(settings.steps))
    return {
        "real": settings.steps * settings.batch_size - num_synthetic,
        "synthetic": num_synthetic,
    }


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """Return the rate of a step: a cosine rise to the peak, a cosine fall to nearly zero.

    One cycle (Smith and Topin 2018) with the ends of ``torch.optim.lr_scheduler.OneCycleLR``.

    >>> [round(learning_rate(step, 10, 1.0, 0.2), 3) for step in (0, 2, 6, 9)]
    [0.04, 1.0, 0.5, 0.038]
    """
    rise = warmup * steps
    if step < rise:
        return peak * (0.04 + 0.96 * (1 - math.cos(math.pi * step / rise)) / 2)
    return peak * (1 + math.cos(math.pi * (step - rise) / (steps - rise))) / 2


def make_optimizer(network: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """Return fused AdamW; biases and normalisations are not decayed."""
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    groups = [
        {"params": [w for w in trained if w.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [w for w in trained if w.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


def compiled(network: nn.Module) -> Callable[[Tensor], Any]:
    """Return the network compiled, or as it is where compilation fails (no C++ compiler)."""
    dynamo: Any = import_module("torch._dynamo")
    dynamo.config.suppress_errors = True
    return torch.compile(network)


class Trainer:
    """The state of a run in memory: network, optimiser, steps done."""

    def __init__(
        self, network: nn.Module, settings: TrainSettings, folder: Path, device: torch.device
    ) -> None:
        # torch's own annotations leave this form of ``to`` out.
        self.network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.network.to(device)
        self.optimizer = make_optimizer(network, settings)
        self.done = 0
        self.best = -math.inf
        self._settings = settings
        self._folder = folder
        self._device = device
        self._forward: Callable[[Tensor], Any] = compiled(network) if settings.compile else network

    def update(self, batch: Batch) -> Float[Tensor, ""]:
        """Take one optimiser step and return its loss."""
        settings = self._settings
        rate = learning_rate(batch.step, settings.steps, settings.learning_rate, settings.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(
            self._device.type, torch.bfloat16, enabled=settings.precision == "bf16"
        ):
            outputs = self._forward(batch.images)
        # Networks of several parts return the logits of each.
        parts = outputs if isinstance(outputs, (list, tuple)) else (outputs,)
        losses = [
            smoothed_cross_entropy(logits, batch.labels, batch.smoothing, batch.weight)
            for logits in parts
        ]
        loss = torch.stack(losses).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.done = batch.step + 1
        return loss.detach()

    def save(self) -> None:
        """Write the training state, whole or not at all."""
        buffer = io.BytesIO()
        torch.save(
            {
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "done": self.done,
                "best": self.best,
            },
            buffer,
        )
        write_bytes(buffer.getvalue(), self._folder / STATE)

    def restore(self) -> None:
        """Go back to the saved state, if there is one."""
        path = self._folder / STATE
        if not path.exists():
            return
        state = torch.load(path, map_location=self._device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.done, self.best = state["done"], state["best"]

    def export(self, path: Path) -> None:
        """Write the weights alone."""
        tensors = {
            name: tensor.contiguous().cpu() for name, tensor in self.network.state_dict().items()
        }
        write_bytes(save(tensors), path)


class Log:
    """Lines of ``log.jsonl``: loss, rate, speed, time left."""

    def __init__(self, path: Path, settings: TrainSettings, start: int) -> None:
        self._path = path
        self._settings = settings
        self._losses: list[Tensor] = []
        self._began = time.monotonic()
        self._start = start
        self._last = (self._began, start)

    def add(self, step: int, loss: Tensor, rate: float) -> None:
        """Take note of a step; write a line when one is due.

        Raises:
            UserError: If the loss is no longer finite.
        """
        settings = self._settings
        self._losses.append(loss)
        done = step + 1
        if done % settings.log_every and done != settings.steps:
            return
        mean = float(torch.stack(self._losses).mean())
        self._losses = []
        if not math.isfinite(mean):
            raise UserError(
                f"the loss became {mean} by step {done} of {settings.steps}; expected a finite "
                f"number (--learning-rate {settings.learning_rate} may be too high)"
            )
        now = time.monotonic()
        speed = (done - self._last[1]) / max(now - self._last[0], 1e-9)
        left = (settings.steps - done) * (now - self._began) / (done - self._start)
        self._last = (now, done)
        line = {
            "step": done,
            "loss": round(mean, 5),
            "learning_rate": rate,
            "images_per_second": round(speed * settings.batch_size, 1),
            "seconds": round(now - self._began, 1),
            "eta_seconds": round(left, 1),
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def train(settings: TrainSettings, console: Console) -> Exit:
    """Train to the last step, from the saved state if there is one, and score the result.

    Raises:
        UserError: If an input cannot be used, or the folder holds another run.
    """
    recipe = recipe_of(settings)
    folder = settings.out
    path = folder / claims.CLAIM
    if path.exists():
        claims.refuse_other(path, recipe)
    if Run(folder, {}).is_complete:
        console.say(f"{folder}: training is already complete ({settings.steps:,} steps)")
        return _score(settings, console)
    images = read_images(settings.images, settings.root)
    synthetic = None if settings.synthetic is None else read_synthetic(settings.synthetic)
    selection = select(
        images,
        synthetic,
        real_fraction=settings.real_fraction,
        num_validation_people=settings.val_people,
        data_seed=settings.data_seed,
    )
    data = load_training_set(selection, synthetic, (settings.width, settings.height))
    console.say(
        f"training on {len(data.labels) - data.num_synthetic:,} real and "
        f"{data.num_synthetic:,} synthetic images of {len(data.people):,} people"
    )
    device = choose_device(settings.device)
    torch.manual_seed(settings.seed)
    network = torchreid_adapter.build_model(settings.model, len(data.people))
    if settings.weights is not None:
        skipped = start_from(network, settings.weights)
        console.say(f"started from {settings.weights}; left as drawn: {', '.join(skipped)}")
    facts = {
        "versions": claims.versions("torch", "torchreid", "numpy", "pyarrow"),
        "num_real": len(selection.train),
        "num_synthetic": data.num_synthetic,
        "num_validation": len(selection.validation),
        "seen": count_seen(data.synthetic, settings),
        "integrity": selection.integrity,
        "people": list(data.people),
    }
    claims.claim(folder, recipe, facts)
    trainer = Trainer(network, settings, folder, device)
    trainer.restore()
    _loop(trainer, data, selection, settings, console)
    trainer.save()
    trainer.export(Run(folder, {}).weights("last"))
    return _score(settings, console)


def recipe_of(settings: TrainSettings) -> dict[str, Any]:
    """Return the settings that decide the weights, with inputs by their sha256.

    Raises:
        UserError: If an input is missing.
    """
    recipe = settings.model_dump(mode="json", exclude=_NOT_IN_RECIPE)
    inputs = {
        "images": settings.images,
        "synthetic": settings.synthetic and settings.synthetic / "manifest.parquet",
        "weights": settings.weights,
    }
    for name, path in inputs.items():
        if path is not None and not path.exists():
            raise UserError(f"--{name}: {path} does not exist")
        recipe[f"{name}_sha256"] = None if path is None else sha256_file(path)
    return recipe


def _loop(
    trainer: Trainer,
    data: TrainingSet,
    selection: Selection,
    settings: TrainSettings,
    console: Console,
) -> None:
    device = choose_device(settings.device)
    batches = Batches(data, settings, device, trainer.done)
    log = Log(settings.out / LOG, settings, trainer.done)
    validate = _validator(trainer, selection, settings, console)
    with console.progress("training", settings.steps, "step", trainer.done) as bar:

        def step(batch: Batch) -> None:
            loss = trainer.update(batch)
            log.add(batch.step, loss, trainer.optimizer.param_groups[0]["lr"])
            bar.advance()
            if trainer.done % settings.checkpoint_every == 0 or trainer.done == settings.steps:
                validate()
                trainer.save()

        if len(batches):
            torchreid_adapter.train(trainer.network, batches, step)


def _validator(
    trainer: Trainer, selection: Selection, settings: TrainSettings, console: Console
) -> Callable[[], None]:
    """Return what scores the validation people and keeps the best weights."""
    if not len(selection.validation):
        return lambda: None
    images = read_all(selection.validation, (settings.width, settings.height))
    labels = labels_of(selection.validation)

    def validate() -> None:
        features = embed(trainer.network, images, "validation", console)
        trainer.network.train()
        value = rank(
            distance_of(features, features, "cosine"), labels, labels
        ).mean_average_precision
        console.say(
            f"step {trainer.done:,}: validation mAP {value:.1%}",
            event="validation",
            step=trainer.done,
            mean_average_precision=value,
        )
        if value > trainer.best:
            trainer.best = value
            trainer.export(Run(settings.out, {}).weights("best"))

    return validate


def _score(settings: TrainSettings, console: Console) -> Exit:
    if not settings.score:
        return Exit.DONE
    return score(
        ScoreSettings(
            run=settings.out, images=settings.images, root=settings.root, device=settings.device
        ),
        console,
    )


def start_from(network: nn.Module, path: Path) -> list[str]:
    """Load the weights that fit by name and shape; return the names of those that did not.

    Reads ``.safetensors`` and state files of torch, torchreid's own included.

    Raises:
        UserError: If the file cannot be read or fewer than half of the tensors fit.
    """
    found = _read_weights(path)
    own = network.state_dict()
    fitting = {
        name: tensor
        for name, tensor in found.items()
        if name in own and own[name].shape == tensor.shape
    }
    if len(fitting) < len(own) / 2:
        raise UserError(
            f"{path}: {len(fitting)} of {len(own)} tensors fit the network; expected weights of "
            "the same --model"
        )
    network.load_state_dict(fitting, strict=False)
    return sorted(set(own) - set(fitting))


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load(path.read_bytes())
        # torchreid stores its rank-1 as a NumPy scalar.
        scalar = import_module("numpy._core.multiarray").scalar
        with torch.serialization.safe_globals([scalar, np.dtype, np.dtypes.Float32DType]):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read as weights ({error})") from error
    state = state.get("state_dict", state)
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}
