"""Weights that a training starts from: files of others, read without running anything in them."""

from __future__ import annotations

import pickle
from importlib import import_module
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from manifests.runtime.console import UserError
from reid.models.network import BNNeck

_UNREADABLE: Final = (
    *(OSError, EOFError, LookupError, RuntimeError, ValueError),
    *(pickle.UnpicklingError, SafetensorError),
)
"""What the readers raise of a file that holds something else."""


def download_imagenet(model: str) -> Path:
    """Return torchvision's ImageNet weights of a network, from torch's cache or the network.

    The first published ones (``IMAGENET1K_V1``), which re-ID papers start from.

    Raises:
        UserError: If torchvision has no network of that name, or the download fails.
    """
    models: Any = import_module("torchvision.models")
    if model not in models.list_models():
        raise UserError(
            f"torchvision has no ImageNet weights of '{model}'; expected --weights FILE"
        )
    url: str = models.get_model_weights(model)["IMAGENET1K_V1"].url
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        beginning = path.stem.rpartition("-")[2]
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=beginning, progress=False)
        except (URLError, OSError, RuntimeError) as error:
            raise UserError(f"{url} cannot be downloaded ({error}); give --weights FILE") from error
    return path


def start_from(network: nn.Module, path: Path) -> list[str]:
    """Load the weights that fit by name and shape; return the names of those that did not.

    Reads ``.safetensors`` and state files of torch, torchreid's own included. Weights of a plain
    network go into the backbone of one with a neck.

    Raises:
        UserError: If the file cannot be read or fewer than half of the tensors fit.
    """
    found = _read_weights(path)
    own = network.state_dict()
    if isinstance(network, BNNeck) and not any(name.startswith("backbone.") for name in found):
        found = {f"backbone.{name}": tensor for name, tensor in found.items()}
    fitting = {
        name: tensor
        for name, tensor in found.items()
        if name in own and own[name].shape == tensor.shape
    }
    if len(fitting) < len(own) / 2:
        raise UserError(
            f"{path}: {len(fitting)} of {len(own)} tensors fit the network; expected weights of "
            "the same --model"
        )
    network.load_state_dict(fitting, strict=False)
    return sorted(set(own) - set(fitting))


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load(path.read_bytes())
        # torchreid stores its rank-1 as a NumPy scalar.
        scalar = import_module("numpy._core.multiarray").scalar
        with torch.serialization.safe_globals([scalar, np.dtype, np.dtypes.Float32DType]):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise UserError(
            f"{path} cannot be read as weights ({type(error).__name__}: {error})"
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    return {
        str(name).removeprefix("module."): tensor
        for name, tensor in state.items()
        if isinstance(tensor, Tensor)
    }
