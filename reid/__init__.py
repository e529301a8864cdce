"""Train, score and compare re-identification models on real and synthetic images.

``reid.load(RUN).embed(images)`` gives features, ``reid.evaluate`` ranks anybody's, and
``reid.SyntheticImages(OUT)`` is a torch data set of generated images.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from manifests import __version__ as __version__

if TYPE_CHECKING:
    from reid.data.synthetic_images import SyntheticImages
    from reid.evaluation.evaluate import evaluate
    from reid.models.trained import load

__all__ = ["SyntheticImages", "evaluate", "load"]

_HOMES: Final = {
    "SyntheticImages": "reid.data.synthetic_images",
    "evaluate": "reid.evaluation.evaluate",
    "load": "reid.models.trained",
}


def __getattr__(name: str) -> Any:
    # torch is imported when it is needed: 'reid --help' does without.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'reid' has no attribute '{name}'")
