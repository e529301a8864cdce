"""The exponential moving average (EMA) of the weights that samples are made with."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch

from augment.interface.system import PoseTransfer


class EMA:
    """Exponential moving average of the tensors that sampling needs.

    Early in training the half-life is shorter, so that the random start is soon forgotten:
    it is at most a twentieth of the images seen so far (Karras et al. 2022, EDM).
    """

    def __init__(self, network: PoseTransfer, half_life_images: float) -> None:
        self._half_life = half_life_images
        self.tensors = {
            name: value.detach().clone() for name, value in network.sampling_state().items()
        }

    @torch.no_grad()
    def update(self, network: PoseTransfer, images_seen: int, batch_size: int) -> None:
        """Move towards the network's weights after a step on ``batch_size`` images."""
        half_life = min(self._half_life, 0.05 * images_seen)
        keep = 0.5 ** (batch_size / max(half_life, 1e-8))
        current = network.sampling_state()
        floating = [name for name, value in self.tensors.items() if value.is_floating_point()]
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
            [self.tensors[name] for name in floating],
            [current[name] for name in floating],
            1.0 - keep,
        )
        for name, value in self.tensors.items():
            if not value.is_floating_point():
                value.copy_(current[name])

    @contextmanager
    def in_place_of(self, network: PoseTransfer) -> Generator[None]:
        """Let the network compute with the EMA of its weights while the block runs."""
        current = {name: value.clone() for name, value in network.sampling_state().items()}
        network.load_state_dict(self.tensors, strict=False)
        try:
            yield
        finally:
            network.load_state_dict(current, strict=False)
