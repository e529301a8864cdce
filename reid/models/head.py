"""The head that classifies a backbone's features in training, with or without a BN neck."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

Neck = Literal["none", "bnneck"]


class BackboneWithHead(nn.Module):
    """A backbone whose features are classified in training and given in evaluation mode.

    The neck is that of Luo et al. 2019, "Bag of tricks", section 3.5: metric losses see the
    features before its batch normalisation, classifier and retrieval those after it; its bias
    stays zero and the classifier has none.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_features: int,
        num_people: int,
        *,
        neck: Neck,
        with_features: bool,
    ) -> None:
        """Draw the classifier from torch's global generator.

        Args:
            backbone: Images to features.
            num_features: Their width.
            num_people: Classes.
            neck: Whether features are normalised before they are classified.
            with_features: In training give logits and features, not logits alone.
        """
        super().__init__()
        self.backbone = backbone
        self.neck: nn.Module = nn.Identity()
        if neck == "bnneck":
            self.neck = nn.BatchNorm1d(num_features)
            self.neck.bias.requires_grad = False
        self.classifier = nn.Linear(num_features, num_people, bias=neck == "none")
        nn.init.normal_(self.classifier.weight, std=0.001)
        if self.classifier.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]
            nn.init.zeros_(self.classifier.bias)
        self._with_features = with_features

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> (
        Float[Tensor, "batch width"]
        | Float[Tensor, "batch people"]
        | tuple[Float[Tensor, "batch people"], Float[Tensor, "batch width"]]
    ):
        """Return the features after the neck; in training logits, or logits and plain features."""
        features = self.backbone(images)
        if not self.training:
            return self.neck(features)
        if torch.compiler.is_compiling():
            # torch 2.11 compiles a backbone and its head apart, but not always as one: the code
            # that it makes of pooling and neck reads a buffer before it is written.
            torch._dynamo.graph_break()  # noqa: SLF001 # pyright: ignore
        logits = self.classifier(self.neck(features))
        return (logits, features) if self._with_features else logits
