"""What ``reid train`` can be told: its settings, and named recipes that set many at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import cleandoc
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, get_args

from pydantic import BeforeValidator, Field, create_model, model_validator
from tyro.constructors import PrimitiveConstructorSpec

from manifests.runtime.console import UserError
from manifests.runtime.settings import AboveZero, Count, Frozen, NotNegative, Positive, Share
from manifests.runtime.storage import StoragePathFlag
from reid.data.augmentation import Augmentation
from reid.data.batch_sampler import Sampler
from reid.data.controls import Control
from reid.evaluation.ranking import Protocol
from reid.models.backbone import DEFAULT_SOURCE
from reid.models.features import Device
from reid.models.head import Neck

AboveOne = Annotated[int, Field(gt=1)]

RecipeName = Literal[
    "short",
    "torchreid-osnet_x0_25",
    "torchreid-osnet_x1_0",
    "torchreid-resnet50",
    "osnet_x1_0-scratch",
    "bot",
]
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
        instance_from_str=lambda words: words[0],
        is_instance=lambda value: value in _SAMPLERS,
        str_from_instance=lambda value: [value],
        choices=_SAMPLERS,
    ),
]
"""A sampler by our name or torchreid's; the value is ours."""


def _without_default_source(value: object) -> object:
    # One network has one name in a run's record.
    return value.removeprefix(f"{DEFAULT_SOURCE}/") if isinstance(value, str) else value


class TrainSettings(Frozen):
    """Train a re-ID network on real images, with or without synthetic ones, and score it."""

    images: Path
    """Table of real images, from 'augment index'."""
    out: Path
    """Folder of the run. The same command on it goes on, or says that it is complete."""
    recipe: RecipeName = "short"
    """Named settings that the other flags change. --recipe NAME --help shows its values."""
    synthetic: StoragePathFlag | None = None
    """Finished folder of 'augment generate', or its URL; its images join their people."""
    synthetic_share: Share | None = None
    """Synthetic part of every batch (random sampler) or of each person's images in it (identity
    sampler). Without it, rows are drawn from one pool."""
    control: Control = "none"
    """What to hold the synthetic images against: as many repeated real images in their place, their
    labels permuted, or no real image at all."""
    real_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Part of the real train images to use, at least one per person."""
    val_people: Count = 0
    """People set aside from training to choose the best checkpoint."""
    data_seed: int = 0
    """Draws the real fraction and the validation people; keep it over runs to be compared."""
    root: Path | None = None
    """Where the images' relative paths start, if not where the table says."""

    model: Annotated[str, BeforeValidator(_without_default_source)] = "osnet_x0_25"
    """The network: torchreid's name of one, for example osnet_x1_0 or resnet50, or SOURCE/NAME:
    torchvision/mobilenet_v2, timm/efficientnet_lite0 (needs the extra [timm])."""
    weights: Literal["torchvision"] | Path | None = None
    """State file (.pth or .safetensors) to start from, instead of random weights. torchvision
    downloads its ImageNet weights of the same network."""
    neck: Neck = "none"
    """bnneck puts batch normalisation between features and classifier."""
    last_stride: Literal[1, 2] = 2
    """Stride of the last stage; 1 for ResNets, MobileNetV2 and what timm builds so."""
    height: Positive = 128
    """Height of the network's input in pixels."""
    width: Positive = 64
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
    centre_weight: NotNegative = 0.0
    """Of the centre loss beside the cross entropy."""
    centre_learning_rate: AboveZero = 0.5
    """Of the centres, by plain gradient descent."""
    augmentation: Augmentation = Augmentation()

    seed: int = 0
    """Draws the weights, the batches and their augmentation."""
    precision: Literal["bf16", "float32"] = "bf16"
    """Of the forward and backward pass; weights and losses stay float32."""
    compile: bool = False
    """Compile the network first; pays in long runs. Falls back where there is no compiler."""
    device: Device = "auto"
    """auto is cuda where there is one."""
    workers: Count = 0
    """Threads that prepare batches ahead of their step. Their number changes no bit."""
    checkpoint_every: Positive = 500
    """Steps between two saved states."""
    log_every: Positive = 50
    """Steps between two lines of log.jsonl."""
    tensorboard: bool = False
    """Write RUN/tensorboard beside the log."""
    score: bool = True
    """Score query against gallery at the end."""
    protocol: Protocol = "market1501"
    """Of that score and of the validation people; all-cameras ignores only the query's own image,
    for data of one camera."""

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


NOT_IN_RECIPE: Final = {
    "images", "synthetic", "weights", "out", "root", "device", "workers", "checkpoint_every",
    "log_every", "tensorboard", "score", "protocol", "compile",
}  # fmt: skip
"""Paths count by their contents; the rest does not change what is trained."""

CHOOSING_THE_BEST: Final = ("protocol", "checkpoint_every")
"""What of it counts where validation people choose the weights: by which rule, and how often."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Settings that belong together, and what is known of them."""

    about: str
    settings: Mapping[str, Any]
    needs_weights: bool = False
    """Whether its score is that of a start from ImageNet weights that must be given as a file."""


_FLIP_ONLY: Final = Augmentation(flip=0.5, pad=0, erase=0.0)

_TORCHREID: Final[Mapping[str, Any]] = {
    "height": 256,
    "width": 128,
    "optimizer": "amsgrad",
    "weight_decay": 5e-4,
    "warmup": 0.0,
    "augmentation": _FLIP_ONLY,
}

RECIPES: Final[Mapping[RecipeName, Recipe]] = {
    "short": Recipe(
        """The project's own short training from random weights: the default.

        Command: reid train --images I --out RUN
        Expected time: 12 minutes on one CPU core (4.2 steps a second).
        Expected score on Market-1501: rank-1 17.1, mAP 7.0 with 20 % of the train images and 2,500
            steps (docs/results.md): far below a long training.
        """,
        {},
    ),
    "torchreid-osnet_x0_25": Recipe(
        """torchreid's im_osnet_x0_25_softmax_256x128_amsgrad: 180 epochs of 101 batches.

        Command: reid train --recipe torchreid-osnet_x0_25 --weights osnet_x0_25_imagenet.pth
            --images I --out RUN
        Expected time: 5.5 hours on two CPU cores, from the speed of four epochs.
        Expected score on Market-1501: rank-1 91.2, mAP 75.0 (torchreid's MODEL_ZOO.md), not
            reproduced here. From random weights it is lower.
        """,
        {
            **_TORCHREID,
            "model": "osnet_x0_25",
            "learning_rate": 3e-3,
            "batch_size": 128,
            "steps": 18_180,
            "schedule": "multi-step",
            "milestones": (80 / 180,),
            "fixbase": 10 / 180,
        },
        needs_weights=True,
    ),
    "torchreid-osnet_x1_0": Recipe(
        """torchreid's im_osnet_x1_0_softmax_256x128_amsgrad_cosine: 250 epochs of 202 batches.

        Command: reid train --recipe torchreid-osnet_x1_0 --weights osnet_x1_0_imagenet.pth
            --images I --out RUN
        Expected time: about 4 hours on one GPU by a user's run of torchreid (350 epochs in 5:39,
            deep-person-reid issue 217); 36 hours on two CPU cores, from the time of a few steps.
        Expected score on Market-1501: rank-1 94.2, mAP 82.6 (torchreid's MODEL_ZOO.md), not
            reproduced here.
        """,
        {
            **_TORCHREID,
            "model": "osnet_x1_0",
            "learning_rate": 1.5e-3,
            "steps": 50_500,
            "schedule": "cosine",
            "fixbase": 10 / 250,
        },
        needs_weights=True,
    ),
    "osnet_x1_0-scratch": Recipe(
        """The same training from random weights, with random erasing; nothing to download.

        Differs from torchreid's in that the base is not held fixed for 10 epochs, which makes no
        sense for random weights.

        Command: reid train --recipe osnet_x1_0-scratch --images I --out RUN
        Expected time: about 4 hours on one GPU by a user's run of torchreid (350 epochs in 5:39,
            deep-person-reid issue 217); 36 hours on two CPU cores, from the time of a few steps.
        Expected score on Market-1501: rank-1 92.0, mAP 77.6 (a user's run of torchreid,
            deep-person-reid issue 274), not reproduced here.
        """,
        {
            **_TORCHREID,
            "model": "osnet_x1_0",
            "learning_rate": 1.5e-3,
            "steps": 50_500,
            "schedule": "cosine",
            "augmentation": Augmentation(flip=0.5, pad=0, erase=0.5),
        },
    ),
    "torchreid-resnet50": Recipe(
        """torchreid's im_r50_softmax_256x128_amsgrad: 60 epochs of 404 batches.

        Crops come from an image padded by 16 pixels, torchreid's from one enlarged by an eighth.

        Command: reid train --recipe torchreid-resnet50 --images I --out RUN
            (downloads torchvision's ImageNet weights; --weights FILE to give them)
        Expected time: 13 hours on two CPU cores, from the time of a few steps.
        Expected score on Market-1501: rank-1 87.9, mAP 70.4 (torchreid's MODEL_ZOO.md), not
            reproduced here.
        """,
        {
            **_TORCHREID,
            "model": "resnet50",
            "weights": "torchvision",
            "learning_rate": 3e-4,
            "batch_size": 32,
            "steps": 24_240,
            "schedule": "multi-step",
            "milestones": (20 / 60,),
            "fixbase": 5 / 60,
            "augmentation": Augmentation(flip=0.5, pad=16, erase=0.0),
        },
    ),
    "bot": Recipe(
        """The strong baseline of Luo et al. 2019, "Bag of tricks": ResNet-50, 120 epochs.

        Warm-up, last stride 1, BNNeck, label smoothing, random erasing, batch-hard triplet and
        centre loss on batches of 16 people x 4. An epoch is taken as 202 batches; the border of a
        padded image is grey here and black there.

        Command: reid train --recipe bot --images I --out RUN
            (downloads torchvision's ImageNet weights; --weights FILE to give them)
        Expected time: 25 hours on two CPU cores, from the time of a few steps.
        Expected score on Market-1501: rank-1 94.5, mAP 85.9 (README of reid-strong-baseline), not
            reproduced here.
        """,
        {
            "model": "resnet50",
            "weights": "torchvision",
            "neck": "bnneck",
            "last_stride": 1,
            "height": 256,
            "width": 128,
            "train_sampler": "identity",
            "num_instances": 4,
            "steps": 24_240,
            "optimizer": "adam",
            "learning_rate": 3.5e-4,
            "weight_decay": 5e-4,
            "schedule": "multi-step",
            "milestones": (40 / 120, 70 / 120),
            "warmup": 10 / 120,
            "triplet_weight": 1.0,
            "margin": 0.3,
            "centre_weight": 5e-4,
            "centre_learning_rate": 0.5,
            "augmentation": Augmentation(flip=0.5, pad=10, erase=0.5),
        },
    ),
}


Settings = TypeVar("Settings", bound=TrainSettings)


def settings_for(words: Sequence[str]) -> type[TrainSettings]:
    """Return the settings of ``reid train`` with the defaults of the recipe that the words name.

    Raises:
        UserError: If there is no such recipe.
    """
    return with_recipe(TrainSettings, words, "--recipe")


def with_recipe(settings: type[Settings], words: Sequence[str], flag: str) -> type[Settings]:
    """Return a settings class with the defaults of the recipe that the words name after a flag.

    A command line gives every setting its value, so only other defaults can tell the values of a
    recipe from those of the user.

    Raises:
        UserError: If there is no such recipe.
    """
    name = "short"
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        if word == flag:
            name = following
        elif word.startswith(f"{flag}="):
            name = word.partition("=")[2]
    if name not in RECIPES:
        raise UserError(f"found {flag} '{name}', expected one of {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    fields: dict[str, Any] = {}
    for key, value in {"recipe": name, **recipe.settings}.items():
        field = settings.model_fields[key]
        kind: Any = field.annotation
        if field.metadata:
            # How it is checked and read from words.
            kind = Annotated[(kind, *field.metadata)]
        about = field.description
        if key == "recipe":
            about = f"{about}\n\n{name}: {cleandoc(recipe.about)}"
        fields[key] = (kind, Field(default=value, description=about))
    return create_model(settings.__name__, __base__=settings, **fields)
