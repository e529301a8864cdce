"""Inception Score and the Inception network that it and FID are computed with.

The network is the TensorFlow Inception of 2015-12-05 in torch-fidelity's port: the graph of the
published evaluators, its 1,008 outputs without bias, its own way of resizing to 299 x 299.
torch-fidelity and not torchmetrics, whose Inception is torch-fidelity's anyhow. torchvision's
Inception has other weights and gives other numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from manifests.compute.external_weights import optional_module, read_state_dict, weights_file

NUM_SPLITS = 10


@dataclass(frozen=True, slots=True)
class InceptionOutputs:
    """What the metrics take from the network."""

    pool3: Float[Tensor, "batch 2048"]
    logits: Float[Tensor, "batch 1008"]


Inception = Callable[[UInt8[Tensor, "batch 3 height width"]], InceptionOutputs]


def load_inception(setting: str | None, device: torch.device | str) -> Inception:
    """Return the network of FID and IS.

    Args:
        setting: A file of torch-fidelity's weights (``weights-inception-2015-12-05-6726825d.pth``),
            ``download``, or None for what an earlier download left on this machine.
        device: Where it runs.

    Raises:
        UserError: If torch-fidelity is not installed, or the weights cannot be had.
    """
    module = optional_module("torch_fidelity.feature_extractor_inceptionv3", "torch-fidelity")
    path = weights_file("inception", module.URL_INCEPTION_V3, setting)
    # torch-fidelity would unpickle anything; a file that passes here holds tensors only.
    read_state_dict(path, "--inception")
    network: Any = module.FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
    ).to(device)

    def outputs(images: UInt8[Tensor, "batch 3 height width"]) -> InceptionOutputs:
        with torch.inference_mode():
            pool3, logits = network(images.contiguous())
        return InceptionOutputs(pool3, logits)

    return outputs


class InceptionScore:
    """Inception Score of a known number of images, streamed.

    Salimans et al. 2016: ``exp(mean KL(p(y|x) || p(y)))`` within each of 10 consecutive splits,
    then the mean over the splits. ``p(y)`` is the split's own mean, so the value depends on the
    order and the number of images.

    >>> score = InceptionScore(20)
    >>> score.update(torch.eye(2).repeat(10, 1) * 1e3)
    >>> round(score.value(), 6)
    2.0
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._seen = 0
        self._negative_entropy = torch.zeros(NUM_SPLITS, dtype=torch.float64)
        self._probabilities: Tensor | None = None

    def update(self, logits: Float[Tensor, "batch classes"]) -> None:
        """Take the next images."""
        log = logits.detach().to("cpu", torch.float64).log_softmax(dim=1)
        probabilities = log.exp()
        if self._probabilities is None:
            self._probabilities = torch.zeros(NUM_SPLITS, log.shape[1], dtype=torch.float64)
        index = torch.arange(self._seen, self._seen + len(log))
        # Split i holds the images i * total // 10 up to (i + 1) * total // 10.
        split = ((index + 1) * NUM_SPLITS - 1) // self._total
        self._negative_entropy.index_add_(0, split, (probabilities * log).sum(dim=1))
        self._probabilities.index_add_(0, split, probabilities)
        self._seen += len(log)

    def value(self) -> float:
        """Return the score.

        Raises:
            ValueError: If not all images came, or fewer than there are splits.
        """
        if self._seen != self._total or self._probabilities is None or self._total < NUM_SPLITS:
            raise ValueError(f"found {self._seen} images, expected {self._total}, at least 10")
        count = self._probabilities.sum(dim=1)
        mean = self._probabilities / count[:, None]
        divergence = self._negative_entropy / count - torch.xlogy(mean, mean).sum(dim=1)
        return float(divergence.exp().mean())
