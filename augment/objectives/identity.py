"""Whether a generated image still shows the same person, by a re-identification network.

Beyond the published trainings: Zheng et al. ("Joint discriminative and generative learning for
person re-identification", CVPR 2019, equation 3) keep identities with a classifier; here a frozen
network's features are compared, so that unseen people can be compared as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from manifests.compute.exported_networks import Network, load_network, try_network

SETTING: Final = "--config.identity"


class IdentityLoss:
    """One minus the cosine similarity of a frozen network's features.

    Not an ``nn.Module`` on purpose, as ``Features``: whoever holds it neither trains nor saves it,
    and who only makes images needs no file of it. It is read when it is first asked for.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._by_device: dict[torch.device, Network] = {}

    def __call__(
        self,
        fake: Float[Tensor, "batch 3 height width"],
        real: Float[Tensor, "batch 3 height width"],
    ) -> Float[Tensor, ""]:
        """Return the mean of ``1 - cos(features(fake), features(real))``, in [0, 2].

        Args:
            fake: Generated images, RGB in [-1, 1]; the gradient reaches these alone.
            real: Images of the same people.

        Raises:
            UserError: If the file is missing, no exported network, or made for other images.
        """
        # Features in bf16 would lose the small angles that this is about.
        with torch.autocast(fake.device.type, enabled=False):
            network = self._on(fake)
            with torch.no_grad():
                target = network(real.float())
            return 1.0 - F.cosine_similarity(network(fake.float()), target, dim=1).mean()

    def _on(self, images: Tensor) -> Network:
        device = images.device
        if device not in self._by_device:
            network = load_network(self._path, device, SETTING)
            try_network(network, images, SETTING, self._path)
            self._by_device[device] = network
        return self._by_device[device]
