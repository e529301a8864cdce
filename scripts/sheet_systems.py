#!/usr/bin/env python
"""A contact sheet of several systems on the same test pairs: one column for each of the weights."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image

from augment.checkpoints import store
from augment.quality import contact_sheets
from augment.quality.pairs import sample_pairs
from manifests import pixels
from manifests.io import Images, read_images, write_bytes
from manifests.masks import read_masks


def columns_of(
    images: Images, weights: dict[str, str], count: int, seed: int
) -> list[tuple[str, np.ndarray]]:
    """Return source, target pose, one column per network, and the real image in that pose."""
    joints = images.keypoints()
    sources, targets = sample_pairs(images.strings("person_id"), joints, count, seed).T
    shown = pixels.read_all(images, (64, 128))
    masks, known = read_masks(images, (64, 128))
    columns = [
        ("source", shown[sources]),
        (
            "target pose",
            np.stack([contact_sheets.draw_pose(joints[row], (64, 128)) for row in targets]),
        ),
    ]
    for name, path in weights.items():
        network = store.load(path)
        made = [
            network.transfer(
                shown[source],
                joints[source],
                joints[target],
                target_image=shown[target],
                mask=masks[source] if known[source] else None,
                target_mask=masks[target] if known[target] else None,
            )
            for source, target in zip(sources, targets, strict=True)
        ]
        columns.append((name, np.stack(made)))
    return [*columns, ("real", shown[targets])]


def main() -> None:
    """Write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", nargs="+", metavar="NAME=WEIGHTS")
    parser.add_argument("--images", type=Path, required=True, help="images table")
    parser.add_argument("--split", default="gallery")
    parser.add_argument("--count", type=int, default=6, help="rows")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--colours", type=int, default=128, help="fewer make a smaller file")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    weights = dict(setting.split("=", 1) for setting in options.weights)
    images = read_images(options.images).only(options.split)
    sheet = contact_sheets.contact_sheet(
        columns_of(images, weights, options.count, options.seed), blocks=2
    )
    file = io.BytesIO()
    sheet.quantize(options.colours, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    write_bytes(file.getvalue(), options.out)
    print(f"{options.out}: {options.count} rows, {len(file.getvalue()):,} bytes")


if __name__ == "__main__":
    main()
