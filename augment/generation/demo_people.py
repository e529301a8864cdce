"""Made-up people, for runs without ``--images``."""

from __future__ import annotations

from pathlib import Path

from manifests import io
from manifests.datasets import market1501, mask_files
from manifests.people.dataset import KEYPOINT_FILES, MASKS, SampleSettings, draw_data_set
from manifests.runtime.console import Console, UserError
from manifests.runtime.object_store import ObjectStorePath
from manifests.runtime.storage import StoragePath


def made_up_people(out: StoragePath, console: Console) -> Path:
    """Return the images table of made-up people beside a run's folder, drawn if not yet there.

    Those of a run in a store are drawn in the folder the command is typed in, under the same name:
    every worker draws the same people for itself.

    Raises:
        UserError: If the folder holds something else or cannot be written.
    """
    if isinstance(out, ObjectStorePath):
        folder = Path(f"{out.name}-people")
    else:
        # "." and ".." have no name of their own.
        named = out if out.name not in {"", ".."} else out.resolve()
        if not named.name:
            raise UserError(f"--out {out}: found the root of all folders, expected a folder in it")
        folder = named.with_name(f"{named.name}-people")
    table = folder / "images.parquet"
    if not table.exists():
        console.say(
            f"no --images: drawing made-up people into {folder}", event="sample", folder=str(folder)
        )
        draw_data_set(folder, SampleSettings())
        files = [folder / name for name in KEYPOINT_FILES.values()]
        images, _ = mask_files.add_masks(market1501.index(folder, files)[0], folder / MASKS)
        io.write_images(images, table)
    return table
