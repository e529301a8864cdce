"""torchreid behind one door: its networks and its engine; nothing else imports it.

Two layouts exist: the package on PyPI (0.2.5, everything under ``torchreid.reid``) and the
authors' repository (1.4.0, directly under ``torchreid``). The code of both is the same.
"""

from __future__ import annotations

import contextlib
import io
import uuid
import warnings
from collections.abc import Callable, Generator, Sequence, Sized
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any, Final, Literal

from torch import nn

from manifests.runtime.console import UserError

PACKAGE_VERSION: Final = "0.2.5"
INNER_VERSION: Final = "1.4.0"

Loss = Literal["softmax", "triplet"]
"""torchreid's word for what a network returns in training: logits, or (logits, features)."""


@cache
def _torchreid() -> ModuleType:
    """Return the module that holds ``models`` and ``engine``, whichever the layout.

    Raises:
        UserError: If torchreid is missing, incomplete, or of another version.
    """
    try:
        with _muted():
            package = import_module("torchreid")
            inner = getattr(package, "reid", package)
    except ImportError as error:
        raise UserError(
            f"torchreid cannot be imported ({error}); expected torchreid {PACKAGE_VERSION}: "
            f"pip install torchreid=={PACKAGE_VERSION} scipy opencv-python-headless gdown "
            "tensorboard"
        ) from error
    found = (getattr(package, "__version__", "?"), getattr(inner, "__version__", "?"))
    if found not in {(PACKAGE_VERSION, INNER_VERSION), (INNER_VERSION, INNER_VERSION)}:
        raise UserError(
            f"torchreid {found[0]} (inside {found[1]}) is installed; expected "
            f"{PACKAGE_VERSION} (inside {INNER_VERSION}): pip install "
            f"torchreid=={PACKAGE_VERSION}"
        )
    return inner


def version() -> str:
    """Return torchreid's version as reports print it."""
    return str(_torchreid().__version__)


def model_names() -> list[str]:
    """Return the names that ``build_model`` knows, sorted."""
    models = import_module(_torchreid().__name__ + ".models")
    return sorted(vars(models)["__model_factory"])


def build_model(
    name: str, num_classes: int, loss: Loss = "softmax", *, pretrained: bool = False
) -> nn.Module:
    """Return a torchreid network with fresh weights, drawn from torch's global generator.

    ``pretrained`` is off unless asked for: torchreid's own default downloads from Google Drive,
    and some of its networks silently ignore it.

    Raises:
        UserError: If torchreid has no network of that name.
    """
    models = import_module(_torchreid().__name__ + ".models")
    names = model_names()
    if name not in names:
        raise UserError(f"torchreid has no network '{name}'; it has {', '.join(names)}")
    with _muted():
        return models.build_model(
            name, num_classes=num_classes, loss=loss, pretrained=pretrained, use_gpu=False
        )


def keep_last_size(network: nn.Module) -> None:
    """Set the last stride of a ResNet to 1, which doubles its last feature map's height and width.

    Luo et al. 2019, "Bag of tricks", section 3.4; torchreid has no setting for it.

    Raises:
        UserError: If the network is no ResNet.
    """
    block: Any = getattr(network, "layer4", [None])[0]
    convolutions = [] if block is None else [m for m in block.modules() if _strides(m)]
    if not convolutions:
        raise UserError(
            f"--last-stride 1 is for networks of the ResNet family with a last stride of 2, found "
            f"{type(network).__name__}"
        )
    for convolution in convolutions:
        convolution.stride = (1, 1)


def _strides(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.stride == (2, 2)


def train(network: nn.Module, batches: Sized, step: Callable[[Any], object]) -> None:
    """Run ``step`` on every batch with torchreid's engine, the network in training mode.

    Only the engine's loop is used. Its evaluation, checkpoints and learning-rate hook are left
    out: the first depends on array order, the second cannot be read back by current torch.
    """
    engine_class: Any = import_module(_torchreid().__name__ + ".engine").Engine

    class StepEngine(engine_class):
        def forward_backward(self, data: object) -> dict[str, float]:
            step(data)
            return {}

        def update_lr(self, names: object = None) -> None:
            del names

    engine = StepEngine(SimpleNamespace(train_loader=batches, test_loader={}), use_gpu=False)
    engine.model, engine.max_epoch = network, 1
    engine.register_model("model", network, None, None)
    with contextlib.redirect_stdout(io.StringIO()):
        engine.train(print_freq=len(batches) + 1)


def evaluate_rank(
    distances: Any, query: tuple[Any, Any], gallery: tuple[Any, Any], max_rank: int = 50
) -> tuple[Any, float]:
    """Return torchreid's own (CMC, mAP) for (person, camera) labels: an oracle for tests."""
    metrics = import_module(_torchreid().__name__ + ".metrics")
    with _muted():
        return metrics.evaluate_rank(
            distances,
            query[0],
            gallery[0],
            query[1],
            gallery[1],
            max_rank=max_rank,
            use_cython=False,
        )


def re_ranking(distances: tuple[Any, Any, Any], k1: int, k2: int, weight: float) -> Any:
    """Return torchreid's own re-ranked distances: an oracle for tests.

    Args:
        distances: Query to gallery, query to query, gallery to gallery; they are squared inside.
        k1: Nearest images that can be reciprocal neighbours.
        k2: Nearest images that encodings are averaged over.
        weight: Of the squared distances.
    """
    module = import_module(_torchreid().__name__ + ".utils.rerank")
    return module.re_ranking(*distances, k1, k2, weight)


def triplet_loss(features: Any, labels: Any, margin: float) -> Any:
    """Return torchreid's own batch-hard triplet loss: an oracle for tests."""
    losses = import_module(_torchreid().__name__ + ".losses")
    return losses.TripletLoss(margin)(features, labels)


@dataclass(frozen=True, slots=True)
class Loading:
    """How torchreid's data manager reads and changes images."""

    height: int
    width: int
    batch_size: int
    workers: int
    transforms: tuple[str, ...]


def image_engine(
    network: nn.Module,
    optimizer: Any,
    rows: Sequence[tuple[str, int, int]],
    loading: Loading,
    *,
    use_gpu: bool,
) -> Any:
    """Return torchreid's own softmax engine over images of its data manager: for benchmarks.

    ``rows`` are (path, label, camera) of the train images. Query and gallery are their first row,
    for torchreid does without neither; nothing is evaluated.
    """
    data: Any = import_module(_torchreid().__name__ + ".data")
    engine: Any = import_module(_torchreid().__name__ + ".engine")

    class Listed(data.ImageDataset):
        def __init__(self, root: str = "", **settings: Any) -> None:
            del root
            first = list(rows[:1])
            super().__init__(list(rows), first, first, **settings)

    name = f"listed-{uuid.uuid4().hex}"
    with _muted():
        data.register_image_dataset(name, Listed)
        manager = data.ImageDataManager(
            sources=name,
            targets=name,
            height=loading.height,
            width=loading.width,
            transforms=list(loading.transforms),
            batch_size_train=loading.batch_size,
            workers=loading.workers,
            use_gpu=use_gpu,
        )
        return engine.ImageSoftmaxEngine(manager, network, optimizer, use_gpu=use_gpu)


def train_epochs(engine: Any, num_epochs: int, before: Callable[[int], None]) -> None:
    """Run a torchreid engine's own training; ``before`` is called with the number of each epoch.

    Its evaluation and checkpoints are left out.
    """
    engine.max_epoch = num_epochs
    with _muted():
        for engine.epoch in range(num_epochs):
            before(engine.epoch)
            engine.train(print_freq=10**9)


@contextlib.contextmanager
def _muted() -> Generator[None]:
    """Keep torchreid's prints and its advice about Cython away from the user."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
