"""What a training needs to go on, as one file that only torch's own types are read from."""

from __future__ import annotations

import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from manifests.runtime.console import UserError
from manifests.runtime.files import check_file
from manifests.runtime.storage import replacing


def write_training_state(state: Mapping[str, Any], path: Path) -> None:
    """Write a state, whole or not at all; equal states give equal bytes.

    Raises:
        UserError: If it cannot be written.
    """
    with replacing(path) as file:
        torch.save(_with_shared_strings(state), file)


def check_finite_weights(network: nn.Module, path: Path) -> None:
    """Check that a network can be trained on, before its state replaces one that can.

    Gradients may be no numbers where the losses still are.

    Raises:
        UserError: If a weight is not finite; names the file of the state.
    """
    weights = [weight.detach().isfinite().all() for weight in network.parameters()]
    if weights and not torch.stack(weights).all():
        raise UserError(
            f"{path}: found weights that are not finite after the last step, expected numbers (a "
            "lower learning rate or --precision float32 may help); log and state of before are kept"
        )


def read_training_state(path: Path, device: torch.device) -> dict[str, Any]:
    """Return a state, its tensors on a device.

    Raises:
        UserError: If it cannot be read.
    """
    check_file(path, "the training state that this command wrote")
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # whatever a damaged or foreign file raises
        raise unusable_state(path) from error
    if not isinstance(state, dict):
        raise unusable_state(path)
    return state


def unusable_state(path: Path) -> UserError:
    """Return the error of a state that is damaged, or of another training."""
    return UserError(
        f"{path}: found no readable training state, expected the file that this command wrote; put "
        "it back, or remove it to begin at the first step"
    )


@contextmanager
def restoring(path: Path) -> Generator[None]:
    """Turn what a state of another shape raises into one sentence.

    Raises:
        UserError: If the block cannot restore from the state.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise unusable_state(path) from error


def _with_shared_strings(value: Any) -> Any:
    """Return an equal value in which equal strings are one object.

    Pickle writes an object that it meets again as a reference, so two equal strings are one or two
    objects by how a process came by them: a straight run and a resumed one would differ in bytes.
    """
    if isinstance(value, str):
        return sys.intern(value)
    if isinstance(value, Mapping):
        return {
            _with_shared_strings(key): _with_shared_strings(entry) for key, entry in value.items()
        }
    if isinstance(value, list | tuple):
        return type(value)([_with_shared_strings(entry) for entry in value])
    return value
