"""Networks that came as one file, a program of torch.export: ``reid export`` writes them.

The program takes N x 3 x H x W float32 in [-1, 1] and gives N x D features; what made it need not
be installed.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.fx import GraphModule

from manifests import io
from manifests.runtime.console import UserError
from manifests.runtime.files import check_file

Network = Callable[[Float[Tensor, "batch 3 height width"]], Float[Tensor, "batch features"]]


def load_network(path: Path, device: torch.device | str, flag: str) -> GraphModule:
    """Return a network, frozen; gradients pass through it to the images.

    Args:
        path: The file.
        device: Where it runs.
        flag: The option that names the file, for messages.

    Raises:
        UserError: If the file is missing or no exported program.
    """
    check_file(path, "one written by 'reid export'", flag)
    try:
        with warnings.catch_warnings(), _without_log():
            # torch warns of its own archive's read-only buffers.
            warnings.simplefilter("ignore")
            program = torch.export.load(path)
    except Exception as error:  # whatever a damaged or foreign file raises
        raise UserError(f"{flag}: {path} was not written by 'reid export' ({error})") from error
    if torch.device(device).type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, torch.device(device))
    network = program.module()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return network


@contextmanager
def _without_log() -> Generator[None]:
    """Keep what torch logs of a foreign file, a whole traceback, from the user."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        yield
    finally:
        logging.disable(before)


def sha256_of_network(path: str, flag: str) -> str:
    """Return the digest of a network's file.

    Raises:
        UserError: If there is none.
    """
    check_file(Path(path), "one written by 'reid export'", flag)
    return io.sha256_file(Path(path))


def try_network(network: Network, images: Tensor, flag: str, path: Path) -> None:
    """Refuse a network that does not give a feature per image of this size.

    Raises:
        UserError: Naming ``flag`` and ``path``.
    """
    shape = tuple(images.shape[1:])
    try:
        with torch.no_grad():
            features = network(images.detach().float())
    except (RuntimeError, AssertionError, TypeError) as error:
        raise UserError(
            f"{flag}: {path} does not take images of 3 x height x width {shape}; expected a "
            f"network of 'reid export' for that size ({str(error).splitlines()[0]})"
        ) from error
    if features.ndim != 2 or len(features) != len(images):
        raise UserError(f"{flag}: {path} does not give one row of features for each image")
