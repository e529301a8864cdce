"""The command ``augment index``: a folder of crops becomes an images table."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from manifests import io
from manifests.datasets import folder, market1501
from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.settings import Frozen


class IndexSettings(Frozen):
    """List images with their people, cameras, splits and keypoints."""

    root: Positional[Path]
    """Folder in Market-1501 layout; with --table or --pattern any folder of crops."""
    out: Path
    """Where the table goes (.parquet)."""
    keypoints: tuple[Path, ...] = ()
    """Keypoint files as published: name:keypoints_y:keypoints_x."""
    table: Path | None = None
    """CSV with columns path, person_id, camera_id, split; its paths start at ROOT."""
    pattern: str | None = None
    """Regular expression of the paths below ROOT, with named groups person_id, camera_id, split."""


def index(settings: IndexSettings, console: Console) -> Exit:
    """Write the table and say what was found.

    Raises:
        UserError: If the folder, a file or a name is not as expected.
    """
    if settings.table is not None and settings.pattern is not None:
        raise UserError("found --table and --pattern, expected one of them")
    if settings.keypoints and (settings.table is not None or settings.pattern is not None):
        raise UserError("found --keypoints with --table or --pattern; they go with Market-1501")
    if settings.table is not None:
        images, report = folder.index_table(settings.root, settings.table)
    elif settings.pattern is not None:
        images, report = folder.index_pattern(settings.root, settings.pattern)
    else:
        images, report = market1501.index(settings.root, settings.keypoints)
    io.write_images(images, settings.out)
    console.say(report.text())
    console.say(f"{settings.out}: {len(images):,} rows")
    return Exit.DONE
