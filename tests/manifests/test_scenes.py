from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from manifests import io, pixels, scenes
from manifests.masks import encode_mask, mask_of, read_masks
from tests.helpers import trivial


def crop(height: int = 128, width: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Return a street of colour ramps with a red box for a person, and the person's mask."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 1] = np.linspace(40, 200, width).astype(np.uint8)[None]
    image[..., 2] = 90
    mask = np.zeros((height, width), bool)
    mask[height // 4 : -height // 8, width // 3 : -width // 3] = True
    image[mask] = (250, 10, 10)
    return image, mask


@pytest.mark.parametrize(("height", "width"), [(128, 64), (256, 128), (64, 32), (51, 23)])
def test_a_street_keeps_what_lies_outside_the_widened_mask_and_nothing_of_the_person(height, width):
    image, mask = crop(height, width)
    filled = scenes.street(image, mask)
    hole = scenes.widen(mask, scenes.CUT_WIDENING_PX)
    assert np.array_equal(filled[~hole], image[~hole])
    assert filled[..., 0].max() == 0  # the person alone is red
    # Telea's method goes on with the slope at the rim, so a flat colour may move a little.
    assert np.abs(filled[..., 2].astype(int) - 90).max() <= 5
    # The ramp goes on through the hole.
    assert np.abs(filled[..., 1].astype(int) - image[0, :, 1]).max() <= 60


def test_without_widening_a_rim_of_the_person_that_the_mask_misses_stays():
    image, mask = crop()
    narrow = mask.copy()
    narrow[:, mask.any(0).argmax()] = False
    assert scenes.street(image, narrow, widening_px=0.0)[..., 0].max() > 200
    assert scenes.street(image, narrow)[..., 0].max() == 0


def test_widths_grow_with_the_crop():
    small, large = (crop(height, height // 2)[1] for height in (128, 256))
    grown = [scenes.widen(mask, 3.0).sum(0).max() - mask.sum(0).max() for mask in (small, large)]
    assert grown == [6, 12]


def test_the_person_keeps_every_pixel_inside_the_mask_and_the_street_every_pixel_far_from_it():
    image, mask = crop()
    other = np.full_like(image, 33)
    alpha = scenes.alpha_of(mask)
    made = scenes.compose(image, alpha, other)
    inner = ~scenes.widen(~mask, 2.0)
    assert np.array_equal(made[inner], image[inner])
    far = ~scenes.widen(mask, 5.0)
    assert np.array_equal(made[far], other[far])
    edge = (alpha > 0) & (alpha < 255)
    assert edge.any()


def test_a_batch_is_composed_as_its_rows_one_by_one():
    rng = np.random.default_rng(0)
    people, streets = rng.integers(0, 256, (2, 5, 16, 8, 3), np.uint8)
    alpha = rng.integers(0, 256, (5, 16, 8), np.uint8)
    together = scenes.compose(people, alpha, streets)
    for row in range(5):
        assert np.array_equal(together[row], scenes.compose(people[row], alpha[row], streets[row]))


@pytest.mark.parametrize(("share", "expected"), [(0.0, True), (0.5, True), (1.0, False)])
def test_a_crop_filled_by_its_person_has_no_street(share: float, expected: bool):
    mask = np.zeros((128, 64), bool)
    mask[: round(128 * share)] = True
    assert scenes.has_street(mask) is expected


def test_a_tables_images_are_taken_apart_as_one_by_one(tmp_path):
    table = trivial.write_people(tmp_path / "people", num_people=2, masked=True)
    images = io.read_images(table)
    place, field = images.table.schema.get_field_index("mask"), images.table.schema.field("mask")
    stored = images.table["mask"].to_pylist()
    stored[1], stored[2] = None, encode_mask(np.ones((128, 64), bool))
    column = pa.array(stored, field.type)
    images = replace(images, table=images.table.set_column(place, field, column))
    decoded = pixels.read_all(images, (64, 128))

    apart = scenes.take_apart(decoded, *read_masks(images, (64, 128)))

    assert apart.usable.tolist() == [True, False, False, True, True, True]
    assert not apart.streets[1:3].any()
    for row in np.flatnonzero(apart.usable):
        mask = mask_of(images, int(row), (64, 128))
        assert np.array_equal(apart.alpha[row], scenes.alpha_of(mask))
        assert np.array_equal(apart.streets[row], scenes.street(decoded[row], mask))
        assert np.array_equal(apart.holes[row] > 0, scenes.widen(mask, scenes.CUT_WIDENING_PX))
