"""Weights on disk: safetensors, everything needed to rebuild the network in the header.

The header has one metadata key, since the order of several differs from process to process.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from augment import generators
from augment.interface.system import PoseTransfer
from manifests import io
from manifests.runtime.console import UserError, one_line
from manifests.runtime.files import found_at
from manifests.runtime.settings import Frozen

METADATA_KEY: Final = "augment"

SHIPPED: Final = Path(__file__).parent / "shipped"


class Header(Frozen):
    """What a weights file says about itself."""

    generator: str
    config: dict[str, str | int | float | bool | None]
    """The system's ``Config``."""
    facts: dict[str, str | int | float]
    """Where the weights come from: data, steps, seed, feature network, terms."""


def shipped() -> list[str]:
    """Return the names of the weights that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.safetensors"))


def find(weights: str | Path) -> Path:
    """Return the file of a shipped name or a path.

    Raises:
        UserError: If there is neither.
    """
    for candidate in (Path(weights), SHIPPED / f"{weights}.safetensors"):
        if found_at(candidate) is None:
            return candidate
    raise UserError(
        f"found no weights file {weights}, and no shipped weights of that name; "
        f"expected a file or one of {', '.join(shipped()) or '(none shipped)'}"
    )


def save_weights(
    tensors: Mapping[str, Tensor], path: Path, header: Header, *, fp16: bool = False
) -> None:
    """Write weights, whole or not at all; equal weights give equal bytes.

    Args:
        tensors: Those of the children named in ``sampling``, and of any of the ``discriminators``.
        path: The file.
        header: What the file says about itself.
        fp16: Store weights of two and more dimensions in half precision.
    """
    stored = {
        name: (
            value.to(torch.float16)
            if fp16 and value.is_floating_point() and value.ndim > 1
            else value
        )
        .detach()
        .cpu()
        .contiguous()
        for name, value in sorted(tensors.items())
    }
    io.write_bytes(save(stored, {METADATA_KEY: header.to_json()}), path)


def read_header(path: Path) -> Header:
    """Return what a weights file says about itself.

    Raises:
        UserError: If it is no weights file of ours.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error})") from error
    if METADATA_KEY not in metadata:
        raise UserError(
            f"{path}: found a safetensors file without our header; expected weights written by "
            "'augment train' or 'augment convert'"
        )
    return Header.from_json(metadata[METADATA_KEY], where=f"header of {path}")


def name_and_terms(weights: str | Path) -> str:
    """Return which weights these are and under what terms, as their header or else their card says.

    Raises:
        UserError: If there is no such file, or it is none of ours.
    """
    path = find(weights)
    header = read_header(path)
    card = path.with_suffix(".md") if path.parent == SHIPPED else None
    terms = header.facts.get("terms")
    if terms is None and card is not None:
        found = re.search(r"^\| terms \| (.*) \|$", card.read_text("utf-8"), re.MULTILINE)
        terms = found and found[1]
    if terms is None:
        terms = "the file names none, so those of the images that it was trained on"
    nothing_is_trained = header.facts.get("train_images") == 0
    what = f"{weights}, without trained weights" if nothing_is_trained else f"weights {weights}"
    return one_line(f"{what}; terms: {terms}" + (f" (see {card})" if card else ""))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return a file's tensors; those stored in half precision as float32."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    # In memory of their own: products sum in another order where a file puts weights off the
    # boundaries that a tensor of torch's begins at.
    return {
        name: value.to(torch.float32 if value.is_floating_point() else value.dtype, copy=True)
        for name, value in tensors.items()
    }


def load(weights: str | Path, device: torch.device | str = "cpu") -> PoseTransfer:
    """Return a network ready to generate, without what only training needs.

    Args:
        weights: A shipped name or a file.
        device: Where the network goes.

    Raises:
        UserError: If there is no such file, it is none of ours, or its tensors are not those of
            its system.
    """
    path = find(weights)
    header = read_header(path)
    network_class = generators.system(header.generator)
    config = network_class.Config.from_json(json.dumps(header.config), where=f"header of {path}")
    try:
        with torch.device("meta"):
            network = network_class(config)
    except (TypeError, OverflowError, RuntimeError) as error:
        raise UserError(
            f"header of {path}: found settings that no {header.generator} can be built with; "
            "expected those of a training"
        ) from error
    tensors = read_tensors(path)
    check_same_tensors(tensors, expected_tensors(network, tensors), f"{path} ({header.generator})")
    for name, _ in list(network.named_children()):
        if name not in network.sampling:
            delattr(network, name)
    needed = {name: tensors[name] for name in network.state_dict()}
    network.load_state_dict(needed, assign=True)
    return network.to(device).eval()


def system_of(weights: str | Path) -> type[PoseTransfer]:
    """Return the class of the system that weights belong to.

    Args:
        weights: A shipped name or a file.

    Raises:
        UserError: If there is no such file, or it is none of ours.
    """
    return generators.system(read_header(find(weights)).generator)


def expected_tensors(network: PoseTransfer, names: Iterable[str]) -> dict[str, Tensor]:
    """Return the tensors that a file must hold if it holds those of some names.

    All that sampling needs, and all of every discriminator of which there is one.
    """
    names = tuple(names)
    begun = tuple(
        f"{discriminator}."
        for discriminator in network.discriminator_names
        if any(name.startswith(f"{discriminator}.") for name in names)
    )
    discriminators = {
        name: value for name, value in network.state_dict().items() if name.startswith(begun)
    }
    return network.sampling_state() | discriminators


def check_same_tensors(
    found: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    where: str,
    called: Callable[[str], str] = str,
) -> None:
    """Refuse tensors that are missing, left over, or of another shape.

    Args:
        found: What a file holds.
        expected: What it must hold.
        where: The file, for the message.
        called: What the message calls a tensor of a name.

    Raises:
        UserError: With some names of both sides.
    """
    missing = sorted(set(expected) - set(found))
    extra = sorted(set(found) - set(expected))
    shapes = [
        f"{called(name)} {tuple(found[name].shape)} for {tuple(expected[name].shape)}"
        for name in sorted(set(found) & set(expected))
        if found[name].shape != expected[name].shape
    ]
    problems = [
        f"{what} {len(named)}: {', '.join(named[:3])}{', ...' if len(named) > 3 else ''}"
        for what, named in (
            ("missing", [called(name) for name in missing]),
            ("unknown", [called(name) for name in extra]),
            ("of other shape", shapes),
        )
        if named
    ]
    if problems:
        raise UserError(f"{where}: tensors {'; '.join(problems)}")
