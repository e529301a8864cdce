"""Canonical poses, poses at the scale of their source, and images of test images."""

import importlib.machinery
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from augment.generation.choices import Choices
from augment.generation.export import ExportSettings, export
from augment.generation.reading import read_batches
from augment.generation.resolve import open_weights, plan_of
from augment.generation.run_config import read_run_config
from augment.generation.verify import VerifySettings, verify
from augment.pose.canonical import canonical_bank
from augment.pose.same_scale import at_scale_of
from augment.pose.viewpoint import VIEWPOINTS, viewpoints
from manifests import io
from manifests.keypoints import visible
from manifests.masks import mask_from_joints, mask_of
from manifests.pixels import read
from manifests.runtime.console import Exit, UserError
from manifests.scenes import hole_of, street
from manifests.schema import CANONICAL, MASK_COLUMNS
from manifests.synthetic import read_synthetic
from tests.helpers import trivial
from tests.helpers.generation import QUIET, run
from tests.helpers.poses import standing

SIZE = (64, 128)
ROOT = Path(__file__).resolve().parents[3]
# Poses are moved in float64 and kept in float32.
ROUNDING_PX = 1e-4


def as_test_images(table, masked=True):
    """Make query images of every person's first, gallery images of the others."""
    images = io.read_images(table)
    people = images.strings("person_id")
    first = {person: row for row, person in reversed(list(enumerate(people)))}
    splits = ["query" if first[p] == row else "gallery" for row, p in enumerate(people)]
    place = images.table.schema.get_field_index("split")
    field = images.table.schema.field("split")
    changed = images.table.set_column(place, field, pa.array(splits))
    out = table.with_name("test.parquet")
    io.write_images(replace(images, table=changed), out)
    return out


def settings(people, **changes):
    changes["choices"] = Choices(**changes.get("choices", {}))
    return trivial.job_settings(people, people.parent / "out", **{"per_id": 10, **changes})


def test_the_shipped_poses_are_those_that_the_script_draws():
    path = ROOT / "scripts" / "write_canonical_poses"
    loader = importlib.machinery.SourceFileLoader("write_canonical_poses", str(path))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    script = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = script
    loader.exec_module(script)
    assert (ROOT / "augment" / "pose" / "canonical_poses.json").read_text() == script.text()


def test_convention_canonical_poses_are_seen_from_where_their_names_say():
    bank = canonical_bank(SIZE)
    names = [name.removeprefix(CANONICAL) for name in bank.pose_ids.to_pylist()]
    views = [VIEWPOINTS[view] for view in viewpoints(bank.joints)]
    expected = {"front": "front", "back": "back", "left": "side", "right": "side"}
    assert len(names) == 8
    assert views == [expected[name.partition("-")[0]] for name in names]
    for name, joints in zip(names, bank.joints, strict=True):
        assert np.nanmin(joints) >= 0
        assert (np.nanmax(joints, axis=0) < SIZE).all()
        if name.startswith(("left", "right")):
            # Who shows the left side walks to the left of the image.
            towards = joints[0, 0] - joints[1, 0]
            assert (towards < 0) == name.startswith("left")
    larger = canonical_bank((128, 256)).joints
    assert np.allclose((larger + 0.5) / 2 - 0.5, bank.joints, atol=ROUNDING_PX, equal_nan=True)


def test_people_are_shown_in_canonical_poses_and_in_no_more_than_there_are(tmp_path):
    people = trivial.write_people(tmp_path / "people")
    weights = trivial.trivial_weights()
    plan = plan_of(settings(people, per_id=8, choices={"pose_choice": "canonical"}), weights)
    rows = plan.rows(0, len(plan))
    for person in plan.people:
        assert sorted(rows.pose[np.array(rows.people) == person].tolist()) == list(range(8))
    with pytest.raises(
        UserError, match=r"found 8 .* at least 9 \(--per-id\); canonical poses are 8, lower it$"
    ):
        plan_of(settings(people, per_id=9, choices={"pose_choice": "canonical"}), weights)


def test_every_test_image_is_shown_in_every_canonical_pose_and_never_in_train(tmp_path):
    people = as_test_images(trivial.write_people(tmp_path / "people"))
    out = tmp_path / "out"
    assert run(people, out, per_id=10, purpose="test-time") == Exit.DONE

    rows = read_synthetic(out).table.to_pylist()
    images = {row["image_id"]: row for row in io.read_images(people).table.to_pylist()}
    assert len(rows) == 12 * 8
    assert {(row["source_id"], row["pose_id"]) for row in rows} == {
        (name, pose) for name in images for pose in canonical_bank(SIZE).pose_ids.to_pylist()
    }
    for row in rows:
        assert row["split"] == images[row["source_id"]]["split"]
        assert row["person_id"] == images[row["source_id"]]["person_id"]
    assert len({row["seed"] for row in rows}) == len(rows)
    assert verify(VerifySettings(out=out), QUIET) == Exit.DONE
    card = (out / "README.md").read_text()
    assert "12 test images (8 each)" in card
    assert "training on them would leak test data" in " ".join(card.split())
    with pytest.raises(UserError, match="made for test time"):
        export(ExportSettings(run=out, to="folder", out=tmp_path / "files"), QUIET)


def test_a_run_for_test_time_that_was_killed_goes_on_to_the_same_bytes(tmp_path):
    people = as_test_images(trivial.write_people(tmp_path / "people"))
    for name in ("whole", "broken"):
        assert run(people, tmp_path / name, per_id=10, purpose="test-time") == Exit.DONE
    before = trivial.files_of(tmp_path / "whole")
    assert len([name for name in before if name.startswith("data/")]) == 24
    for name in ("_SUCCESS", "manifest.parquet", "data/part-000003.parquet"):
        (tmp_path / "broken" / name).unlink()
    assert run(people, tmp_path / "broken", per_id=10, purpose="test-time") == Exit.DONE
    assert trivial.files_of(tmp_path / "broken") == before


def test_test_images_without_joints_are_left_out_and_counted(tmp_path):
    table = trivial.write_people(tmp_path / "people")
    people = as_test_images(table)
    images = io.read_images(people)
    joints = images.keypoints()
    joints[[0, 5]] = np.nan
    place = images.table.schema.get_field_index("keypoints")
    column = io.keypoint_column(joints, np.arange(len(images)) != 5)
    changed = images.table.set_column(place, images.table.schema.field("keypoints"), column)
    io.write_images(replace(images, table=changed), people)
    plan = plan_of(settings(people, purpose="test-time"), trivial.trivial_weights())
    assert plan.num_left_out == 2
    left_out = {images.strings("image_id")[row] for row in (0, 5)}
    assert not left_out & set(plan.sources.strings("image_id"))


def test_test_images_none_of_which_can_be_shown_are_refused_with_what_adds_joints(tmp_path):
    people = as_test_images(trivial.write_people(tmp_path / "people"))
    images = io.read_images(people)
    place = images.table.schema.get_field_index("keypoints")
    column = io.keypoint_column(images.keypoints(), np.zeros(len(images), bool))
    changed = images.table.set_column(place, images.table.schema.field("keypoints"), column)
    bare = people.with_name("bare.parquet")
    io.write_images(replace(images, table=changed), bare)
    found = "found none of 12 query and gallery images with shoulders, hips"
    with pytest.raises(UserError, match=f"{found}, expected some; 'augment detect' adds them"):
        plan_of(settings(bare, purpose="test-time"), trivial.trivial_weights())
    # With joints and without masks, a system with streets has nothing to show.
    with pytest.raises(UserError, match=f"{found} and a mask .*'augment detect --masks' adds them"):
        plan_of(settings(people, purpose="test-time"), open_weights("posewarp-sample"))


def test_test_images_without_a_mask_are_left_out_where_the_system_needs_one(tmp_path):
    people = as_test_images(trivial.write_people(tmp_path / "people", masked=True))
    images = io.read_images(people)
    table = images.table
    for name in MASK_COLUMNS:
        values = [None, *table[name].to_pylist()[1:]]
        place = table.schema.get_field_index(name)
        table = table.set_column(
            place, table.schema.field(name), pa.array(values, table.schema.field(name).type)
        )
    io.write_images(replace(images, table=table), people)
    weights = replace(trivial.trivial_weights(), needs=frozenset({"mask"}))
    plan = plan_of(settings(people, purpose="test-time"), weights)
    assert (plan.num_left_out, plan.left_out_for) == (1, "a mask, shoulders and hips")
    assert len(plan) == 11 * 8
    bare = as_test_images(trivial.write_people(tmp_path / "bare"))
    with pytest.raises(UserError, match=r"shoulders, hips and a mask, .* --masks' adds them"):
        plan_of(settings(bare, purpose="test-time"), weights)


def test_canonical_poses_stand_before_the_street_of_their_source(tmp_path):
    people = as_test_images(trivial.write_people(tmp_path / "people", masked=True))
    weights = open_weights("posewarp-sample")
    chosen = {"per_id": 10, "purpose": "test-time", "image_format": "png"}
    assert run(people, tmp_path / "out", weights, **chosen) == Exit.DONE

    images = io.read_images(people)
    row_of = {name: row for row, name in enumerate(images.strings("image_id"))}
    for row in read_synthetic(tmp_path / "out").table.to_pylist():
        assert row["background_id"] == row["source_id"]
        assert row["camera_id"] == images.table["camera_id"][row_of[row["source_id"]]].as_py()
    plan = plan_of(settings(people, purpose="test-time"), weights)
    record = read_run_config(tmp_path / "out")
    for batch in read_batches(plan, record, weights.needs, [0, 13]):
        for place, (source, pose) in enumerate(
            zip(batch.rows.source, batch.rows.pose, strict=True)
        ):
            name = plan.sources.strings("image_id")[source]
            mask = mask_of(images, row_of[name], SIZE)
            behind = street(read(images.file(row_of[name])), mask)
            stands = mask_from_joints(plan.bank.joints[pose], SIZE)
            assert np.array_equal(batch.images.needed["background"][place], behind)
            assert np.array_equal(batch.images.needed["hole"][place], hole_of(stands))
            assert (stands & ~mask).any()


def test_a_target_pose_takes_length_and_place_of_its_sources_torso():
    target = np.stack([standing("front"), standing("side", 4.0)])
    source = np.stack([(standing("back") - 32) * 0.5 + 20, np.full((18, 2), np.nan)])
    moved = at_scale_of(source.astype(np.float32), target, SIZE)
    hips, shoulders = [8, 11], [2, 5]
    torso = moved[0, shoulders].mean(axis=0) - moved[0, hips].mean(axis=0)
    own = source[0, shoulders].mean(axis=0) - source[0, hips].mean(axis=0)
    assert np.allclose(np.linalg.norm(torso), np.linalg.norm(own), atol=ROUNDING_PX)
    place = source[0, hips].mean(axis=0)
    assert np.allclose(moved[0, hips].mean(axis=0), place, atol=ROUNDING_PX)
    # Without a torso to go by, a pose stays.
    assert np.array_equal(moved[1], target[1])
    beyond = at_scale_of((target[:1] - 32) * 3 + 32, target[:1], SIZE)
    inside = beyond[visible(beyond)]
    assert (inside >= -0.5).all()
    assert not visible(beyond)[0, 10]


def test_same_scale_reaches_the_network_and_the_rows(tmp_path):
    people = trivial.write_people(tmp_path / "people")
    run(people, tmp_path / "plain")
    run(people, tmp_path / "scaled", choices=Choices(same_scale=True))
    plain, scaled = (read_synthetic(tmp_path / name) for name in ("plain", "scaled"))
    assert plain.strings("pose_id") == scaled.strings("pose_id")
    assert not np.array_equal(plain.keypoints(), scaled.keypoints(), equal_nan=True)
    assert plain.strings("sha256") != scaled.strings("sha256")


def test_the_card_counts_images_by_person_and_camera(tmp_path):
    people = trivial.write_people(tmp_path / "people")
    run(people, tmp_path / "out", choices=Choices(source="each-camera"), per_id=5)
    card = (tmp_path / "out" / "README.md").read_text()
    # Three cameras in turn: two images of the first two, one of the last.
    rows = [line.split() for line in card.splitlines() if line.startswith("| ") and " of 4" in line]
    assert [row[1] for row in rows] == ["1", "2", "3"]
    assert [row[3] for row in rows] == ["8", "8", "4"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"purpose": "test-time", "per_id": 4}, "--per-id: found 4 with --purpose test-time"),
        ({"purpose": "test-time", "real_fraction": 0.5}, "--real-fraction: found 0.5 with"),
        ({"purpose": "test-time", "poses": Path("x.parquet")}, "--poses: found .* with --purpose"),
        (
            {"purpose": "test-time", "choices": {"source": "nearest"}},
            "--source: found nearest with --purpose test-time",
        ),
        (
            {"purpose": "test-time", "choices": {"pose_choice": "balanced"}},
            "--pose-choice: found balanced with --purpose test-time, expected canonical",
        ),
        ({"purpose": "test-time"}, "found no query or gallery rows in 12 images"),
        (
            {"poses": Path("x.parquet"), "choices": {"pose_choice": "canonical"}},
            "found with --pose-choice canonical, which brings poses of its own",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(tmp_path, changes, message):
    people = trivial.write_people(tmp_path / "people")
    if "poses" in changes:
        changes = {**changes, "poses": people}
    with pytest.raises(UserError, match=message):
        plan_of(settings(people, **changes), trivial.trivial_weights())


@pytest.mark.parametrize(
    ("weights", "choices", "message"),
    [
        ("recompose", {"pose_choice": "canonical"}, "shows people in their own poses"),
        ("recompose", {"same_scale": True}, "shows people"),
        ("posewarp-sample", {"same_scale": True}, "in the place where somebody stood in a street"),
        (
            "posewarp-sample",
            {"pose_choice": "canonical", "backgrounds": "lacking"},
            "whose poses are shown before the source's own street",
        ),
    ],
)
def test_systems_that_a_choice_says_nothing_to_are_refused(tmp_path, weights, choices, message):
    people = trivial.write_people(tmp_path / "people", masked=True)
    with pytest.raises(UserError, match=message):
        plan_of(settings(people, choices=choices), open_weights(weights))
