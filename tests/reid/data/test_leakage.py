from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save_file

from manifests.io import Images, read_images, sha256_file
from manifests.pixels import decode, encode_jpeg, resize
from manifests.runtime.console import UserError
from manifests.subset import subset_train
from manifests.synthetic import Synthetic, read_synthetic
from reid.data.dataset import select
from reid.data.leakage import (
    NearDuplicates,
    check_origin,
    check_people,
    difference_hashes,
    duplicates_block,
    generator_facts,
    near_duplicates,
    origin_of,
)
from tests.helpers.reid_people import write_people, write_synthetic

TRAIN_IMAGE, GALLERY_IMAGE = "0001_c1_train_0.jpg", "0007_c2_gallery_1.jpg"


@pytest.fixture
def images(tmp_path) -> Images:
    return read_images(write_people(tmp_path / "people"))


@pytest.fixture
def synthetic(tmp_path) -> Synthetic:
    return read_synthetic(write_synthetic(tmp_path / "synthetic"))


def with_first(synthetic: Synthetic, column: str, value: str) -> Synthetic:
    """Return the table with another value in the first row of a column."""
    index = synthetic.table.schema.get_field_index(column)
    field = synthetic.table.schema.field(column)
    values = pa.array([value, *synthetic.strings(column)[1:]], field.type)
    return replace(synthetic, table=synthetic.table.set_column(index, field, values))


def write_generator(folder: Path, facts: dict[str, object] | None, **settings: object) -> None:
    known = {} if facts is None else {"weights_facts": facts}
    (folder / "run.json").write_text(json.dumps({"config": {}, "settings": {**settings, **known}}))


def digest(images: Images) -> str:
    return hashlib.sha256("\n".join(map(str, images.strings("sha256"))).encode()).hexdigest()


@pytest.mark.parametrize("role", ["source_id", "pose_id", "background_id"])
def test_a_synthetic_image_made_from_a_test_image_is_refused_and_named(images, synthetic, role):
    leaking = with_first(synthetic, role, GALLERY_IMAGE)
    message = rf"{role} of synthetic image 0001_g0\.jpg is {GALLERY_IMAGE}, an image of the split"
    with pytest.raises(UserError, match=message):
        select(images, leaking, real_fraction=1.0, num_validation_people=0, data_seed=0)
    check_origin(images, synthetic)


def test_a_synthetic_row_outside_train_is_refused(images, synthetic):
    with pytest.raises(UserError, match=r"0001_g0\.jpg is in the split 'gallery'"):
        check_origin(images, with_first(synthetic, "split", "gallery"))


def test_people_in_train_and_query_are_refused_and_distractors_are_nobody(images):
    check_people(images, {"0001", "0002", "0000"})
    with pytest.raises(UserError, match="1 people are in train and in query"):
        check_people(images, {"0001", "0008"})


@pytest.mark.parametrize("spelling", ["8", "008", "8.0"])
def test_a_person_of_another_spelling_in_train_and_test_is_refused(images, spelling):
    with pytest.raises(UserError, match=f"'{spelling}' of train and '0008' of query differ in"):
        check_people(images, {"0001", spelling})


def test_a_generator_trained_on_a_test_split_is_refused(images, synthetic):
    write_generator(synthetic.root, {"train_split": "gallery"})
    with pytest.raises(UserError, match="its generator was trained on the split 'gallery'"):
        check_origin(images, synthetic)


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        (["query"], "the query images of this table"),
        (["gallery"], "the gallery images of this table"),
        (["query", "gallery"], "the query and gallery images of this table"),
        (["train", "query", "gallery"], "all images, also query and gallery, of this table"),
    ],
)
def test_a_generator_trained_on_test_images_that_were_called_train_is_refused(
    images, synthetic, splits, said
):
    index = images.table.schema.get_field_index("sha256")
    digests = pa.array([f"{row:064x}" for row in range(len(images))])
    known = replace(images, table=images.table.set_column(index, "sha256", digests))
    rows = [row for row, split in enumerate(known.strings("split")) if split in splits]
    facts = {"train_split": "train", "train_sha256": digest(known.take(np.array(rows)))}
    write_generator(synthetic.root, facts)
    with pytest.raises(UserError, match=f"its generator was trained on {said}"):
        check_origin(known, synthetic)
    train = known.only("train")
    write_generator(synthetic.root, facts | {"train_sha256": digest(train)})
    check_origin(known, synthetic)
    check_origin(train, synthetic)


def test_sources_outside_the_real_images_trained_on_are_counted(images, synthetic):
    everything = images.only("train")
    assert origin_of(images, everything, synthetic).num_from_outside == 0
    # Every source is a first frame of the first camera; leave those of two people out.
    rows = [i for i, name in enumerate(everything.strings("image_id")) if name[:4] > "0002"]
    found = origin_of(images, everything.take(np.array(rows)), synthetic)
    assert (found.num_rows, found.num_from_outside, found.num_from_unknown) == (12, 4, 0)
    unknown = with_first(synthetic, "pose_id", "elsewhere.jpg")
    found = origin_of(images, everything, unknown)
    assert (found.num_from_outside, found.num_from_unknown) == (1, 1)
    assert found.sentence.startswith(
        "1 of 12 synthetic images have a source, pose or background outside"
    )


def test_what_the_generator_was_trained_on_is_recognised_by_its_digest(images, synthetic):
    def described(facts: dict[str, object] | None) -> str:
        write_generator(synthetic.root, facts)
        return origin_of(images, images.only("train"), synthetic).generator

    whole = images.only("train")
    # The made-up table has no digests of its own.
    assert described({"train_sha256": digest(whole)}) == "all 24 train images of this table"
    part = subset_train(images, 0.5, 3).only("train")
    named = {"train_sha256": digest(part), "real_fraction": 0.5, "data_seed": 3}
    assert described(named) == "12 train images of this table (fraction 0.5, data seed 3)"
    other = {"train_sha256": "0" * 64, "train_images": 99}
    assert described(other) == "99 images of another data set, or of other rows of this one"
    assert described(None).startswith("unknown images")


def test_a_generators_weights_speak_for_an_older_folder_only_if_they_are_the_same(
    synthetic, tmp_path
):
    weights = tmp_path / "weights.safetensors"
    facts = {"train_split": "train", "train_images": 7}
    save_file({"w": np.zeros(2)}, weights, {"augment": json.dumps({"facts": facts})})
    write_generator(synthetic.root, None, weights=str(weights))
    assert generator_facts(synthetic) is None
    digests = pa.array([sha256_file(weights)] * len(synthetic))
    index = synthetic.table.schema.get_field_index("weights_sha256")
    same = replace(synthetic, table=synthetic.table.set_column(index, "weights_sha256", digests))
    assert generator_facts(same) == facts


@pytest.mark.parametrize(
    "facts",
    [
        [],
        {"train_sha256": 3},
        {"real_fraction": "all"},
        {"real_fraction": 0},
        {"data_seed": -1},
        {"data_seed": 0.5},
    ],
)
def test_facts_that_no_training_leaves_are_refused_in_one_sentence(images, synthetic, facts):
    write_generator(synthetic.root, facts)
    with pytest.raises(UserError, match=r"run.json: found other facts of a training than expec"):
        origin_of(images, images.only("train"), synthetic)


@pytest.mark.parametrize(
    "screened_by", [[], {}, {"num_real": 3}, {"num_real": -1, "recipe": {"real_fraction": 1.0}}]
)
def test_what_no_screening_leaves_is_refused_in_one_sentence(images, synthetic, screened_by):
    record = {"config": {}, "settings": {}, "screened_by": screened_by}
    (synthetic.root / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"run.json: found no num_real and real_fraction of the"):
        origin_of(images, images.only("train"), synthetic)


def test_near_duplicates_outlive_encoding_and_scaling_and_are_listed(images):
    cells = np.random.default_rng(0).integers(0, 256, (12, 8, 4, 3), np.uint8)
    people = np.stack([resize(image, (32, 64)) for image in cells])
    train, gallery = people[:6], people[6:]
    again = decode(encode_jpeg(train[2], quality=90), "again")
    smaller = resize(resize(train[5], (24, 48)), (32, 64))
    gallery = np.concatenate([gallery, again[None], smaller[None]])
    found = near_duplicates(difference_hashes(train), difference_hashes(gallery))
    assert found.count == 2
    assert [(row, column) for row, column, _ in sorted(found.nearest)] == [(2, 6), (5, 7)]
    one = NearDuplicates(1, [(0, 1, 3)])
    block = duplicates_block(one, images.only("train"), images.only("gallery"))
    assert block["num_pairs"] == 1
    assert block["nearest"] == [
        {"train": TRAIN_IMAGE, "gallery": images.only("gallery").strings("image_id")[1], "bits": 3}
    ]


def test_of_very_many_near_duplicates_all_are_counted_and_the_nearest_hundred_held():
    train = np.zeros(700, np.uint64)
    train[::2] = 1
    found = near_duplicates(train, np.zeros(3, np.uint64))
    assert found.count == 3 * 700
    odd = [(row, column, 0) for row in range(1, 700, 2) for column in range(3)]
    assert found.nearest == odd[:100]
