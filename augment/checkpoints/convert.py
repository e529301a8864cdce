"""The authors' weights to ours: every tensor accounted for, or nothing is written."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from augment import generators
from augment.checkpoints.store import Header, refuse_difference, save_weights
from manifests import io
from manifests.console import Console, Exit, UserError
from manifests.settings import Frozen

WRAPPERS = ("module.", "model.")

TERMS: Mapping[str, str] = {
    "patn": "MIT",
    "xinggan": "CC BY-NC-SA 4.0, non-commercial",
    "gfla": "CC BY-NC 4.0, non-commercial",
    "dptn": "CC BY-NC 4.0, non-commercial",
}
"""Licences under which the authors published their weights."""


class ConvertSettings(Frozen):
    """Read weights that a system's authors published."""

    generator: str = "patn"
    """Whose weights they are; its settings follow as --config.NAME (published sizes by default)."""
    official: Path
    """The authors' file (.pth)."""
    out: Path
    """Where ours goes (.safetensors)."""


def settings_for(words: Sequence[str]) -> type[ConvertSettings]:
    """Return the settings of ``augment convert``, with those of the system that the words name."""
    return generators.with_config(ConvertSettings, words)


def convert(settings: ConvertSettings, console: Console) -> Exit:
    """Run the command ``augment convert``; ``settings`` is of the class of ``settings_for``."""
    config: Frozen = getattr(settings, "config")  # noqa: B009 - the class is made by settings_for
    count = convert_weights(settings.generator, config, settings.official, settings.out)
    console.say(f"{settings.out}: {count} tensors of {settings.official}, every one accounted for")
    return Exit.DONE


def read_official(path: Path) -> dict[str, Tensor]:
    """Return an authors' state dict without wrapper prefixes; nothing in the file is executed.

    Raises:
        UserError: If the file is missing, no torch file, or holds anything but named tensors.
    """
    if not path.is_file():
        raise UserError(f"found no file {path}, expected the authors' .pth")
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(f"{path}: not a torch file of tensors ({error})") from error
    if not isinstance(loaded, Mapping) or not all(
        isinstance(value, Tensor) for value in loaded.values()
    ):
        raise UserError(f"{path}: expected a state dict, names with tensors")
    weights = cast("dict[str, Tensor]", dict(loaded))
    for prefix in WRAPPERS:
        if weights and all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def convert_weights(generator: str, config: Frozen, official: Path, out: Path) -> int:
    """Write the authors' weights as ours and return how many tensors there were.

    Args:
        generator: A system's name.
        config: Its settings.
        official: The authors' file.
        out: Our file.

    Raises:
        UserError: If tensors are missing, left over or of another shape; nothing is written.
    """
    network = generators.system(generator)
    with torch.device("meta"):
        expected = network(config).sampling_state()
    tensors = network.from_official(read_official(official))
    for name, value in expected.items():
        # Files of torch 0.3 lack the counter, which plays no part in the output.
        if name.endswith("num_batches_tracked"):
            tensors.setdefault(name, torch.zeros_like(value, device="cpu"))
    refuse_difference(tensors, expected, str(official))
    header = Header(
        generator=generator,
        config=config.model_dump(mode="json"),
        facts={
            "origin": "converted from the authors' weights",
            "official_sha256": io.sha256_file(official),
            "terms": TERMS.get(generator, "see the authors' repository"),
        },
    )
    save_weights(tensors, out, header)
    return len(tensors)
