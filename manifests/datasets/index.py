"""The command ``augment index``: the folder of a data set becomes an images table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated

from pydantic import create_model
from tyro.conf import Positional, arg

from manifests import io
from manifests.datasets.keypoint_files import (
    READING,
    KeypointFormat,
    KeypointOptions,
    KeypointOrder,
    MissingJoint,
)
from manifests.datasets.layouts import DEFAULT, NO_OPTIONS, LayoutOptions, layout, layouts
from manifests.datasets.mask_files import add_masks
from manifests.datasets.skipped import Leniency
from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.settings import Frozen


class IndexSettings(Frozen):
    """List images with their people, cameras, splits and keypoints."""

    root: Positional[Path]
    """Folder of the data set."""
    out: Path
    """Where the table goes (.parquet)."""
    layout: str | None = None
    """How the folder is read."""
    keypoints: tuple[Path, ...] = ()
    """Keypoint files: the published name:keypoints_y:keypoints_x, JSON in COCO's format, or a
    folder of OpenPose's JSON files."""
    keypoint_format: KeypointFormat | None = None
    """Which joints a file has, if not what its JSON says; openpose18 for the published files."""
    keypoint_order: KeypointOrder = "xy"
    """yx where the two coordinates have changed places."""
    keypoint_scale: str = "pixels"
    """pixels, unit (0 to 1), or WIDTHxHEIGHT of the image that they were made for."""
    keypoint_missing: MissingJoint = "minus-one"
    """zero where 0,0 stands for a missing joint."""
    table: Path | None = None
    """CSV with columns path, person_id, camera_id and, unless --test-people draws it, split; its
    paths start at ROOT (folder)."""
    pattern: str | None = None
    """Regular expression of the paths below ROOT, with named groups person_id, camera_id, split
    (folder)."""
    columns: tuple[str, ...] = ()
    """How columns of --table are called: person_id=identity camera_id=cam (folder)."""
    test_people: float = 0.0
    """Crops without a split: draw this share of the people for tests, a query of every camera with
    several of their images (of one, where none has), the rest gallery; 0.5 is usual (folder)."""
    allow_skipped: bool = False
    """Go on where images are left out by their names, or a folder cannot be read."""
    skip_broken: bool = False
    """Leave out, and count, images, masks and JSON files of keypoints that cannot be read."""

    masks: Path | None = None
    """Folder of PNG masks by image name (IMAGE.png): grey, 0 and 1, or a palette; black is not the
    person."""
    masks_tool: str | None = None
    """What drew these masks, in your words; the table's footer keeps it."""
    scale_masks: bool = False
    """Scale masks of another size than their image instead of refusing them."""
    masks_from_joints: bool = False
    """Draw a mask around the joints of images that have no mask file."""

    @property
    def layout_name(self) -> str:
        """The layout that is given, or that the flags imply."""
        by_flags = self.table is not None or self.pattern is not None
        return self.layout or ("folder" if by_flags else DEFAULT)


def settings_for(arguments: Sequence[str]) -> type[IndexSettings]:
    """Return the settings with every layout in the help of ``--layout``."""
    del arguments
    known = "; ".join(f"{name}: {found.summary}" for name, found in layouts().items())
    text = f"{known}. Without it folder with --table or --pattern, else {DEFAULT}."
    described = Annotated[str | None, arg(help=text, metavar="NAME")]
    return create_model("IndexSettings", __base__=IndexSettings, layout=(described, None))


def index(settings: IndexSettings, console: Console) -> Exit:
    """Write the table and its counts.

    Raises:
        UserError: If there is no such layout, it does not take a flag, or the folder, a file or a
            name is not as expected.
    """
    if settings.scale_masks and settings.masks is None:
        raise UserError("--scale-masks: found no --masks, expected a folder of masks to scale")
    if settings.masks_tool is not None and settings.masks is None:
        raise UserError("--masks-tool: found no --masks, expected the folder that it drew")
    if settings.columns and settings.table is None:
        raise UserError("--columns: found no --table, expected the CSV whose columns they are")
    inputs = [*([settings.table] if settings.table else []), *settings.keypoints]
    if any(
        path.exists() and settings.out.exists() and path.samefile(settings.out) for path in inputs
    ):
        raise UserError(
            f"--out {settings.out}: found a file that the command reads, expected another name"
        )
    name = settings.layout_name
    reader = layout(name)
    reading = {name: getattr(settings, name) for name in READING}
    if not settings.keypoints and KeypointOptions(**reading) != KeypointOptions():
        raise UserError("--keypoint-...: found no --keypoints, expected the files to read so")
    options = LayoutOptions(
        KeypointOptions(settings.keypoints, **reading),
        settings.table,
        settings.pattern,
        settings.columns,
        settings.test_people,
        settings.allow_skipped,
        settings.skip_broken,
    )
    _check_options(name, options)
    images, report = reader.read(settings.root, options)
    console.say(report.text())
    if settings.masks is not None or settings.masks_from_joints:
        images, mask_report = add_masks(
            images,
            settings.masks,
            tool=settings.masks_tool,
            scales=settings.scale_masks,
            from_joints=settings.masks_from_joints,
            leniency=Leniency(
                skip_broken=settings.skip_broken, allow_skipped=settings.allow_skipped
            ),
        )
        console.say(mask_report.text())
    io.write_images(images, settings.out)
    console.say(f"{settings.out}: {len(images):,} rows")
    return Exit.DONE


def _check_options(name: str, options: LayoutOptions) -> None:
    known = layouts()
    for option in fields(options):
        is_given = getattr(options, option.name) != getattr(NO_OPTIONS, option.name)
        if is_given and option.name not in known[name].options:
            takers = [other for other, found in known.items() if option.name in found.options]
            flag = option.name.replace("_", "-")
            raise UserError(f"--{flag}: found the layout '{name}', expected {' or '.join(takers)}")
