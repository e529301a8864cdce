"""The contact sheet that shows how far a training has come."""

from __future__ import annotations

import numpy as np
import torch

from augment.interface.condition import as_pixels
from augment.interface.randomness import RowRandom
from augment.quality import contact_sheets
from augment.training.loop import Trainer

NUM_SAMPLES = 8
SAMPLES_STREAM = 1 << 20
"""A stream of random numbers that no step of a training run uses."""


def contact_sheet(trainer: Trainer) -> bytes:
    """Return a contact sheet of a few fixed pairs, made with the EMA of the weights, as PNG."""
    rows = trainer.images.index.draw(0, 0, NUM_SAMPLES, stream=SAMPLES_STREAM)
    pair = trainer.images.pair(rows)
    condition = pair.condition
    network = trainer.network
    random = RowRandom.numbered(NUM_SAMPLES, trainer.device)
    with trainer.ema.in_place_of(network), torch.inference_mode():
        network.eval()
        made = network.generate(condition, random, network.Options())
    columns = [
        ("source", as_pixels(condition.image)),
        ("target pose", None),
        ("generated", as_pixels(made)),
        ("real", as_pixels(pair.target)),
    ]
    height, width = network.image_size
    poses = np.stack(
        [
            contact_sheets.draw_pose(joints, (width, height))
            for joints in condition.target_pose.joints.cpu().numpy()
        ]
    )
    return contact_sheets.as_png(
        contact_sheets.contact_sheet(
            [
                (title, poses if images is None else images.cpu().numpy())
                for title, images in columns
            ]
        )
    )
