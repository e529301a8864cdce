"""Write a trained network as one file that needs nothing of ours: ``reid export``."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Final, Literal

import torch
from tyro.conf import Positional

from manifests.console import Console, Exit, UserError
from manifests.io import write_bytes
from manifests.settings import Frozen
from reid.embed import Embedder, load_network
from reid.runs import read_run

TOLERANCE: Final = 1e-4
"""Relative to the largest feature: float32 rounding of another order of the same sums."""


class ExportSettings(Frozen):
    """Export a run's network by torch.export: images in [-1, 1] to features."""

    run: Positional[Path]
    """Folder of a finished reid train."""
    out: Path
    """File to write, for example net.pt2."""
    which: Literal["auto", "last", "best"] = "auto"
    """Weights to export: auto is best where the run set validation people aside, else last."""


def export(settings: ExportSettings, console: Console) -> Exit:
    """Write N x 3 x H x W float32 in [-1, 1] to N x D, and check it against the network.

    Raises:
        UserError: If the run is not finished.
    """
    run = read_run(settings.run)
    which = run.default_weights if settings.which == "auto" else settings.which
    network = Embedder(load_network(run, which)).eval()
    height, width = run.recipe["height"], run.recipe["width"]
    generator = torch.Generator().manual_seed(0)
    sample = torch.rand(2, 3, height, width, generator=generator) * 2 - 1
    program = torch.export.export(
        network, (sample,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
    )
    buffer = io.BytesIO()
    check = torch.rand(5, 3, height, width, generator=generator) * 2 - 1
    with warnings.catch_warnings():
        # torch warns of its own archive's read-only buffers and of shared storages.
        warnings.simplefilter("ignore")
        torch.export.save(program, buffer)
        buffer.seek(0)
        with torch.inference_mode():
            expected = network(check)
            found = torch.export.load(buffer).module()(check)
    error = float((found - expected).abs().max() / expected.abs().max())
    if not error <= TOLERANCE:
        raise UserError(
            f"{settings.run}: the exported network differs by {error:.1e} of the largest feature; "
            f"expected at most {TOLERANCE:.0e}"
        )
    write_bytes(buffer.getvalue(), settings.out)
    console.say(
        f"{settings.out}: N x 3 x {height} x {width} in [-1, 1] to N x {expected.shape[1]}, "
        f"differs from the network by {error:.1e}",
        event="exported",
        path=str(settings.out),
        error=error,
    )
    return Exit.DONE
