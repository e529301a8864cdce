"""The plan: who in which pose."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from augment.generation.choices import Choices
from augment.generation.plan import make_plan
from augment.generation.target_poses import UniformPoses
from augment.pose.bank import pose_bank
from augment.pose.distance import SEEN_IN_ONE, pose_distances
from manifests.keypoints import JOINT_NAMES, MIRROR
from manifests.runtime.console import UserError
from manifests.runtime.random_numbers import bounded, random_bits
from tests.helpers import trivial

SIZE = (64, 128)
NOSE, LEFT_HIP = JOINT_NAMES.index("nose"), JOINT_NAMES.index("left_hip")


def plan_of(images, per_id=4, seed=0, poses=None):
    return make_plan(images, pose_bank(poses or images, SIZE), per_id, seed, SIZE)


def row_tuples(plan, start=0, stop=None):
    """Return the rows as (person, k, source, pose, seed)."""
    rows = plan.rows(start, len(plan) if stop is None else stop)
    sources, poses = plan.sources.strings("image_id"), plan.bank.pose_ids.to_pylist()
    return [
        (person, k, sources[source], poses[pose], seed)
        for person, k, source, pose, seed in zip(
            rows.people,
            rows.k.tolist(),
            rows.source.tolist(),
            rows.pose.tolist(),
            rows.seed.tolist(),
            strict=True,
        )
    ]


def rows_and_joints(images):
    return images.table.to_pylist(), images.keypoints()


def test_golden_rows():
    assert row_tuples(plan_of(trivial.made_up(num_people=2), per_id=3)) == [
        ("0002", 0, "0002_c3s1_000002_01.jpg", "0002_c1s1_000000_01.jpg", 3386567338017332288),
        ("0002", 1, "0002_c2s1_000001_01.jpg", "0002_c3s1_000002_01.jpg", 2705227546854539214),
        ("0002", 2, "0002_c1s1_000000_01.jpg", "0002_c2s1_000001_01.jpg", 1049019536371125542),
        ("0003", 0, "0003_c1s1_000000_01.jpg", "0002_c2s1_000001_01.jpg", 4119413952405589450),
        ("0003", 1, "0003_c1s1_000000_01.jpg", "0002_c3s1_000002_01.jpg", 7514530904670072040),
        ("0003", 2, "0003_c1s1_000000_01.jpg", "0003_c3s1_000002_01.jpg", 9488550240020236770),
    ]


def test_rows_are_people_in_label_order_times_k():
    people = [(person, k) for person, k, *_ in row_tuples(plan_of(trivial.made_up(), per_id=3))]

    assert people == [(f"{person:04d}", k) for person in (2, 3, 4, 5) for k in range(3)]


def test_target_poses_are_the_beginning_of_a_shuffle_of_the_bank():
    plan = plan_of(trivial.made_up(), per_id=4)
    size = len(plan.bank)

    for position, person in enumerate(plan.people):
        bank = plan.bank.pose_ids.to_pylist()
        for i, bits in enumerate(random_bits(0, person, 4, stream=1).tolist()):
            j = i + bounded(bits, size - i)
            bank[i], bank[j] = bank[j], bank[i]
        assert [row[3] for row in row_tuples(plan)[4 * position : 4 * position + 4]] == bank[:4]


def test_every_pose_is_as_likely_as_another_at_every_place():
    images = trivial.made_up(num_people=2_000, images_per_person=2)
    plan = plan_of(images, per_id=3, poses=trivial.made_up(num_people=2, first=6000))

    poses = plan.rows(0, len(plan)).pose.reshape(-1, 3)

    # Five standard errors of 2,000 sources among six.
    error = 5 * (2_000 * (1 / 6) * (5 / 6)) ** 0.5
    for column in range(3):
        assert np.abs(np.bincount(poses[:, column], minlength=6) - 2_000 / 6).max() < error


def test_the_rows_of_a_person_cost_no_look_at_the_whole_bank():
    plan = plan_of(trivial.made_up(), per_id=4)
    # A million million poses: a list of them would not fit anywhere.
    rows = replace(plan, targets=UniformPoses(0, 10**12, 1)).rows(0, len(plan))

    assert len(set(rows.pose.tolist())) == len(plan)
    assert rows.pose.max() > 10**11


def test_sources_are_one_draw_per_person_and_k():
    images = trivial.made_up()
    # Poses of others: then no source is ever its own target.
    plan = plan_of(images, per_id=6, poses=trivial.made_up(first=60))

    for person, k, source, _, seed in row_tuples(plan):
        choice, expected_seed = random_bits(0, person, 2, counter=k).tolist()
        own = [name for name in plan.sources.strings("image_id") if name.startswith(person)]
        assert source == own[bounded(choice, 3)]
        assert seed == expected_seed


def test_every_usable_source_of_a_person_is_drawn():
    plan = plan_of(trivial.made_up(num_people=30, images_per_person=4), per_id=40)

    assert {source for _, _, source, _, _ in row_tuples(plan)} == set(
        plan.sources.strings("image_id")
    )


small = st.fixed_dictionaries(
    {
        "num_people": st.integers(2, 5),
        "images_per_person": st.integers(2, 4),
        "seed": st.integers(0, 1_000),
    }
)


@settings(max_examples=30, deadline=None)
@given(kind=small, seed=st.integers(0, 2**31), order=st.randoms(use_true_random=False))
def test_the_plan_does_not_depend_on_row_order(kind, seed, order):
    images = trivial.made_up(**kind)
    rows = list(range(len(images)))
    order.shuffle(rows)

    shuffled = images.take(np.array(rows))

    assert row_tuples(plan_of(shuffled, 3, seed)) == row_tuples(plan_of(images, 3, seed))


@settings(max_examples=30, deadline=None)
@given(kind=small, cut=st.integers(1, 15))
def test_the_plan_does_not_depend_on_where_it_is_cut(kind, cut):
    plan = plan_of(trivial.made_up(**kind), per_id=4)
    cuts = [*range(0, len(plan), cut), len(plan)]

    parts = [row_tuples(plan, start, stop) for start, stop in pairwise(cuts)]

    assert [row for part in parts for row in part] == row_tuples(plan)


@settings(max_examples=30, deadline=None)
@given(kind=small, per_id=st.integers(1, 4))
def test_fewer_images_per_person_are_the_first_of_more(kind, per_id):
    images = trivial.made_up(**kind)

    few, many = (row_tuples(plan_of(images, count)) for count in (per_id, 4))

    assert few == [row for row in many if row[1] < per_id]


@settings(max_examples=30, deadline=None)
@given(kind=small, seed=st.integers(0, 100))
def test_target_poses_of_a_person_differ_and_are_never_the_source_itself(kind, seed):
    plan = plan_of(trivial.made_up(**kind), per_id=4, seed=seed)

    poses = {}
    for person, _, source, pose, _ in row_tuples(plan):
        assert pose != source
        poses.setdefault(person, []).append(pose)
    assert all(len(set(own)) == 4 for own in poses.values())


def test_another_person_without_poses_of_use_changes_no_other_row():
    rows, joints = rows_and_joints(trivial.made_up())
    more, more_joints = rows_and_joints(trivial.made_up(num_people=1, first=3000))
    more_joints[:, LEFT_HIP] = np.nan
    both = trivial.table_of(rows + more, np.concatenate([joints, more_joints]), ".")

    alone = row_tuples(plan_of(trivial.table_of(rows, joints, ".")))

    assert [row for row in row_tuples(plan_of(both)) if row[0] != "3000"] == alone


def test_another_person_changes_no_other_row_while_the_poses_stay():
    poses = trivial.made_up(first=60)
    few, many = trivial.made_up(num_people=3), trivial.made_up(num_people=5, seed=0)

    alone = row_tuples(plan_of(few, poses=poses))

    assert [row for row in row_tuples(plan_of(many, poses=poses)) if row[0] < "0005"] == alone


def test_query_and_gallery_give_neither_source_nor_pose():
    rows, joints = rows_and_joints(trivial.made_up())
    for split in ("query", "gallery"):
        more, more_joints = rows_and_joints(trivial.made_up(split=split, first=3, seed=7))
        for row in more:
            row["image_id"] = f"{split}_{row['image_id']}"
        rows, joints = rows + more, np.concatenate([joints, more_joints])

    tuples = row_tuples(plan_of(trivial.table_of(rows, joints, ".")))

    assert tuples == row_tuples(plan_of(trivial.made_up()))


def test_one_usable_row_serves_every_k_and_never_shows_its_own_pose():
    rows, joints = rows_and_joints(trivial.made_up())
    joints[1:3, LEFT_HIP] = np.nan

    plan = plan_of(trivial.table_of(rows, joints, "."), per_id=9)

    first = [row for row in row_tuples(plan) if row[0] == "0002"]
    assert {source for _, _, source, _, _ in first} == {rows[0]["image_id"]}
    # All nine poses but the source's own: 12 less the two without a hip and itself.
    assert {pose for *_, pose, _ in first} == {row["image_id"] for row in rows[3:]}
    assert plan.num_without_torso == 0


def test_a_person_without_shoulders_and_hips_gives_the_rows_with_most_joints_and_is_counted():
    rows, joints = rows_and_joints(trivial.made_up(images_per_person=4))
    joints[:4, LEFT_HIP] = np.nan
    joints[[0, 3], NOSE] = np.nan

    plan = plan_of(trivial.table_of(rows, joints, "."), per_id=8)

    sources = {source for person, _, source, _, _ in row_tuples(plan) if person == "0002"}
    assert sources == {rows[1]["image_id"], rows[2]["image_id"]}
    assert plan.num_without_torso == 1


def test_where_masked_pixels_are_moved_sources_have_shoulders_and_hips_and_people_without_are_out():
    rows, joints = rows_and_joints(trivial.made_up(images_per_person=4, masked=True))
    joints[:4, LEFT_HIP] = np.nan
    joints[5, LEFT_HIP] = np.nan
    images = trivial.table_of(rows, joints, ".")
    bank = pose_bank(images, SIZE)

    moved = make_plan(images, bank, 3, 0, SIZE, masked=True)
    kept = make_plan(images, bank, 3, 0, SIZE, masked=True, keeps_pose=True)

    assert rows[0]["person_id"] in kept.people
    assert moved.people == kept.people[1:]
    assert (moved.num_without_mask, kept.num_without_mask) == (1, 0)
    assert moved.num_without_torso == 0
    assert rows[5]["image_id"] not in moved.sources.strings("image_id")
    joints[:, LEFT_HIP] = np.nan
    with pytest.raises(UserError, match="found no shoulders and hips in 16 train images with a"):
        make_plan(trivial.table_of(rows, joints, "."), bank, 3, 0, SIZE, masked=True)


def test_a_person_without_any_joint_is_still_there():
    rows, joints = rows_and_joints(trivial.made_up())
    joints[:3] = np.nan

    plan = plan_of(trivial.table_of(rows, joints, "."))

    assert plan.people[0] == "0002"
    assert plan.num_without_torso == 1


def test_a_bank_smaller_than_one_person_needs_is_refused():
    with pytest.raises(UserError, match=r"found 12 target poses.*at least 13 \(--per-id\)"):
        plan_of(trivial.made_up(), per_id=13)


def test_a_bank_that_is_too_small_without_a_single_source_is_refused():
    images = trivial.made_up(images_per_person=1)

    assert len(plan_of(images, per_id=3)) == 12
    with pytest.raises(UserError, match="found 3 target poses"):
        plan_of(images, per_id=4)


def test_no_images_per_person_are_refused():
    with pytest.raises(UserError, match="--per-id: found 0, expected at least 1"):
        plan_of(trivial.made_up(), per_id=0)


def test_a_table_without_train_rows_is_refused():
    with pytest.raises(UserError, match="no train rows in 12 images"):
        plan_of(trivial.made_up(split="gallery"), poses=trivial.made_up())


def test_sources_of_two_people_whose_results_would_share_a_name_are_refused():
    rows, joints = rows_and_joints(trivial.made_up(num_people=2, images_per_person=1))
    rows[1]["image_id"] = rows[0]["image_id"] + ".jpg"

    with pytest.raises(UserError, match="differs from an image of person 0002 by its ending only"):
        plan_of(trivial.table_of(rows, joints, "."), per_id=1)


@pytest.mark.market1501
def test_the_real_table_gives_7510_rows_from_its_train_split_alone(market1501_images):
    plan = plan_of(market1501_images, per_id=10)

    rows = plan.rows(0, len(plan))
    assert len(rows) == 7_510
    assert plan.num_without_torso == 6
    train = {
        row["image_id"]: row["person_id"]
        for row in market1501_images.table.to_pylist()
        if row["split"] == "train"
    }
    ids, poses = plan.sources.strings("image_id"), plan.bank.pose_ids.to_pylist()
    assert len(train) == 12_936
    assert [train[ids[row]] for row in rows.source.tolist()] == list(rows.people)
    assert {poses[row] for row in rows.pose.tolist()} <= train.keys()
    assert all(
        ids[source] != poses[pose] for source, pose in zip(rows.source, rows.pose, strict=True)
    )


def test_the_nearest_source_is_that_whose_pose_is_nearest_of_a_persons_others():
    images = trivial.made_up(num_people=5, images_per_person=4)
    plan = make_plan(images, pose_bank(images, SIZE), 6, 0, SIZE, choices=Choices(source="nearest"))
    rows = plan.rows(0, len(plan))
    for person, source, pose in zip(rows.people, rows.source, rows.pose, strict=True):
        own = np.flatnonzero(np.array(plan.sources.strings("person_id")) == person)
        others = [row for row in own if plan.shown[row] != pose]
        away = pose_distances(plan.source_joints[others], plan.bank.joints[pose])
        assert source == others[int(away.argmin())]
    drawn = make_plan(images, pose_bank(images, SIZE), 6, 0, SIZE).rows(0, len(plan))
    assert np.array_equal(drawn.pose, rows.pose)
    assert np.array_equal(drawn.seed, rows.seed)
    assert not np.array_equal(drawn.source, rows.source)


def test_a_pose_is_near_itself_elsewhere_and_larger_and_far_from_its_mirror_image():
    pose = trivial.made_up(num_people=1, images_per_person=1).keypoints()[0].astype(np.float32)
    mirrored = pose[list(MIRROR)]
    partly, nothing = pose.copy(), np.full_like(pose, np.nan)
    partly[4] = np.nan
    away = pose_distances(np.stack([2 * pose + 7, mirrored, partly, nothing]), pose)
    assert away[0] < 1e-4
    assert away[2] == pytest.approx(SEEN_IN_ONE / 18)
    assert pose_distances(pose[None], partly)[0] == away[2]
    assert away[1] > 0.5
    assert np.isinf(away[3])


@pytest.mark.parametrize("source", ["random", "nearest"])
def test_of_several_candidate_poses_the_nearest_to_the_source_is_shown(source):
    images = trivial.made_up(num_people=8, images_per_person=4)
    bank = pose_bank(images, SIZE)
    per_id, num = 3, 5
    plan = make_plan(
        images, bank, per_id, 0, SIZE, choices=Choices(source=source, candidate_poses=num)
    )
    one = make_plan(images, bank, per_id * num, 0, SIZE)
    rows, all_drawn = plan.rows(0, len(plan)), one.rows(0, len(one))
    for row, (person, k) in enumerate(zip(rows.people, rows.k, strict=True)):
        mine = [i for i, other in enumerate(all_drawn.people) if other == person]
        drawn = all_drawn.pose[mine][k * num : (k + 1) * num].tolist()
        chosen, image = rows.pose[row], rows.source[row]
        assert chosen in drawn
        own = np.flatnonzero(np.array(plan.sources.strings("person_id")) == person)
        away = {
            (other, pose): pose_distances(plan.source_joints[[other]], bank.joints[pose])[0]
            for other in (own if source == "nearest" else [image])
            for pose in drawn
            if plan.shown[other] != pose
        }
        assert (image, chosen) == min(away, key=lambda pair: away[pair])
    assert len(set(zip(rows.people, rows.pose, strict=True))) == len(rows)


def test_the_first_images_are_the_same_for_more_images_per_person_with_candidates_too():
    images = trivial.made_up(num_people=8, images_per_person=4)
    four = Choices(candidate_poses=4)
    few, many = (
        make_plan(images, pose_bank(images, SIZE), per_id, 3, SIZE, choices=four)
        for per_id in (2, 5)
    )
    for person in range(8):
        expected = many.rows(person * 5, person * 5 + 2)
        found = few.rows(person * 2, person * 2 + 2)
        assert np.array_equal(found.pose, expected.pose)
        assert np.array_equal(found.source, expected.source)


def test_more_candidates_than_poses_are_refused():
    images = trivial.made_up(num_people=5, images_per_person=4)
    with pytest.raises(UserError, match=r"found 20 .*at least 24 \(--per-id times --candidate"):
        make_plan(images, pose_bank(images, SIZE), 6, 0, SIZE, choices=Choices(candidate_poses=4))
    with pytest.raises(UserError, match="--candidate-poses: found 0"):
        make_plan(images, pose_bank(images, SIZE), 6, 0, SIZE, choices=Choices(candidate_poses=0))
