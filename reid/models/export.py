"""Write a trained network as one file that needs nothing of ours: ``reid export``.

Every file is read back and run before it is written: its features must be those of the network.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tyro.conf import Positional

from manifests.io import write_bytes
from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.settings import Frozen
from reid.models.features import Embedder, load_network
from reid.models.run_folder import read_run

Format = Literal["pt2", "onnx"]

TOLERANCE: Final = 1e-4
"""Relative to the largest feature: float32 rounding of another order of the same sums."""

ONNX_OPSET: Final = 18
_INSTALL: Final = 'pip install "reid-augment[onnx]"'


class ExportSettings(Frozen):
    """Export a run's network: images in [-1, 1] to features, normalisation inside."""

    run: Positional[Path]
    """Folder of a finished reid train."""
    out: Path
    """File to write, for example net.pt2 or net.onnx."""
    format: Literal["auto"] | Format = "auto"
    """pt2 is torch.export's; onnx needs the extra [onnx]; auto goes by the ending of --out."""
    which: Literal["auto", "last", "best"] = "auto"
    """Weights to export: auto is best where the run set validation people aside, else last."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A network as a file, and how to run it from there."""

    data: bytes
    run: Callable[[Float[Tensor, "batch 3 height width"]], Float[Tensor, "batch width"]]


def export(settings: ExportSettings, console: Console) -> Exit:
    """Write N x 3 x H x W float32 in [-1, 1] to N x D, once it gives the network's features.

    Raises:
        UserError: If the run is not finished, the format's packages are missing, or the exported
            network differs from the network; then nothing is written.
    """
    form = _format_of(settings)
    run = read_run(settings.run)
    which = run.default_weights if settings.which == "auto" else settings.which
    network = Embedder(load_network(run, which)).eval()
    height, width = run.recipe["height"], run.recipe["width"]
    generator = torch.Generator().manual_seed(0)
    sample = torch.rand(2, 3, height, width, generator=generator) * 2 - 1
    check = torch.rand(5, 3, height, width, generator=generator) * 2 - 1
    with _muted(), torch.inference_mode():
        expected = network(check)
    with _muted():
        exported = _as_pt2(network, sample) if form == "pt2" else _as_onnx(network, sample)
        error = difference(exported, check, expected)
    if not error <= TOLERANCE:
        raise UserError(
            f"{settings.run}: the network exported as {form} differs by {error:.1e} of the largest "
            f"feature; expected at most {TOLERANCE:.0e}, so nothing was written"
        )
    write_bytes(exported.data, settings.out)
    console.say(
        f"{settings.out}: {form}, N x 3 x {height} x {width} in [-1, 1] to N x "
        f"{expected.shape[1]}, differs from the network by {error:.1e} of the largest feature",
        event="exported",
        path=str(settings.out),
        format=form,
        error=error,
    )
    return Exit.DONE


def difference(
    exported: Exported,
    images: Float[Tensor, "batch 3 height width"],
    expected: Float[Tensor, "batch width"],
) -> float:
    """Return how far the exported network is off, relative to the largest feature."""
    with torch.inference_mode():
        found = exported.run(images)
    return float((found - expected).abs().max() / expected.abs().max())


def _format_of(settings: ExportSettings) -> Format:
    if settings.format != "auto":
        return settings.format
    forms: dict[str, Format] = {".pt2": "pt2", ".onnx": "onnx"}
    if settings.out.suffix not in forms:
        raise UserError(
            f"--out {settings.out}: found the ending '{settings.out.suffix}', expected .pt2 or "
            ".onnx, or --format"
        )
    return forms[settings.out.suffix]


def _as_pt2(network: nn.Module, sample: Tensor) -> Exported:
    program = torch.export.export(
        network, (sample,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
    )
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return Exported(buffer.getvalue(), torch.export.load(io.BytesIO(buffer.getvalue())).module())


def _as_onnx(network: nn.Module, sample: Tensor) -> Exported:
    runtime = _optional("onnxruntime")
    for name in ("onnx", "onnxscript"):
        _optional(name)
    program: Any = torch.onnx.export(
        network,
        (sample,),
        dynamo=True,
        opset_version=ONNX_OPSET,
        input_names=["images"],
        output_names=["features"],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        verbose=False,
    )
    data: bytes = program.model_proto.SerializeToString()
    session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["features"], {"images": images.numpy()})[0])

    return Exported(data, run)


def _optional(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{name} is not installed, which ONNX needs; {_INSTALL} brings it"
        ) from error


@contextmanager
def _muted() -> Generator[None]:
    """Keep away what the exporters say of their own read-only buffers and operator versions."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
