"""A person's pixels moved limb by limb."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from augment.pose import body_parts
from augment.pose.limb_warp import LimbWarp, limb_warp
from augment.pose.pose import Pose
from manifests.people.body_shape import body_tubes
from manifests.people.cameras import CAMERAS
from manifests.people.clothing import sample_person
from manifests.people.dataset import view_of
from manifests.people.pose_sampling import project_joints, sample_body_pose, skeleton
from manifests.people.renderer import render
from manifests.runtime.random_numbers import KeyedRandom
from tests.helpers.scalar_limb_warp import scalar_limb_warp

GREY_LEVEL = 1 / 127.5
"""Of an image in [-1, 1]; a coverage in [0, 1] has steps of half as much."""
POSITION_NOISE = 2e-3
"""Positions in float32 are off by 1e-5 px over 128 px, an edge drawn rises by 2 per px, and
ten parts are laid over each other."""
HEIGHT, WIDTH = 128, 64
TORSO = {2: (25.0, 30.0), 5: (39.0, 30.0), 8: (27.0, 62.0), 11: (37.0, 62.0)}


def people(count: int, key: str = "source") -> tuple[torch.Tensor, torch.Tensor, Pose]:
    """Return made-up people before grey: images, masks, poses with both shoulders and hips."""
    images, masks, joints, number = [], [], [], 0
    while len(images) < count:
        number += 1
        rng = KeyedRandom(0, f"{key}/{number}")
        person = sample_person(0, f"{number:04d}")
        body_pose = sample_body_pose(rng, person)
        points = skeleton(person, body_pose)
        view = view_of(rng, CAMERAS[0].pitch, junk=False)
        rendering = render(body_tubes(person, body_pose, points), view, CAMERAS[0].light)
        found = project_joints(rng, points, body_pose, view, rendering)
        if np.isnan(found[list(TORSO)]).any():
            continue
        pixels = rendering.colour + (1 - rendering.coverage[..., None]) * 128
        images.append(torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1)
        masks.append(torch.from_numpy(rendering.coverage)[None].float())
        joints.append(torch.from_numpy(found).float())
    return torch.stack(images).clamp(-1, 1), torch.stack(masks), Pose(torch.stack(joints))


def only(points: dict[int, tuple[float, float]]) -> Pose:
    """Return one pose with the torso and a few more joints."""
    joints = torch.full((1, 18, 2), torch.nan)
    for place, point in (TORSO | points).items():
        joints[0, place] = torch.tensor(point)
    return Pose(joints)


def with_joint(pose: Pose, place: int, point: tuple[float, float]) -> Pose:
    joints = pose.joints.clone()
    joints[:, place] = torch.tensor(point)
    return Pose(joints)


def noise(rows: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images of random pixels and masks that are 1 everywhere."""
    generator = torch.Generator().manual_seed(0)
    image = 2 * torch.rand(rows, 3, HEIGHT, WIDTH, generator=generator) - 1
    return image, torch.ones(rows, 1, HEIGHT, WIDTH)


def largest_difference(a: LimbWarp, b: LimbWarp) -> float:
    image, coverage = (a.image - b.image).abs().max(), (a.coverage - b.coverage).abs().max()
    return float(torch.maximum(image, 2 * coverage))


def test_a_batch_equals_the_scalar_way_to_a_grey_level() -> None:
    image, mask, pose = people(4)
    target = people(4, "target")[2]
    moved = limb_warp(image, mask, pose, target)
    for row in range(4):
        pixels, coverage = scalar_limb_warp(
            image[row].permute(1, 2, 0).double().numpy(), mask[row, 0].double().numpy(),
            pose.joints[row].double().numpy(), target.joints[row].double().numpy(),
        )  # fmt: skip
        assert coverage.sum() > 500
        assert np.abs(moved.image[row].permute(1, 2, 0).numpy() - pixels).max() < GREY_LEVEL
        assert np.abs(moved.coverage[row, 0].numpy() - coverage).max() < GREY_LEVEL / 2


def test_the_same_pose_gives_the_person_back_inside_the_mask() -> None:
    image, mask, pose = people(6)
    moved = limb_warp(image, mask, pose, pose)
    inside = (mask == 1) & (moved.coverage > 1 - POSITION_NOISE)
    assert (moved.image - image)[inside.expand_as(image)].abs().max() < 2 * POSITION_NOISE
    # Skirts, hair and bags lie within reach of the bones too.
    assert inside.sum() > 0.995 * (mask == 1).sum()


def test_what_lies_beyond_the_parts_goes_with_the_nearest_one() -> None:
    image, mask = noise()
    pose = only({9: (25.0, 84.0), 10: (25.0, 104.0), 12: (39.0, 84.0), 13: (39.0, 104.0)})
    moved = limb_warp(image, mask, pose, with_joint(pose, 10, (17.0, 104.0)))
    # 14 px to the side of the left shin, which stays; its reach is 19 px beyond 6.
    assert moved.coverage[..., 90:100, 53].min() > 1 - POSITION_NOISE
    assert (moved.image[..., 90:100, 53] - image[..., 90:100, 53]).abs().max() < POSITION_NOISE


def test_an_arm_that_is_raised_is_not_seen_hanging_as_well() -> None:
    image, mask = noise()
    hanging = {3: (17.0, 44.0), 4: (17.0, 60.0), 6: (47.0, 44.0), 7: (47.0, 60.0)}
    raised = with_joint(with_joint(only(hanging), 3, (12.0, 18.0)), 4, (12.0, 2.0))
    moved = limb_warp(image, mask, only(hanging), raised)
    # Where the right forearm hung the mask is 1, and yet nothing of it goes with the torso.
    assert moved.coverage[..., 46:60, 14:20].max() == 0
    assert (moved.coverage[..., 46:60, 44:50] > 0.9).all()


def test_mirrored_people_and_poses_give_mirrored_results() -> None:
    image, mask, pose = people(6)
    target = people(6, "target")[2]
    moved = limb_warp(image, mask, pose, target)
    mirrored = limb_warp(image.flip(-1), mask.flip(-1), pose.mirror(WIDTH), target.mirror(WIDTH))
    back = LimbWarp(mirrored.image.flip(-1), mirrored.coverage.flip(-1))
    assert largest_difference(moved, back) < POSITION_NOISE


def test_a_row_does_not_depend_on_its_batch() -> None:
    image, mask, pose = people(5)
    target = people(5, "target")[2]
    moved = limb_warp(image, mask, pose, target)
    for row in range(5):
        one = slice(row, row + 1)
        alone = limb_warp(image[one], mask[one], Pose(pose.joints[one]), Pose(target.joints[one]))
        assert torch.equal(moved.image[one], alone.image)
        assert torch.equal(moved.coverage[one], alone.coverage)


def test_convention_poses_shifted_right_and_down_move_the_pixels_alike() -> None:
    image, mask = noise()
    pose = only({})
    moved = limb_warp(image, mask, pose, Pose(pose.joints + torch.tensor([3.0, 2.0])))
    chest = (slice(None), slice(None), slice(35, 60), slice(28, 36))
    shifted = (slice(None), slice(None), slice(37, 62), slice(31, 39))
    assert (moved.image[shifted] - image[chest]).abs().max() < POSITION_NOISE
    assert (moved.coverage[shifted] - 1).abs().max() < POSITION_NOISE


def test_from_front_to_back_the_torso_is_mirrored() -> None:
    image, mask = noise()
    front = only({})
    moved = limb_warp(image, mask, front, Pose(front.joints[:, body_parts.MIRROR]))
    # The spine lies at x = 32: column 30 shows what was at column 34.
    assert (moved.image[..., 35:60, 30] - image[..., 35:60, 34]).abs().max() < POSITION_NOISE


def test_a_head_that_looks_to_the_other_side_is_mirrored() -> None:
    image, mask = noise()
    neck = {1: (32.0, 30.0)}
    left, right = only(neck | {0: (26.0, 20.0)}), only(neck | {0: (38.0, 20.0)})
    face = (slice(None), slice(None), slice(12, 22))
    turned, kept = limb_warp(image, mask, left, right), limb_warp(image, mask, left, left)
    assert (turned.image[*face, 30] - image[*face, 34]).abs().max() < POSITION_NOISE
    assert (kept.image[*face, 30] - image[*face, 30]).abs().max() < POSITION_NOISE


def test_a_missing_limb_is_borrowed_from_the_other_side_and_mirrored() -> None:
    image, mask = noise()
    left = {6: (50.0, 40.0), 7: (50.0, 60.0)}
    right = {3: (14.0, 40.0), 4: (14.0, 60.0)}
    moved = limb_warp(image, mask, only(left), only(left | right))
    assert (moved.coverage[..., 42:58, 14] - 1).abs().max() < POSITION_NOISE
    # One pixel to the outside of either forearm.
    assert (moved.image[..., 45:58, 13] - image[..., 45:58, 51]).abs().max() < POSITION_NOISE


def test_where_nothing_is_moved_image_and_coverage_are_exactly_0() -> None:
    image, mask = noise()
    pose = only({})
    moved = limb_warp(image, mask, pose, pose)
    # The torso ends at 62, its margin at 68, its reach at 88.
    assert torch.count_nonzero(moved.coverage[..., 90:, :]) == 0
    assert torch.count_nonzero(moved.image[..., 90:, :]) == 0
    assert (moved.coverage[..., 84, 28:36] > 0).all()
    nobody = limb_warp(image, torch.zeros_like(mask), pose, pose)
    assert torch.count_nonzero(nobody.coverage) == torch.count_nonzero(nobody.image) == 0


def test_a_bone_without_length_is_as_good_as_missing() -> None:
    image, mask = noise()
    arms = {3: (14.0, 40.0), 4: (14.0, 60.0)}
    whole, nan = only(arms), (float("nan"), float("nan"))
    point, missing = with_joint(whole, 4, arms[3]), with_joint(whole, 4, nan)
    for short, without in (((whole, point), (whole, missing)), ((point, whole), (missing, whole))):
        expected = limb_warp(image, mask, *without)
        assert largest_difference(limb_warp(image, mask, *short), expected) == 0
        assert largest_difference(limb_warp(image, mask, whole, whole), expected) > 0.5


def test_a_bone_seen_end_on_is_left_out_rather_than_smeared() -> None:
    image, mask = noise()
    long = only({3: (14.0, 40.0), 4: (14.0, 70.0)})
    short = with_joint(long, 4, (14.0, 44.0))
    without = limb_warp(image, mask, short, with_joint(long, 4, (float("nan"), float("nan"))))
    assert largest_difference(limb_warp(image, mask, short, long), without) == 0


@pytest.mark.parametrize(
    "broken",
    [
        {2: (float("nan"), float("nan"))},
        {8: (25.0, 30.0), 11: (39.0, 30.0)},
        dict.fromkeys(range(18), (30.0, 40.0)),
        {2: (float("inf"), 30.0)},
        {8: (27.0, 9000.0), 11: (37.0, 9000.0)},
    ],
    ids=["shoulder missing", "shoulders at hips", "one point", "infinite", "far away"],
)
def test_a_pose_without_a_sound_torso_moves_nobody_and_spares_the_other_rows(
    broken: dict[int, tuple[float, float]],
) -> None:
    image, mask = noise(2)
    sound = only({})
    pair = Pose(torch.cat([only(broken).joints, sound.joints]))
    both = Pose(sound.joints.repeat(2, 1, 1))
    for moved in (limb_warp(image, mask, pair, both), limb_warp(image, mask, both, pair)):
        assert torch.count_nonzero(moved.coverage[0]) == torch.count_nonzero(moved.image[0]) == 0
        assert moved.coverage[1].sum() > 500


def test_between_two_poses_with_shoulders_at_the_hips_nobody_is_moved() -> None:
    image, mask = noise()
    flat = only({8: (25.0, 31.0), 11: (39.0, 31.0), 9: (25.0, 60.0)})
    assert torch.count_nonzero(limb_warp(image, mask, flat, flat).coverage) == 0


@given(st.lists(st.lists(st.one_of(st.floats(width=32), st.integers(0, 40)), min_size=72,
                         max_size=72), min_size=1, max_size=2))  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_no_joints_whatever_give_a_value_out_of_range(numbers: list[list[float]]) -> None:
    joints = torch.tensor(numbers, dtype=torch.float32).reshape(-1, 2, 18, 2)
    image = torch.ones(len(joints), 3, 40, 24)
    moved = limb_warp(image, image[:, :1], Pose(joints[:, 0]), Pose(joints[:, 1]))
    assert torch.isfinite(moved.image).all()
    assert moved.coverage.min() >= 0
    assert moved.coverage.max() <= 1 + POSITION_NOISE
    assert (moved.image - moved.coverage).abs().max() < POSITION_NOISE


def test_before_a_background_the_rest_is_the_background() -> None:
    image, mask = noise()
    pose, background = only({}), torch.full((1, 3, HEIGHT, WIDTH), 0.25)
    shown = limb_warp(image, mask, pose, pose).before(background)
    assert (shown[..., 35:60, 28:36] - image[..., 35:60, 28:36]).abs().max() < POSITION_NOISE
    assert (shown[..., 90:, :] == 0.25).all()


@pytest.mark.gpu
def test_a_gpu_gives_the_same_to_a_grey_level() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    image, mask, pose = people(6)
    target = people(6, "target")[2]
    here = limb_warp(image, mask, pose, target)
    there = limb_warp(image.cuda(), mask.cuda(), pose.to("cuda"), target.to("cuda"))
    back = LimbWarp(there.image.cpu(), there.coverage.cpu())
    assert largest_difference(here, back) < GREY_LEVEL
