"""timm's networks as backbones (Wightman, github.com/huggingface/pytorch-image-models)."""

from __future__ import annotations

from typing import Any, Final

from torch import nn

from manifests.compute.external_weights import optional_module
from manifests.runtime.console import UserError
from reid.data.augmentation import Normalisation
from reid.models.backbone import Backbone, BackboneOptions

PACKAGE: Final = "timm"
_INSTALL: Final = 'pip install "reid-augment[timm]"'


def names() -> list[str]:
    """Return timm's names of networks, without those of their weights.

    Raises:
        UserError: If timm is not installed.
    """
    return _timm().list_models()


def build(name: str, options: BackboneOptions) -> Backbone:
    """Return a network without its classifier, normalised as timm's weights of that name are.

    A last stride of 1 is timm's ``output_stride=16``, which also widens the kernels that follow, so
    that they see what they saw. A network of one image size, such as a ViT, is built for the size.

    Raises:
        UserError: If timm cannot build it with that stride or for that size.
    """
    timm = _timm()
    published = timm.get_pretrained_cfg(name)
    size = (options.height, options.width)
    arguments: dict[str, Any] = {}
    if options.last_stride == 1:
        arguments["output_stride"] = 16
    if published.fixed_input_size:
        arguments["img_size"] = size
    try:
        module: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **arguments)
    except (TypeError, ValueError, AssertionError, NotImplementedError, RuntimeError) as error:
        flags = f"--last-stride {options.last_stride} --height {size[0]} --width {size[1]}"
        raise UserError(
            f"--model timm/{name}: timm cannot build it with {flags} ({error}); expected a network "
            "that can have them, or other values"
        ) from error
    width: int = getattr(module, "head_hidden_size", None) or module.num_features  # pyright: ignore[reportAssignmentType]
    return Backbone(
        module,
        width,
        Normalisation(published.mean, published.std),
        size if published.fixed_input_size else None,
    )


def _timm() -> Any:
    return optional_module("timm", "timm", _INSTALL)
