"""A tiny PATN, a few coloured images for it, and the command that trains it."""

import sys

import numpy as np
import torch

from augment.generators.patn import Patn
from augment.training.loop import LoopSettings, Trainer
from augment.training.pairs import TrainingImages

TINY = Patn.Config(
    base_width=4,
    discriminator_width=4,
    num_blocks=2,
    pool_size=4,
    features="none",
    batch_size=2,
    warmup_steps=2,
    steps=4,
)


def made_up_images(num_people=3, images_each=4, seed=0):
    rng = np.random.default_rng(seed)
    count = num_people * images_each
    pixels = rng.integers(0, 256, (count, 128, 64, 3), dtype=np.uint8)
    joints = rng.uniform([0, 0], [63, 127], (count, 18, 2)).astype(np.float32)
    people = [f"{row // images_each:04d}" for row in range(count)]
    return TrainingImages(pixels, joints, people)


def trainer(config=TINY, **settings):
    torch.manual_seed(0)
    loop = LoopSettings(precision="float32", **settings)
    return Trainer(Patn(config), made_up_images(), loop, torch.device("cpu"))


def equal_states(first, second):
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(
            equal_states(first[key], second[key]) for key in first
        )
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal_states, first, second))
    return first == second


TRAIN = [
    sys.executable, "-m", "augment.cli", "train", "--config.base-width", "4",
    "--config.discriminator-width", "4", "--config.num-blocks", "1", "--config.pool-size", "2",
    "--config.features", "none", "--config.batch-size", "2", "--config.steps", "12",
    "--save-every", "3", "--log-every", "2", "--samples-every", "12",
]  # fmt: skip
