from __future__ import annotations

import torch

from manifests.compute.normalisation import IMAGENET_MEAN, IMAGENET_STD
from reid.data.augmentation import (
    Augmentation,
    augment,
    chances,
    normalise,
)

NOTHING = Augmentation(flip=0.0, pad=0, erase=0.0)


def images(count: int = 64, height: int = 16, width: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, height, width, 3), generator=generator, dtype=torch.uint8)


def test_normalised_pixels_have_imagenet_mean_and_deviation_taken_off():
    pixels = images()
    expected = (pixels.double() / 255 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    found = normalise(pixels)
    # Rounding of a product and a sum in float32.
    torch.testing.assert_close(found.double(), expected.permute(0, 3, 1, 2), atol=2e-6, rtol=0)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_nothing_asked_for_changes_nothing():
    pixels = images()
    assert torch.equal(augment(pixels, NOTHING, chances(64, 0)), normalise(pixels))


def test_a_flip_mirrors_left_and_right_of_about_the_asked_share():
    pixels = images(400)
    plain = normalise(pixels)
    found = augment(pixels, NOTHING.model_copy(update={"flip": 0.25}), chances(400, 0))
    kept = (found == plain).flatten(1).all(1)
    mirrored = (found == plain.flip(3)).flatten(1).all(1)
    assert torch.equal(kept, ~mirrored)
    # 400 draws of 0.25: mean 100, standard deviation 8.7; four of them either way.
    assert 65 <= int(mirrored.sum()) <= 135


def test_a_crop_is_a_window_of_the_padded_image_and_every_place_occurs():
    pixels = images(300)
    padded = torch.nn.functional.pad(pixels, (0, 0, 1, 1, 1, 1), value=127)
    found = augment(pixels, NOTHING.model_copy(update={"pad": 1}), chances(300, 0))
    offsets = {
        (top, left): normalise(padded[:, top : top + 16, left : left + 8])
        for top in range(3)
        for left in range(3)
    }
    hits = torch.stack([(found == window).flatten(1).all(1) for window in offsets.values()])
    assert hits.any(0).all()
    assert hits.any(1).all()


def test_an_erased_image_has_one_rectangle_of_the_mean_colour():
    pixels = images(100, 32, 16)
    found = augment(pixels, NOTHING.model_copy(update={"erase": 1.0}), chances(100, 0))
    plain = normalise(pixels)
    holes = (found == 0).all(1)
    assert torch.equal(found, plain.masked_fill(holes[:, None], 0))
    for hole in holes:
        rows, columns = hole.any(1), hole.any(0)
        assert torch.equal(hole, rows[:, None] & columns[None])
        # Published: 2 to 40 % of the image; whole pixels make small ones smaller.
        assert 1 <= int(hole.sum()) <= 0.4 * 32 * 16


def test_a_seed_gives_the_same_batch():
    pixels = images()
    one, other, third = (augment(pixels, Augmentation(), chances(64, seed)) for seed in (5, 5, 6))
    assert torch.equal(one, other)
    assert not torch.equal(one, third)


def test_the_batch_asked_for_is_left_as_it_was():
    pixels = images()
    before = pixels.clone()
    augment(pixels, Augmentation(pad=0), chances(64, 0))
    assert torch.equal(pixels, before)
