"""Where measures get the networks of others: an optional package, a file, a download."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError

import torch

from manifests.runtime.console import UserError

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
        if not Path(setting).is_file():
            raise UserError(f"--{flag}: found no file at {setting}")
        return Path(setting)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / address.rsplit("/", 1)[-1]
    if cached.is_file():
        return cached
    if setting is None:
        raise UserError(
            f"found no {cached.name} on this machine; give --{flag} FILE or --{flag} {DOWNLOAD}"
        )
    try:
        torch.hub.load_state_dict_from_url(
            address, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except (URLError, TimeoutError, ConnectionError, RuntimeError) as error:
        raise UserError(
            f"--{flag} {DOWNLOAD}: {address} cannot be had ({error}); give a file instead"
        ) from error
    return cached


def read_weights(path: Path, flag: str) -> dict[str, torch.Tensor]:
    """Return the state dict of a file without running code from it.

    Raises:
        UserError: If the file holds anything but tensors under names.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or foreign file raises
        # torch's own text advises to run whatever code the file holds.
        raise UserError(
            f"--{flag}: {path} is no file of weights ({type(error).__name__})"
        ) from error
    if not isinstance(state, dict):
        raise UserError(f"--{flag}: {path} holds a {type(state).__name__}, expected a state dict")
    return state
