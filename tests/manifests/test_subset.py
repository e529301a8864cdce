"""A part of the train split: fair to people, independent of the order of rows."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.io import Images
from manifests.runtime.console import UserError
from manifests.schema import IMAGES
from manifests.subset import sha256_of_images, subset_train

sizes = st.lists(st.integers(1, 30), min_size=1, max_size=12)
fractions = st.floats(0.01, 1)


def images(sizes: list[int], test_rows: int = 3) -> Images:
    """Return a table with so many train rows per person, and some query rows."""
    people = [f"{p:04d}" for p, size in enumerate(sizes, 1) for _ in range(size)]
    rows = [(f"{p}_{i:03d}.jpg", "train", p) for i, p in enumerate(people)]
    rows += [(f"q{i}.jpg", "query", "0900") for i in range(test_rows)]
    ids, splits, labels = (list(column) for column in zip(*rows, strict=True))
    columns = {"image_id": ids, "split": splits, "person_id": labels, "camera_id": [1] * len(rows)}
    others = {field.name: [None] * len(rows) for field in IMAGES if field.name not in columns}
    return Images(pa.table({**columns, **others}, IMAGES), Path(), {})


@settings(max_examples=60, deadline=None)
@given(sizes=sizes, fraction=fractions, seed=st.integers(0, 99))
def test_everybody_stays_and_the_total_is_exact(sizes, fraction, seed):
    table = images(sizes)
    part = subset_train(table, fraction, seed).only("train")
    counts = Counter(part.strings("person_id"))
    assert len(counts) == len(sizes)
    assert len(part) == max(len(sizes), round(fraction * sum(sizes)))
    assert all(counts[f"{p:04d}"] <= size for p, size in enumerate(sizes, 1))


@settings(max_examples=60, deadline=None)
@given(sizes=sizes, fraction=fractions)
def test_nobody_is_a_whole_row_away_from_the_fair_share(sizes, fraction):
    part = subset_train(images(sizes), fraction, 0).only("train")
    counts = Counter(part.strings("person_id"))
    extra, spare = len(part) - len(sizes), sum(sizes) - len(sizes)
    for person, size in enumerate(sizes, 1):
        fair = 1 + (extra * (size - 1) / spare if spare else 0)
        assert abs(counts[f"{person:04d}"] - fair) < 1


@settings(max_examples=40, deadline=None)
@given(sizes=sizes, fraction=fractions, data=st.data())
def test_the_choice_does_not_depend_on_the_order_of_rows(sizes, fraction, data):
    table = images(sizes)
    order = np.array(data.draw(st.permutations(range(len(table)))))
    one = subset_train(table, fraction, 7).strings("image_id")
    other = subset_train(table.take(order), fraction, 7).strings("image_id")
    assert sorted(one) == sorted(other)


def test_other_splits_stay_whole():
    part = subset_train(images([9, 9], test_rows=5), 0.2, 0)
    assert len(part.only("query")) == 5


def test_the_whole_is_the_table_itself():
    table = images([3, 1, 5])
    assert subset_train(table, 1, 0).table.equals(table.table)


def test_another_seed_chooses_other_rows():
    table = images([20] * 5)
    choices = {tuple(subset_train(table, 0.3, seed).strings("image_id")) for seed in range(5)}
    assert len(choices) == 5


def test_the_choice_of_a_seed_is_the_same_for_ever():
    part = subset_train(images([4, 4], test_rows=0), 0.5, 0)
    assert part.strings("image_id") == [
        "0001_001.jpg",
        "0001_002.jpg",
        "0002_005.jpg",
        "0002_006.jpg",
    ]


@pytest.mark.parametrize("fraction", [0, -0.5, 1.01, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(UserError, match="expected above 0 up to 1"):
        subset_train(images([2]), fraction, 0)


@pytest.mark.market1501
def test_a_fifth_of_market1501_has_2587_rows_of_751_people(market1501_images):
    part = subset_train(market1501_images, 0.2, 0).only("train")
    assert len(part) == 2587
    assert len(set(part.strings("person_id"))) == 751


def test_the_digest_of_a_selection_tells_its_images_and_their_order():
    table = images([2, 3]).table
    digests = pa.array([f"{row:064x}" for row in range(table.num_rows)])
    column = table.schema.get_field_index("sha256")
    whole = Images(table.set_column(column, table.schema.field(column), digests), Path(), {})
    expected = hashlib.sha256("\n".join(digests.to_pylist()[:2]).encode()).hexdigest()
    assert sha256_of_images(whole.take(np.array([0, 1]))) == expected
    assert sha256_of_images(whole.take(np.array([1, 0]))) != expected
