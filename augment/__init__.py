"""More images of the same people: pose transfer as a batch job.

``augment.load("patn-market1501").transfer(image, pose, target_pose)`` makes one image.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from manifests import __version__ as __version__

if TYPE_CHECKING:
    from augment.interface.system import PoseTransfer


def load(weights: str | Path, device: str = "cpu") -> PoseTransfer:
    """Return a trained network, ready to generate; ``weights`` is a shipped name or a file."""
    from augment.checkpoints import store

    return store.load(weights, device)
