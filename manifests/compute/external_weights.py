"""Networks of others: an optional package, a download, a file of weights."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from manifests.runtime.console import UserError
from manifests.runtime.files import check_file

DOWNLOAD: Final = "download"
EXTRA: Final = 'pip install "reid-augment[quality]"'


def optional_module(name: str, package: str, install: str = EXTRA) -> Any:
    """Return a module of a package that not everybody has.

    Raises:
        UserError: If it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(f"{package} is not installed; {install} brings it") from error


def weights_file(flag: str, address: str, setting: str | None) -> Path:
    """Return the local file of some published weights.

    Args:
        flag: The option that names them, for messages.
        address: Where they are published; the name ends in the first digits of its SHA-256.
        setting: A file, ``download``, or None for what an earlier download left behind.

    Raises:
        UserError: If there is no such file, or the download fails.
    """
    if setting is not None and setting != DOWNLOAD:
        check_file(Path(setting), "a file of weights", f"--{flag}")
        return Path(setting)
    cached = _cached(address)
    if cached.is_file():
        return cached
    if setting is None:
        raise UserError(
            f"found no {cached.name} on this machine; give --{flag} FILE or --{flag} {DOWNLOAD}"
        )
    return download_weights(address, f"--{flag} {DOWNLOAD}", "give a file instead")


def download_weights(url: str, where: str, instead: str) -> Path:
    """Return the local file of some published weights, from torch's cache or the network.

    Args:
        url: Where they are published; the name ends in the first digits of its SHA-256, which a
            download is checked against.
        where: The option that asks for them, for messages.
        instead: What to do without a network, for messages.

    Raises:
        UserError: If the download fails.
    """
    path = _cached(url)
    if path.is_file():
        return path
    first_digits = path.stem.rpartition("-")[2]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=first_digits, progress=False)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{where}: {url} cannot be downloaded to {path.parent}, see TORCH_HOME ({error}); "
            f"{instead}"
        ) from error
    return path


def _cached(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]


def read_state_dict(path: Path, where: str) -> dict[str, Tensor]:
    """Return the tensors of a file of others, without running code from it.

    Reads ``.safetensors``, the arrays of an ``.npz`` and torch's files; a checkpoint gives what it
    holds as ``state_dict`` (torchreid), ``model`` (FastReID, timm) or another name of ``_HOLDERS``,
    and the prefix of DataParallel is taken off.

    Args:
        path: The file.
        where: The option or setting that names it, for messages.

    Raises:
        UserError: If there is no such file, or it holds anything but tensors under names.
    """
    check_file(path, "a state dict of tensors", where)
    try:
        with warnings.catch_warnings():
            # What a library thinks of a foreign file is said below, in a sentence.
            warnings.simplefilter("ignore")
            state = _READERS.get(path.suffix, _unpickle)(path)
    except Exception as error:  # whatever a damaged or foreign file raises
        # torch's own text advises to run whatever code the file holds.
        raise UserError(
            f"{where}: {path} cannot be read as weights ({type(error).__name__}), expected a state "
            "dict of tensors (.pth, .safetensors or .npz)"
        ) from error
    if isinstance(state, dict):
        held = (state.get(name) for name in _HOLDERS)
        state = next((value for value in held if isinstance(value, dict)), state)
    if not isinstance(state, dict):
        raise UserError(f"{where}: {path} holds a {type(state).__name__}, expected a state dict")
    for name, value in state.items():
        problem = _problem_of(name, value)
        if problem:
            raise UserError(f"{where}: {path} holds {problem}, expected a state dict of tensors")
    return without_prefix(state, "module.")


_HOLDERS: Final = ("state_dict", "model", "model_state_dict", "net")
"""What checkpoints call the weights that they hold beside an optimiser and the like."""


def _problem_of(name: Any, value: Any) -> str | None:
    """Return what is wrong with an entry of a state dict."""
    if not isinstance(name, str):
        return f"an entry under {str(name)[:40]!r}, a {type(name).__name__} and no name"
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__} as '{name}'"
    if value.layout is not torch.strided or value.is_quantized or value.is_meta:
        return f"a sparse, quantised or empty tensor as '{name}'"
    return None


def without_prefix(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return weights without a prefix that all their names have, or else as they are."""
    if not all(name.startswith(prefix) for name in weights):
        return weights
    return {name.removeprefix(prefix): value for name, value in weights.items()}


def _read_arrays(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def _unpickle(path: Path) -> Any:
    # torchreid stores its rank-1 as a NumPy scalar; NumPy 1 called the function so.
    scalar = importlib.import_module("numpy._core.multiarray").scalar
    dtypes = [np.dtypes.Float32DType, np.dtypes.Float64DType, np.dtypes.Int64DType]
    known: list[Any] = [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype, *dtypes]
    with torch.serialization.safe_globals(known):
        return torch.load(path, map_location="cpu", weights_only=True)


_READERS: Final[Mapping[str, Callable[[Path], Any]]] = {
    ".safetensors": load_file,
    ".npz": _read_arrays,
}
