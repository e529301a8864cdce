"""What ``reid train`` can be told, and the defaults that a recipe gives it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import cleandoc
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar, get_args

from pydantic import BeforeValidator, Field, create_model, model_validator
from tyro.constructors import PrimitiveConstructorSpec

from manifests.compute.imagenet import imagenet_file
from manifests.compute.precision import Auto, Precision
from manifests.runtime import run_record
from manifests.runtime.command_line import value_of
from manifests.runtime.console import UserError
from manifests.runtime.settings import (
    AboveZero,
    Count,
    Frozen,
    NotNegative,
    Positive,
    Share,
    Width,
)
from manifests.runtime.storage import StoragePathFlag
from reid.data.augmentation import Augmentation
from reid.data.batch_sampler import Sampler
from reid.data.controls import Control
from reid.evaluation.ranking import Protocol
from reid.models.backbone import DEFAULT_SOURCE, did_you_mean
from reid.models.features import Device
from reid.models.head import Neck
from reid.training.recipes import RECIPES, RecipeName

AboveOne = Annotated[Positive, Field(gt=1)]

Optimizer = Literal["adamw", "adam", "amsgrad", "sgd"]
Schedule = Literal["one-cycle", "cosine", "multi-step"]


def _as_tuple(value: object) -> object:
    # JSON has no tuples.
    return tuple(value) if isinstance(value, list) else value


TORCHREID_SAMPLERS: Final[Mapping[str, Sampler]] = {
    "RandomSampler": "random",
    "RandomIdentitySampler": "identity",
}
"""torchreid's names of ours."""

_SAMPLERS: Final = (*get_args(Sampler), *TORCHREID_SAMPLERS)


def _short_name(value: object) -> object:
    return TORCHREID_SAMPLERS.get(value, value) if isinstance(value, str) else value


SamplerFlag = Annotated[
    Sampler,
    BeforeValidator(_short_name),
    PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{{{','.join(_SAMPLERS)}}}",
        instance_from_str=lambda given: given[0],
        is_instance=lambda value: value in _SAMPLERS,
        str_from_instance=lambda value: [value],
        choices=_SAMPLERS,
    ),
]
"""A sampler by our name or torchreid's; the value is ours."""


def _without_default_source(value: object) -> object:
    # One network has one name in a run's record.
    return value.removeprefix(f"{DEFAULT_SOURCE}/") if isinstance(value, str) else value


Mix = Literal["replace", "add"]


class TrainSettings(Frozen):
    """Train a re-ID network on real images, with or without synthetic ones, and score it."""

    recipe_note: ClassVar[str] = ""
    """What a command says of a recipe that nobody named."""

    images: Path
    """Table of real images, from 'augment index'."""
    out: Path
    """Folder of the run. The same command on it goes on, or says that it is complete."""
    recipe: RecipeName = "short"
    """Named settings that the other flags change; --recipe NAME --help shows its values. Without
    it a command takes that of the run in --out; else imagenet-cpu where its weights are installed,
    unless --model or --weights says what is trained; else short."""
    synthetic: StoragePathFlag | None = None
    """Finished folder of 'augment generate', or its URL; its images join their people."""
    synthetic_share: Share | None = None
    """Synthetic part of every batch (random sampler) or of each person's images in it (identity
    sampler), in the place of real ones. With --synthetic-mix replace and no share, rows are drawn
    from one pool."""
    synthetic_mix: Mix | None = None
    """add: synthetic images come on top of a batch, in a forward pass of their own (own batch
    statistics) with the cross entropy alone; replace: they take the place of real ones. Without it
    add, but replace with --synthetic-share, --num-outliers and controls that replace."""
    synthetic_added: Positive = 16
    """Synthetic images per step where they are added, or real ones where --control added-real has
    nothing else to count by."""
    scene_added: Count = 0
    """Real images before new streets that are added to every step, in that same pass."""
    control: Control = "none"
    """What to hold the synthetic images against: as many repeated real images in their place, their
    labels permuted, or no real image at all; added-real: as many real images in the added pass."""
    real_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Part of the real train images to use, at least one per person."""
    val_people: Count = 0
    """People set aside from training to choose the best checkpoint."""
    data_seed: Count = 0
    """Draws the real fraction and the validation people; keep it over runs to be compared."""
    root: Path | None = None
    """Where the images' relative paths start, if not where the table says."""

    model: Annotated[str, BeforeValidator(_without_default_source)] = "osnet_x0_25"
    """The network: torchreid's name of one, for example osnet_x1_0 or resnet50, or SOURCE/NAME:
    torchvision/mobilenet_v2, timm/efficientnet_lite0 (needs the extra [timm])."""
    weights: Literal["imagenet", "torchvision"] | Path | None = None
    """State file (.pth or .safetensors) to start from, instead of random weights. imagenet: those
    that come with an installed package (extra [imagenet]). torchvision downloads its ImageNet
    weights of the same network."""
    neck: Neck = "none"
    """bnneck puts batch normalisation between features and classifier."""
    last_stride: Literal[1, 2] = 2
    """Stride of the last stage; 1 for ResNets, MobileNetV2 and what timm builds so."""
    height: Width = 128
    """Height of the network's input in pixels."""
    width: Width = 64
    """Width of the network's input in pixels."""

    steps: Positive = 3000
    """Optimiser steps."""
    batch_size: AboveOne = 64
    """Images per step; batch normalisation needs two."""
    train_sampler: SamplerFlag = "random"
    """identity draws batches of whole people. torchreid's names are taken for ours."""
    num_instances: Positive = 4
    """Images of each person in a batch of the identity sampler."""
    num_outliers: Count = 0
    """Images without identity (person -1) in a batch of the identity sampler."""
    optimizer: Optimizer = "adamw"
    """adam, amsgrad and sgd (momentum 0.9) decay every weight, as torchreid's do."""
    learning_rate: AboveZero = 2e-3
    """Peak of the schedule."""
    schedule: Schedule = "one-cycle"
    """cosine falls to zero; multi-step multiplies by 0.1 at every milestone. Both may warm up."""
    milestones: Annotated[tuple[Share, ...], BeforeValidator(_as_tuple)] = ()
    """Of multi-step: parts of the steps after which the learning rate falls."""
    warmup: Share = 0.1
    """Part of the steps in which the learning rate rises."""
    fixbase: Share = 0.0
    """Part of the steps, from the first, in which only the classifier learns (torchreid's
    fixbase_epoch)."""
    weight_decay: NotNegative = 0.05
    """Of AdamW, on matrices and kernels only."""
    label_smoothing: Share = 0.1
    """For real images."""
    synthetic_smoothing: Share = 0.1
    """Label smoothing for synthetic images; those without identity always have 1 (LSRO)."""
    synthetic_weight: NotNegative = 1.0
    """Weight of a synthetic image in the losses; a real one has 1."""
    outlier_weight: NotNegative = 1.0
    """Further factor on the weight of an image without identity."""
    triplet_weight: NotNegative = 0.0
    """Of the batch-hard triplet loss beside the cross entropy (torchreid's weight_t)."""
    margin: NotNegative = 0.3
    """Of the triplet loss."""
    soft_margin: bool = False
    """ln(1 + exp(x)) in place of max(0, margin + x) in the triplet loss."""
    centre_weight: NotNegative = 0.0
    """Of the centre loss beside the cross entropy."""
    centre_learning_rate: AboveZero = 0.5
    """Of the centres, by plain gradient descent."""
    augmentation: Augmentation = Augmentation()

    seed: Count = 0
    """Draws the weights, the batches and their augmentation."""
    precision: Auto | Precision = "auto"
    """Arithmetic of the forward and backward pass, bf16 or float32; auto: bf16 where the device
    computes in it. Weights and losses stay float32."""
    compile: bool = False
    """Compile the network first; pays in long runs. Falls back where there is no compiler."""
    device: Device = "auto"
    """auto is cuda where there is one."""
    workers: Count = 0
    """Threads that prepare batches ahead of their step. Their number changes no bit."""
    max_decoded_gb: AboveZero = 8.0
    """Images that take up to so many gigabytes (10^9 bytes) when decoded are held in memory. Of
    more, every step reads its own from files and shards, ahead in at least two threads; no bit
    changes."""
    checkpoint_every: Positive = 500
    """Steps between two saved states."""
    log_every: Positive = 50
    """Steps between two lines of log.jsonl."""
    tensorboard: bool = False
    """Write RUN/tensorboard beside the log."""
    score: bool = True
    """Score query against gallery at the end, the default; --no-score leaves it out."""
    protocol: Protocol = "market1501"
    """Of that score and of the validation people; all-cameras ignores only the query's own image,
    for data of one camera."""
    flip_test: bool = False
    """Of that score: mean of the features of an image and its mirror image."""

    @model_validator(mode="before")
    @classmethod
    def _take_from_recipe(cls, given: object) -> object:
        if not isinstance(given, dict) or given.get("recipe") not in RECIPES:
            return given
        return {**RECIPES[given["recipe"]].settings, **given}

    @model_validator(mode="after")
    def _check_schedule(self) -> TrainSettings:
        if self.schedule == "multi-step" and not self.milestones:
            raise UserError(
                "--schedule multi-step: found no --milestones, expected the parts of the steps "
                "after which the learning rate falls, for example 0.4 0.8"
            )
        return self

    @model_validator(mode="after")
    def _check_mix(self) -> TrainSettings:
        flags = self._replacing_flags()
        if self.synthetic_mix == "add" and flags:
            raise UserError(
                f"--synthetic-mix add: found {flags[0]}, which says what takes the place of real "
                "images; expected --synthetic-mix replace, or the flag left out"
            )
        if self.control == "synthetic-only" and self.scene_added:
            raise UserError(
                f"--control synthetic-only: found --scene-added {self.scene_added}, which adds "
                "real people; expected one of them"
            )
        return self

    @property
    def mix(self) -> Mix:
        """What ``synthetic_mix`` says, or what follows where it says nothing."""
        if self.synthetic_mix is not None:
            return self.synthetic_mix
        return "replace" if self.synthetic is None or self._replacing_flags() else "add"

    def _replacing_flags(self) -> list[str]:
        found = {
            "--synthetic-share": self.synthetic_share is not None,
            "--num-outliers": self.num_outliers > 0,
            f"--control {self.control}": self.control not in {"none", "added-real"},
        }
        return [flag for flag, given in found.items() if given]


NOT_IN_RECIPE: Final = {
    "images", "synthetic", "weights", "out", "root", "device", "workers", "max_decoded_gb",
    "checkpoint_every", "log_every", "tensorboard", "score", "protocol", "flip_test", "compile",
}  # fmt: skip
"""Paths count by their contents; the rest does not change what is trained."""

CHOOSING_THE_BEST: Final = ("protocol", "checkpoint_every")
"""What of it counts where validation people choose the weights: by which rule, and how often."""


Settings = TypeVar("Settings", bound=TrainSettings)


def settings_for(arguments: Sequence[str]) -> type[TrainSettings]:
    """Return the settings of ``reid train``, defaults by the recipe of a command line.

    Raises:
        UserError: If there is no such recipe.
    """
    out = value_of("--out", arguments, default="")
    records = [Path(out, run_record.RUN_RECORD)] if out else []
    return with_recipe(TrainSettings, arguments, "", records)


def with_recipe(
    settings: type[Settings], arguments: Sequence[str], prefix: str, records: Sequence[Path]
) -> type[Settings]:
    """Return a settings class with the defaults of a command line's recipe.

    A command line gives every setting its value, so only other defaults can tell the values of a
    recipe from those of the user.

    Args:
        settings: The class.
        arguments: The command line.
        prefix: Of the flags of these settings, after ``--``.
        records: Files ``run.json`` of this command's earlier runs, as far as there are any.

    Raises:
        UserError: If there is no such recipe.
    """
    flag = f"--{prefix}recipe"
    name, note = value_of(flag, arguments, default=""), ""
    if not name:
        name, note = default_recipe(arguments, prefix, records)
    if name not in RECIPES:
        near = did_you_mean(name, list(RECIPES))
        raise UserError(f"found {flag} '{name}', expected one of {', '.join(RECIPES)}{near}")
    recipe = RECIPES[name]
    about = f"{settings.model_fields['recipe'].description}\n\n{name}: {cleandoc(recipe.about)}"
    made = with_defaults(settings, {"recipe": name, **recipe.settings}, {"recipe": about})
    made.recipe_note = note
    return made


def default_recipe(
    arguments: Sequence[str], prefix: str, records: Sequence[Path]
) -> tuple[RecipeName, str]:
    """Return the recipe of a command line that names none, and what to say of it.

    A run that has begun keeps its recipe. Otherwise it is ``imagenet-cpu`` where its weights are
    installed, and ``short`` where they are not or the command line names another network.
    """
    for record in records:
        recorded: Any = run_record.read(record)["config"].get("recipe") if record.exists() else None
        if recorded in RECIPES:
            return recorded, ""
    for flag in (f"--{prefix}model", f"--{prefix}weights"):
        if value_of(flag, arguments, default=""):
            return "short", f"recipe short: {flag} says what is trained"
    try:
        imagenet_file(RECIPES["imagenet-cpu"].settings["model"])
    except UserError as error:
        return "short", f"recipe short, a weak network from random weights: {error}"
    return "imagenet-cpu", "recipe imagenet-cpu, since its weights are installed"


def with_defaults(
    settings: type[Settings],
    defaults: Mapping[str, Any],
    descriptions: Mapping[str, str] | None = None,
) -> type[Settings]:
    """Return a settings class with other defaults, and other descriptions where given."""
    fields: dict[str, Any] = {}
    for key, value in defaults.items():
        field = settings.model_fields[key]
        kind: Any = field.annotation
        if field.metadata:
            # How it is checked and read from a command line.
            kind = Annotated[(kind, *field.metadata)]
        about = (descriptions or {}).get(key, field.description)
        fields[key] = (kind, Field(default=value, description=about))
    return create_model(settings.__name__, __base__=settings, **fields)
