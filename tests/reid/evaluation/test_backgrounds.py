"""What streets alone give away of the people who were cut out of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from manifests.io import Images, read_images, write_images
from manifests.keypoints import NUM_JOINTS
from manifests.masks import encode_mask, is_sound, mask_from_joints
from manifests.runtime.console import Console, Exit, UserError
from manifests.scenes import street
from reid.cli import PROGRAM
from reid.evaluation.backgrounds import (
    BackgroundSettings,
    backgrounds,
    choose,
    masks_of,
    pictures,
    sample,
    with_streets,
)
from reid.models.run_folder import TrainingRun, read_run
from reid.training.train import TrainSettings, train
from tests.helpers.reid_people import HEIGHT, WIDTH, write_people

QUIET = Console(quiet=True)
SIZE = (WIDTH, HEIGHT)


def cut_out(images: Images, splits: tuple[str, ...], source: str = "blazepose") -> Images:
    """Return the table with a mask and joints for every image of these splits."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[8:60, 4:28] = True
    joints = np.full((NUM_JOINTS, 2), np.nan, np.float32)
    joints[[1, 2, 5, 8, 11]] = (16, 12), (12, 12), (20, 12), (12, 56), (20, 56)
    rows = images.table.to_pylist()
    for row in rows:
        row |= {"width": WIDTH, "height": HEIGHT, "keypoints": joints.tolist()}
        if row["split"] in splits:
            row |= {"mask": encode_mask(mask), "mask_source": source, "pose_confidence": 1.0}
    return Images(pa.Table.from_pylist(rows, images.table.schema), images.root, images.provenance)


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Path:
    """Return the table of people whose train images have masks."""
    path = write_people(tmp_path_factory.mktemp("people"), frames=3)
    write_images(cut_out(read_images(path), ("train",)), path)
    return path


@pytest.fixture(scope="module")
def run(people, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    plan = TrainSettings(
        images=people, out=out, steps=2, batch_size=8, height=HEIGHT, width=WIDTH, device="cpu",
        score=False, real_fraction=0.5,
    )  # fmt: skip
    train(plan, QUIET)
    return out


def test_images_of_the_run_are_left_out_of_those_of_its_people(people, run):
    images = read_images(people)
    chosen = choose(images, read_run(run))
    assert chosen.about.startswith("train images that the network was not trained on, of people")
    # Six people of six images each, of which the run saw half.
    assert len(chosen.images) == 18
    facts = read_run(run).facts
    everything = {"real_fraction": 1.0, "val_people": 0, "data_seed": 0}
    whole = TrainingRun(run, facts | {"config": everything, "num_real": 36})
    chosen = choose(images, whole)
    assert chosen.about == "train images that the network may have been trained on"
    assert len(chosen.images) == 36
    # The same people in a table of which the run's fraction would be another number of images.
    other = TrainingRun(run, facts | {"num_real": 17})
    assert choose(images, other).about == chosen.about


def test_people_who_were_not_trained_on_come_first(people, run, tmp_path):
    images = read_images(people)
    tested = cut_out(images, ("train", "query", "gallery"))
    chosen = choose(tested, read_run(run))
    assert chosen.about == "query and gallery images"
    assert len(chosen.images) == 4 * 6
    assert not set(chosen.images.strings("person_id")) & read_run(run).people
    # A table in which query and gallery have become train images.
    as_train = [row | {"split": "train"} for row in tested.table.to_pylist()]
    table = pa.Table.from_pylist(as_train, images.table.schema)
    other = choose(Images(table, images.root, {}), read_run(run))
    assert other.about == "train images of people whom the network was not trained on"
    assert len(other.images) == 4 * 6


def test_whole_people_are_drawn(people, run):
    chosen = choose(read_images(people), read_run(run))
    some = sample(chosen, 7, seed=0)
    names = some.images.strings("person_id")
    assert len(names) == 6
    assert all(chosen.images.strings("person_id").count(name) == 3 for name in names)
    assert len(set(names)) == 2
    assert set(sample(chosen, 7, seed=1).images.strings("person_id")) != set(names)
    assert len(sample(chosen, 1, seed=0).images) == 3


def test_streets_are_those_of_the_masks_of_the_table_and_of_the_joints(people):
    images = read_images(people).only("train").take(np.arange(3))
    made = list(pictures(images, SIZE, (0.0, 4.0)))
    assert [entry[:3] for entry in made] == [
        ("whole", "", ""), ("street", "blazepose", "0"), ("street", "blazepose", "4"),
        ("street", "joints", "0"), ("street", "joints", "4"),
    ]  # fmt: skip
    whole = made[0][3]
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[8:60, 4:28] = True
    joints = mask_from_joints(images.keypoints()[1], SIZE)
    assert np.array_equal(made[2][3][1], street(whole[1], mask, 4.0))
    assert np.array_equal(made[3][3][1], street(whole[1], joints, 0.0))
    assert is_sound(joints)


def test_masks_that_are_drawn_around_joints_are_no_second_kind(people):
    images = cut_out(read_images(people), ("train",), source="joints").only("train")
    assert list(masks_of(images, SIZE)) == ["joints"]
    rows = [row | {"keypoints": None} for row in images.table.to_pylist()]
    without = Images(pa.Table.from_pylist(rows, images.table.schema), images.root, {})
    assert list(masks_of(without, SIZE)) == ["joints"]
    assert with_streets(without, SIZE, 1.0).all()


def test_images_without_joints_or_street_are_left_out(people):
    images = read_images(people).only("train").take(np.arange(3))
    rows = images.table.to_pylist()
    rows[0]["keypoints"] = None
    rows[1]["mask"] = encode_mask(np.ones((HEIGHT, WIDTH), bool))
    table = pa.Table.from_pylist(rows, images.table.schema)
    usable = with_streets(Images(table, images.root, {}), SIZE, 5.0)
    assert usable.tolist() == [False, False, True]


def test_the_command_prints_and_writes_the_table(people, run, tmp_path, capsys):
    file = tmp_path / "table.md"
    arguments = ["backgrounds", str(run), "--images", str(people), "--widenings", "0", "3"]
    assert PROGRAM.run([*arguments, "--markdown", str(file), "--device", "cpu"]) is Exit.DONE
    shown = capsys.readouterr()
    assert shown.out == file.read_text()
    listed = [[cell.strip() for cell in line.split("|")[1:4]] for line in shown.out.splitlines()
              if line.startswith("| ")]  # fmt: skip
    assert listed == [
        ["image", "mask", "widening_px"], ["whole", "", ""],
        ["street", "blazepose", "0"], ["street", "blazepose", "3"],
        ["street", "joints", "0"], ["street", "joints", "3"], ["chance", "", ""],
    ]  # fmt: skip
    assert "over 18 train images that the network was not trained on" in shown.out
    assert "26 of 62 images have no mask" in shown.err


def test_people_are_found_by_their_clothes_and_hardly_by_a_street_that_is_the_same_for_all(
    people, run
):
    chosen = choose(read_images(people), read_run(run))
    first: dict[str, float] = {}
    for name, _, _, pixels in pictures(chosen.images, SIZE, (3.0,)):
        # Pixels as features: the network of this run has learnt nothing.
        features = pixels.reshape(len(pixels), -1).astype(np.float64) - 128
        first[name] = float(chosen.rank(features, "market1501").cmc()[0])
    assert first["whole"] > 0.8
    assert first["street"] < 0.5


def test_a_table_without_masks_or_with_trained_people_in_its_tests_is_refused(
    people, run, tmp_path
):
    plain = write_people(tmp_path / "plain")
    settings = BackgroundSettings(run=run, images=plain, device="cpu")
    with pytest.raises(UserError, match=r"found no image of a person with a mask, .*'augment dete"):
        backgrounds(settings, QUIET)
    shared = write_people(tmp_path / "shared", num_train=4)
    write_images(cut_out(read_images(shared), ("query", "gallery")), shared)
    with pytest.raises(UserError, match="2 people are in train and in query"):
        backgrounds(settings.model_copy(update={"images": shared}), QUIET)
    full = tmp_path / "full"
    shutil.copytree(people.parent, full)
    images = read_images(full / people.name)
    rows = images.table.to_pylist()
    for row in rows:
        row["mask"] = row["mask"] and encode_mask(np.ones((HEIGHT, WIDTH), bool))
    write_images(
        Images(pa.Table.from_pylist(rows, images.table.schema), images.root, {}), full / people.name
    )
    with pytest.raises(UserError, match="no mask leaves a street beside its person"):
        backgrounds(settings.model_copy(update={"images": full / people.name}), QUIET)
