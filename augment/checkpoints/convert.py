"""The authors' weights to ours: every tensor accounted for, or nothing is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from augment import generators
from augment.checkpoints.store import Header, check_same_tensors, expected_tensors, save_weights
from augment.interface.system import PoseTransfer
from manifests import io
from manifests.compute.external_weights import read_state_dict, without_prefix
from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.settings import Frozen

TERMS: Mapping[str, str] = {
    "patn": "MIT",
    "xinggan": "CC BY-NC-SA 4.0, non-commercial",
    "gfla": "CC BY-NC 4.0, non-commercial",
    "dptn": "CC BY-NC 4.0, non-commercial",
    "pg2": "MIT",
    "dpig": "MIT",
}
"""Licences under which the authors published their weights."""


class ConvertSettings(Frozen):
    """Read weights that a system's authors published."""

    generator: str = "patn"
    """Whose weights they are; its settings follow as --config.NAME (published sizes by default)."""
    official: tuple[Path, ...]
    """The authors' files (.pth; .npz of TensorFlow variables by name): the generator's, and any of
    the discriminators'. Training starts from these too (augment train --init); sampling needs none
    of them."""
    out: Path
    """Where ours goes (.safetensors)."""


def settings_for(arguments: Sequence[str]) -> type[ConvertSettings]:
    """Return the settings of ``augment convert``, with those of the system that is named."""
    return generators.with_config(ConvertSettings, arguments)


def convert(settings: ConvertSettings, console: Console) -> Exit:
    """Run the command ``augment convert``; ``settings`` is of the class of ``settings_for``."""
    config: Frozen = getattr(settings, "config")  # noqa: B009 - the class is made by settings_for
    count = convert_weights(settings.generator, config, settings.official, settings.out)
    files = ", ".join(str(path) for path in settings.official)
    console.say(f"{settings.out}: {count} tensors of {files}, every one accounted for")
    return Exit.DONE


def read_official(path: Path) -> dict[str, Tensor]:
    """Return an authors' state dict without prefixes; nothing in the file is executed.

    Raises:
        UserError: If the file is missing, of another kind, or holds anything but named tensors.
    """
    return without_prefix(read_state_dict(path, "--official"), "model.")


def convert_weights(generator: str, config: Frozen, official: Sequence[Path], out: Path) -> int:
    """Write the authors' weights as ours and return how many tensors there were.

    Args:
        generator: A system's name.
        config: Its settings.
        official: The authors' files: the generator's, and any of the discriminators'.
        out: Our file.

    Raises:
        UserError: If tensors are missing, left over or of another shape; nothing is written.
    """
    with torch.device("meta"):
        network = generators.system(generator)(config)
    where = ", ".join(str(path) for path in official)
    tensors = _translated(network, official)
    _check_generator_present(network, tensors, where)
    expected = expected_tensors(network, tensors)
    for name, value in expected.items():
        # Files of torch 0.3 lack the counter, which plays no part in the output.
        if name.endswith("num_batches_tracked"):
            tensors.setdefault(name, torch.zeros_like(value, device="cpu"))
    check_same_tensors(
        tensors, expected, where, lambda name: f"{name} (theirs: {network.official_name(name)})"
    )
    header = Header(
        generator=generator,
        config=config.model_dump(mode="json"),
        facts={
            "origin": "converted from the authors' weights",
            "official_sha256": ", ".join(io.sha256_file(path) for path in official),
            "terms": TERMS.get(generator, "see the authors' repository"),
        },
    )
    save_weights(tensors, out, header)
    return len(tensors)


def _translated(network: PoseTransfer, official: Sequence[Path]) -> dict[str, Tensor]:
    """Return the tensors of all files under our names."""
    tensors: dict[str, Tensor] = {}
    for path in official:
        weights = read_official(path)
        try:
            translated = network.from_official(weights)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        twice = sorted(translated.keys() & tensors.keys())
        if twice:
            raise UserError(
                f"{path}: found '{twice[0]}' and {len(twice) - 1} more tensors that a file named "
                "before it holds too, expected one file of each network"
            )
        tensors |= translated
    return tensors


def _check_generator_present(
    network: PoseTransfer, tensors: Mapping[str, Tensor], where: str
) -> None:
    expected = network.sampling_state()
    if expected.keys().isdisjoint(tensors):
        raise UserError(
            f"{where}: found {len(tensors)} tensors ({', '.join(list(tensors)[:3])}), none of them "
            f"of the generator, expected its {len(expected)} too ({', '.join(list(expected)[:3])})"
        )
