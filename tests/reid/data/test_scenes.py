import numpy as np
import pytest
import torch

from manifests import scenes as drawing
from manifests.runtime.console import UserError
from manifests.runtime.random_numbers import random_bits
from reid.data.scenes import SceneSwap

CPU = torch.device("cpu")
COUNT, HEIGHT, WIDTH = 6, 32, 16


def people():
    """Return grey streets of different shades with a red person each, their masks, all known."""
    pixels = np.zeros((COUNT, HEIGHT, WIDTH, 3), np.uint8)
    pixels += (np.arange(COUNT) * 20 + 40).astype(np.uint8)[:, None, None, None]
    masks = np.zeros((COUNT, HEIGHT, WIDTH), bool)
    masks[:, 8:28, 5:11] = True
    pixels[masks] = (250, 10, 10)
    return pixels, masks, np.ones(COUNT, bool)


def bits(count, seed=0):
    return random_bits(seed, "scene", 2 * count).reshape(2, count)


def test_a_swapped_image_is_what_the_table_of_scenes_composes():
    pixels, masks, known = people()
    rows = np.arange(COUNT)
    made = SceneSwap(drawing.take_apart(pixels, masks, known), CPU).swap(
        torch.from_numpy(pixels), rows, bits(COUNT), 1.0
    )
    for row in range(COUNT):
        others = [
            drawing.compose(
                pixels[row],
                drawing.alpha_of(masks[row]),
                drawing.street(pixels[other], masks[other]),
            )
            for other in range(COUNT)
            if other != row
        ]
        assert any(np.array_equal(made[row].numpy(), other) for other in others)


def test_every_other_street_is_drawn_about_equally_often_and_never_the_own():
    pixels, masks, known = people()
    swap = SceneSwap(drawing.take_apart(pixels, masks, known), CPU)
    rows = np.zeros(2_000, np.int64)
    made = swap.swap(torch.from_numpy(pixels)[rows], rows, bits(2_000), 1.0)
    shades, counts = np.unique(made[:, 0, 0, 0].numpy(), return_counts=True)
    assert shades.tolist() == [60, 80, 100, 120, 140]
    assert counts.min() > 400 - 5 * 18  # five standard deviations


def test_the_probability_is_that_of_a_swap():
    pixels, masks, known = people()
    swap = SceneSwap(drawing.take_apart(pixels, masks, known), CPU)
    rows = np.zeros(2_000, np.int64)
    before = torch.from_numpy(pixels)[rows]
    assert swap.swap(before, rows, bits(2_000), 0.0) is before
    swapped = (swap.swap(before, rows, bits(2_000), 0.25) != before).flatten(1).any(1)
    assert abs(swapped.float().mean() - 0.25) < 5 * (0.25 * 0.75 / 2_000) ** 0.5


def test_rows_without_a_mask_and_synthetic_rows_stay_as_they_are():
    pixels, masks, known = people()
    known[2] = False
    swap = SceneSwap(drawing.take_apart(pixels, masks, known), CPU)
    batch = torch.from_numpy(np.concatenate([pixels, pixels[:1]]))
    made = swap.swap(batch, np.arange(COUNT + 1), bits(COUNT + 1), 1.0)
    changed = (made != batch).flatten(1).any(1).tolist()
    assert changed == [True, True, False, True, True, True, False]


def test_a_single_street_is_no_other_street():
    pixels, masks, known = people()
    masks[1:] = True  # no street beside the person
    with pytest.raises(
        UserError, match=r"--augmentation\.scene: found 1 of 6 train images with a mask that"
    ):
        SceneSwap(drawing.take_apart(pixels, masks, known), CPU)
