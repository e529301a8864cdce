"""Which poses, streets and sources people are given, where they are not drawn uniformly."""

from collections import Counter

import numpy as np
import pytest

from augment.generation.choices import Choices
from augment.generation.plan import make_plan
from augment.generation.resolve import open_weights, plan_of, resolve
from augment.generation.settings import GenerateSettings
from augment.pose.bank import pose_bank
from augment.pose.clusters import pose_clusters, pose_medoids
from augment.pose.viewpoint import VIEWPOINTS, viewpoints
from manifests import io
from manifests.centrality import CentralityFacts, with_centrality
from manifests.keypoints import visible
from manifests.runtime.console import Exit, UserError
from manifests.schema import UNKNOWN_CAMERA
from tests.helpers import trivial
from tests.helpers.generation import run
from tests.helpers.poses import standing

SIZE = (64, 128)
OTHERS = ("balanced", "complementary")
CENTRAL = "most-central"


def seen_from(*views_of_people, cameras=None):
    """Return a table of people who are seen from some viewpoints, by cameras 1, 2, ... in turn."""
    rng = np.random.default_rng(1)
    rows, joints = [], []
    for person, views in enumerate(views_of_people):
        one = trivial.made_up(num_people=1, images_per_person=len(views), first=person + 2)
        rows += one.table.to_pylist()
        joints += [standing(view, rng.uniform(0, 14)) for view in views]
    for row, camera in zip(rows, cameras or (), strict=bool(cameras)):
        row["camera_id"] = camera
    return trivial.table_of(rows, joints + rng.normal(0, 0.2, (len(rows), 18, 2)), ".")


def planned(images, per_id, seed=0, **choices):
    bank = pose_bank(images, SIZE)
    return make_plan(images, bank, per_id, seed, SIZE, choices=Choices(**choices))


def rows_of(plan):
    return plan.rows(0, len(plan))


MANY = [["front"] * 12, ["back"] * 6 + ["front"] * 2, ["side"] * 5 + ["front"]]


def test_complementary_poses_fill_the_viewpoint_that_every_person_has_least_of():
    images = seen_from(*MANY)
    plan = planned(images, 6, pose_choice="complementary")
    rows = rows_of(plan)
    views = viewpoints(plan.bank.joints)
    for person, own in zip(plan.people, MANY, strict=True):
        have = Counter(own)
        for pose in rows.pose[np.array(rows.people) == person].tolist():
            view = VIEWPOINTS[views[pose]]
            assert have[view] == min(have[other] for other in VIEWPOINTS)
            have[view] += 1


def test_balanced_poses_take_every_group_before_one_comes_again():
    images = seen_from(*[["front"] * 9 + ["back"] * 3 + ["side"]] * 4)
    plan = planned(images, 16, pose_choice="balanced")
    rows = rows_of(plan)
    joints = plan.bank.joints
    groups = pose_clusters(joints, joints[pose_medoids(joints)])
    for person in plan.people:
        taken = Counter(groups[rows.pose[np.array(rows.people) == person]].tolist())
        assert len(taken) == groups.max() + 1


def test_lacking_backgrounds_are_of_cameras_that_have_seen_the_person_least():
    cameras = [1] * 12 + [2] * 8 + [3] * 6
    plan = planned(seen_from(*MANY, cameras=cameras), 4, backgrounds="lacking")
    seen = np.asarray(plan.bank.images.table["camera_id"])[rows_of(plan).pose]
    first, second, third = seen.reshape(3, 4).tolist()
    assert first in ([2, 3, 2, 3], [3, 2, 3, 2], [2, 3, 3, 2], [3, 2, 2, 3])
    assert set(second) == {1, 3}
    assert set(third) == {1, 2}


def test_of_equally_lacking_cameras_those_that_see_more_come_sooner():
    views = [["front"] * 40, *([["front"]] * 200)]
    cameras = [1] * 30 + [2] * 10 + [3] * 200
    plan = planned(seen_from(*views, cameras=cameras), 1, backgrounds="lacking")
    seen = np.asarray(plan.bank.images.table["camera_id"])[rows_of(plan).pose][1:]
    share = (seen == 1).mean()
    # Three in four, five standard errors.
    assert abs(share - 0.75) < 5 * (0.75 * 0.25 / 200) ** 0.5
    assert 3 not in seen


def test_images_before_other_cameras_are_made_from_a_source_of_another_camera():
    cameras = [1, 2, 1, 1, 1, 1] * 2
    images = seen_from(["front"] * 6, ["back"] * 6, cameras=cameras)
    for source in ("random", "nearest", "most-joints"):
        plan = planned(images, 8, source=source, backgrounds="other-cameras")
        rows = rows_of(plan)
        street = np.asarray(plan.bank.images.table["camera_id"])[rows.pose]
        own = np.asarray(plan.sources.table["camera_id"])[rows.source]
        assert (street != own).all()
    alone = seen_from(["front"] * 3, ["back"] * 3, cameras=[1] * 6)
    assert len(rows_of(planned(alone, 3, backgrounds="other-cameras"))) == 6


def test_sources_with_most_joints_or_of_each_camera_in_turn():
    images = seen_from(["front"] * 6, cameras=[1, 1, 1, 1, 2, 3])
    rows, joints = images.table.to_pylist(), images.keypoints()
    joints[:3, 16] = np.nan
    images = trivial.table_of(rows, joints, ".")
    plan = planned(images, 6, source="most-joints")
    assert (visible(plan.source_joints[rows_of(plan).source]).sum(axis=1) == 18).all()
    plan = planned(images, 6, source="each-camera")
    taken = np.asarray(plan.sources.table["camera_id"])[rows_of(plan).source]
    # The only image of a camera cannot show its own pose; another takes its turn.
    assert Counter(taken.tolist()).keys() == {1, 2, 3}
    assert taken[0] == 1


def with_values(images, values, **facts):
    facts = {"weights_sha256": "00", "real_fraction": 1.0, "data_seed": 0} | facts
    return with_centrality(images, np.array(values, np.float32), CentralityFacts(**facts))


def test_the_most_central_source_is_taken_and_any_of_a_person_that_none_is_known_of():
    images = seen_from(["front"] * 4, ["back"] * 3)
    nan = np.nan
    plan = planned(with_values(images, [0.2, 0.9, nan, 0.5, nan, nan, nan]), 4, source=CENTRAL)
    rows = rows_of(plan)
    taken = np.array(plan.sources.strings("image_id"))[rows.source].reshape(2, 4)
    own = np.array(plan.bank.pose_ids.to_pylist())[rows.pose].reshape(2, 4)
    best = images.strings("image_id")[1]
    # Where the pose is its own, another image takes its turn.
    assert ((taken[0] == best) == (own[0] != best)).all()
    assert (taken[0] == best).sum() >= 3
    assert set(taken[1]) <= set(images.strings("image_id")[4:])


def test_another_centrality_is_another_run_and_none_is_no_run(tmp_path):
    images = trivial.made_up(num_people=2, images_per_person=4)
    table, weights = tmp_path / "images.parquet", open_weights("patn-sample")

    def key(values, choices=CENTRAL, **facts):
        io.write_images(with_values(images, values, **facts), table)
        settings = GenerateSettings(
            images=table, weights="patn-sample", per_id=2, choices=Choices(source=choices)
        )
        return resolve(settings, plan_of(settings, weights), weights, None).content_key

    first, second = [0.1, 0.2] * 4, [0.1, 0.3] * 4
    assert key(first) == key(first)
    assert key(first) == key(first, data_seed=1)
    assert key(first) != key(second)
    assert key(first, "random") == key(second, "random")
    with pytest.raises(UserError, match=r"found centrality by --real-fraction 0\.5 --data"):
        key(first, real_fraction=0.5)
    with pytest.raises(UserError, match="found no centrality of any of 8 train images, expected"):
        key([np.nan] * 8)


@pytest.mark.parametrize("backgrounds", ["any", "lacking"])
@pytest.mark.parametrize("pose_choice", OTHERS)
def test_poses_are_distinct_and_the_first_stay_the_same_for_more_images(pose_choice, backgrounds):
    images = seen_from(*MANY, ["side"])
    chosen = {"pose_choice": pose_choice, "backgrounds": backgrounds, "candidate_poses": 2}
    few, many = (rows_of(planned(images, per_id, **chosen)) for per_id in (3, 12))
    assert len(set(zip(many.people, many.pose.tolist(), strict=True))) == len(many)
    for person in set(few.people):
        expected = many.pose[np.array(many.people) == person][:3]
        assert np.array_equal(few.pose[np.array(few.people) == person], expected)
    parts = [planned(images, 12, **chosen).rows(row, row + 1).pose[0] for row in range(24)]
    assert parts == many.pose[:24].tolist()
    assert not np.array_equal(rows_of(planned(images, 12, seed=1, **chosen)).pose, many.pose)


@pytest.mark.parametrize("pose_choice", OTHERS)
def test_the_whole_bank_is_given_out_but_for_the_own_pose_of_an_only_image(pose_choice):
    images = seen_from(["front"] * 3, ["back"], ["side"] * 2)
    plan = planned(images, 5, pose_choice=pose_choice, backgrounds="lacking")
    rows = rows_of(plan)
    own = plan.bank.pose_ids.to_pylist().index("0003_c1s1_000000_01.jpg")
    alone = rows.pose[np.array(rows.people) == "0003"]
    assert sorted(alone.tolist()) == [pose for pose in range(6) if pose != own]


def test_cameras_that_nobody_knows_are_one_camera_more():
    images = seen_from(["front"] * 4, ["back"] * 4, cameras=[UNKNOWN_CAMERA, 1, 1, 1, 2, 2, 2, 2])
    plan = planned(images, 2, backgrounds="lacking")
    assert len(set(rows_of(plan).pose.tolist())) > 1


def test_a_camera_counts_before_a_viewpoint():
    images = seen_from(["front"] * 6, ["front", "back"], cameras=[1, 1, 1, 3, 3, 3, 2, 1])
    plan = planned(images, 1, pose_choice="complementary", backgrounds="lacking")
    pose = rows_of(plan).pose[0]
    assert plan.bank.images.table["camera_id"][int(pose)].as_py() == 2


@pytest.mark.parametrize(
    ("weights", "choices", "cameras", "expected"),
    [
        (
            "patn-sample",
            {"backgrounds": "lacking"},
            True,
            "--backgrounds lacking: found weights of p",
        ),
        (
            "recompose",
            {"pose_choice": "balanced"},
            True,
            "--pose-choice balanced: found weights of r",
        ),
        ("recompose", {"backgrounds": "lacking"}, False, "found no camera in 12 train images"),
        ("patn-sample", {"source": "each-camera"}, False, "--source each-camera: found no camera"),
    ],
)
def test_choices_that_could_choose_nothing_are_refused(
    weights, choices, cameras, expected, tmp_path
):
    images = trivial.made_up(masked=True)
    if not cameras:
        rows = [{**row, "camera_id": UNKNOWN_CAMERA} for row in images.table.to_pylist()]
        images = trivial.table_of(rows, images.keypoints(), ".")
    io.write_images(images, tmp_path / "images.parquet")
    settings = GenerateSettings(
        images=tmp_path / "images.parquet", weights=weights, per_id=2, choices=Choices(**choices)
    )
    with pytest.raises(UserError, match=expected):
        plan_of(settings, open_weights(weights))


def test_a_run_with_choices_says_so_in_its_card_and_is_another_run(people, tmp_path):
    chosen = Choices(pose_choice="balanced", candidate_poses=2)
    for name, choices in (("plain", Choices()), ("chosen", chosen)):
        assert run(people, tmp_path / name, choices=choices, per_id=3) == Exit.DONE
    assert "pose choice" not in (tmp_path / "plain/README.md").read_text()
    assert "| pose choice | balanced |" in (tmp_path / "chosen/README.md").read_text()
    with pytest.raises(UserError, match=r"content\.pose_choice: None, now 'balanced'"):
        run(people, tmp_path / "plain", choices=chosen, per_id=3)
