"""Made-up people in Market-1501 layout."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from manifests import pixels
from manifests.datasets import market1501
from manifests.keypoints import JOINT_NAMES, TORSO
from manifests.people.body_shape import body_tubes
from manifests.people.clothing import Person, sample_person
from manifests.people.dataset import (
    MOST_PEOPLE,
    SampleSettings,
    Shot,
    draw_data_set,
    draw_shot,
    plan,
    view_of,
)
from manifests.people.pose_sampling import Arm, BodyPose, Leg, project_joints, skeleton
from manifests.people.renderer import Rendering, View, render
from manifests.runtime.console import UserError
from manifests.runtime.random_numbers import KeyedRandom

SETTINGS = SampleSettings(people=3, test_people=2, seed=7)
UPRIGHT = BodyPose(
    arms=(Arm(0.0, 0.15, 0.1, 0.0), Arm(0.0, 0.15, 0.1, 0.0)),
    legs=(Leg(0.0, 0.04, 0.05), Leg(0.0, 0.04, 0.05)),
    lean=0.0,
    head_turn=0.0,
)
EDGE = 0.3
"""Least coverage under a joint: an eye on the silhouette may round half a pixel outward."""

TOP = ("long", (201, 197, 201))
BOTTOM = ("shorts", (39, 43, 36))
NAMES_SHA256 = "3cb7f1efabd2ae703fab2b42033eb9201651c1c70dc61a5ffeda3760c5980e7e"

ROW = {name: row for row, name in enumerate(JOINT_NAMES)}


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sample") / "people"
    draw_data_set(out, SETTINGS)
    return out


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class NeverMissing(KeyedRandom):
    """Random numbers with which no joint is missed by chance."""

    def uniform(self, low: float, high: float) -> float:
        return high - 1e-9


def render_upright(person: Person, yaw: float) -> tuple[np.ndarray, Rendering, View]:
    view = View(yaw=yaw, pitch=0.1, height_px=112.0, foot_x=31.5, foot_y=121.0)
    points = skeleton(person, UPRIGHT)
    rendering = render(body_tubes(person, UPRIGHT, points), view, (0.0, -0.6, 0.8))
    return project_joints(NeverMissing(0, "x"), points, UPRIGHT, view, rendering), rendering, view


def test_the_same_settings_give_the_same_bytes(people: Path, tmp_path: Path) -> None:
    draw_data_set(tmp_path / "again", SETTINGS)
    assert hashes(tmp_path / "again") == hashes(people)


def test_people_and_file_names_of_a_seed_stay_the_stored_ones() -> None:
    """Without pixels, which another version of the image library may round differently."""
    outfit = sample_person(7, "0001").outfit
    assert (outfit.top.kind, outfit.top.colour) == TOP
    assert (outfit.bottom.kind, outfit.bottom.colour) == BOTTOM
    names = "\n".join(f"{shot.folder}/{shot.name}" for shot in plan(SETTINGS))
    assert hashlib.sha256(names.encode()).hexdigest() == NAMES_SHA256


def test_another_seed_gives_other_images(people: Path) -> None:
    shots = [next(plan(SETTINGS)), next(plan(SETTINGS.model_copy(update={"seed": 8})))]
    images = [
        draw_shot(s, sample_person(n, s.drawn_person), n)[0]
        for s, n in zip(shots, (7, 8), strict=True)
    ]
    assert np.abs(images[0].astype(int) - images[1]).mean() > 5


def test_more_people_leave_everybody_elses_images_unchanged(people: Path, tmp_path: Path) -> None:
    draw_data_set(tmp_path / "more", SampleSettings(people=4, test_people=3, seed=7))
    before, after = hashes(people), hashes(tmp_path / "more")
    images = {name: value for name, value in before.items() if name.endswith(".jpg")}
    assert len(images) > 50
    assert images.items() < after.items()


def test_all_images_are_64_by_128_and_vary(people: Path) -> None:
    for path in people.rglob("*.jpg"):
        image = pixels.read(path)
        assert image.shape == (128, 64, 3)
        assert image.std() > 4


def test_the_index_reads_the_folder_and_every_rule_holds(people: Path) -> None:
    images, report = market1501.index(
        people, [people / "keypoints-train.csv", people / "keypoints-test.csv"]
    )
    assert not report.num_unknown_names
    joints = images.keypoints()
    annotated = ~np.isnan(joints).all(axis=(1, 2))
    splits = np.array(images.strings("split"))
    assert not annotated[splits == "query"].any()
    assert annotated[splits == "train"].all()


def test_the_report_counts_what_lies_in_the_folder(people: Path) -> None:
    report = draw_data_set(people, SETTINGS)
    test = [path.name for path in (people / "bounding_box_test").iterdir()]
    assert report.already_complete
    assert report.train == len(list((people / "bounding_box_train").iterdir()))
    assert report.query == len(list((people / "query").iterdir()))
    assert report.gallery == len(test)
    assert report.junk == sum(name.startswith("-1_") for name in test) == 6
    assert report.distractors == sum(name.startswith("0000_") for name in test) == 4


def test_keypoint_rows_are_in_the_published_format(people: Path) -> None:
    header, *rows = (people / "keypoints-train.csv").read_text().splitlines()
    assert header == "name:keypoints_y:keypoints_x"
    names = [row.split(": ")[0] for row in rows]
    assert names == sorted(path.name for path in (people / "bounding_box_train").iterdir())
    for row in rows:
        _, ys, xs = row.split(": ")
        down = [int(y) for y in ys.strip("[]").split(", ")]
        across = [int(x) for x in xs.strip("[]").split(", ")]
        assert len(down) == len(across) == 18
        assert all(-1 <= y < 128 for y in down)
        assert all(-1 <= x < 64 for x in across)
        assert [y == -1 for y in down] == [x == -1 for x in across]
        # Heads are above ankles: y really stands first.
        assert max(down) > 70


def test_a_train_person_has_8_to_12_images_from_3_cameras_or_more() -> None:
    shots = [s for s in plan(SampleSettings(people=40)) if s.folder == "bounding_box_train"]
    for label in {shot.label for shot in shots}:
        own = [shot for shot in shots if shot.label == label]
        assert 8 <= len(own) <= 12
        assert len({shot.camera for shot in own}) >= 3


def test_every_query_has_a_gallery_image_from_another_camera() -> None:
    shots = list(plan(SampleSettings(people=1, test_people=40)))
    gallery = {(shot.label, shot.camera) for shot in shots if shot.folder == "bounding_box_test"}
    queries = [(shot.label, shot.camera) for shot in shots if shot.folder == "query"]
    assert len({label for label, _ in queries}) == 40
    assert len(queries) == len(set(queries))
    for label, camera in queries:
        assert any(own == label and other != camera for own, other in gallery)


def test_file_names_are_unique_among_the_most_people() -> None:
    settings = SampleSettings(people=MOST_PEOPLE - 400, test_people=400)
    names = [(shot.folder, shot.name) for shot in plan(settings)]
    assert len(names) == len(set(names))
    assert all(market1501.NAME.fullmatch(name) for _, name in names)


def test_convention_in_a_front_view_the_right_shoulder_is_left_in_the_image() -> None:
    front, _, _ = render_upright(sample_person(0, "0001"), 0.0)
    back, _, _ = render_upright(sample_person(0, "0001"), np.pi)
    for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle"):
        right, left = ROW[f"right_{part}"], ROW[f"left_{part}"]
        assert front[right, 0] < front[left, 0]
        assert back[right, 0] > back[left, 0]


def test_convention_facing_the_images_right_shows_the_right_ear_and_the_nose_ahead() -> None:
    joints, _, _ = render_upright(sample_person(0, "0001"), np.pi / 2)
    assert joints[ROW["nose"], 0] > joints[ROW["neck"], 0]
    assert not np.isnan(joints[ROW["right_ear"]]).any()
    assert np.isnan(joints[ROW["left_ear"]]).all()


def test_a_back_view_has_no_face_but_the_torso() -> None:
    joints, _, _ = render_upright(sample_person(0, "0001"), np.pi)
    for name in ("nose", "right_eye", "left_eye"):
        assert np.isnan(joints[ROW[name]]).all()
    assert not np.isnan(joints[list(TORSO)]).any()


@pytest.mark.parametrize("yaw", [0.0, 0.8, np.pi / 2, np.pi, 4.0])
def test_convention_joints_lie_on_the_drawn_body(yaw: float) -> None:
    for label in ("0001", "0002", "0003"):
        joints, rendering, _ = render_upright(sample_person(0, label), yaw)
        pixels_ = np.round(joints[~np.isnan(joints).any(axis=1)]).astype(int)
        assert len(pixels_) >= 10
        assert (rendering.coverage[pixels_[:, 1], pixels_[:, 0]] > EDGE).all()


def test_the_centre_of_the_chest_has_the_colour_of_the_garment() -> None:
    checked = 0
    for number in range(1, 200):
        person = sample_person(0, f"{number:04d}")
        top = person.outfit.top
        if top.pattern != "plain" or top.kind not in ("t-shirt", "long"):
            continue
        joints, rendering, _ = render_upright(person, np.pi)
        if person.outfit.carries in ("backpack", "shoulder bag") or person.outfit.hair in (
            "long",
            "tail",
        ):
            continue
        x, y = np.round(joints[list(TORSO)].mean(axis=0)).astype(int)
        found = rendering.colour[y, x] / np.linalg.norm(rendering.colour[y, x])
        expected = np.array(top.colour) / np.linalg.norm(top.colour)
        assert found @ expected > 0.995, number
        checked += 1
    assert checked >= 5


def test_near_arms_hide_the_trunk_and_the_trunk_hides_far_arms() -> None:
    person = sample_person(0, "0001")
    joints, _, _ = render_upright(person, np.pi / 2)
    assert not np.isnan(joints[ROW["right_elbow"]]).any()
    assert np.isnan(joints[ROW["left_elbow"]]).all()


def test_junk_frames_a_person_badly() -> None:
    for number in range(20):
        good = view_of(KeyedRandom(0, str(number)), 0.1, junk=False)
        bad = view_of(KeyedRandom(0, str(number)), 0.1, junk=True)
        assert abs(good.foot_x - 31.5) <= 6
        assert abs(bad.foot_x - 31.5) > 3.9
        assert bad.height_px > 128


def test_joints_outside_the_image_are_missing() -> None:
    person = sample_person(0, "0001")
    for frame in range(20):
        shot = Shot("bounding_box_test", "-1", "0001", 0, 1, frame, 1, "junk")
        _, joints, _ = draw_shot(shot, person, 0)
        known = np.round(joints[~np.isnan(joints).any(axis=1)])
        assert len(known) < 18
        assert ((known >= 0) & (known <= (63, 127))).all()


def test_too_many_people_are_refused_with_the_limit(tmp_path: Path) -> None:
    settings = SampleSettings(people=9_998, test_people=1)
    with pytest.raises(UserError, match=r"9,999 people, expected at most 9,998"):
        draw_data_set(tmp_path / "out", settings)


def test_no_train_people_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found 0 train"):
        draw_data_set(tmp_path / "out", SampleSettings(people=0))


def test_other_settings_on_the_same_folder_are_refused_and_named(people: Path) -> None:
    before = hashes(people)
    with pytest.raises(UserError, match="people: 3, now 4"):
        draw_data_set(people, SampleSettings(people=4, test_people=2, seed=7))
    assert hashes(people) == before


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        draw_data_set(tmp_path, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


def test_a_failure_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []

    def full_disk(path: Path, data: bytes) -> int:
        written.append(len(data))
        if len(written) > 5:
            raise OSError("disk full")
        return len(data)

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(UserError, match=r"out: cannot be written \(disk full\)"):
        draw_data_set(tmp_path / "out", SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told_in_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for out in (tmp_path / "file" / "people", tmp_path / "link"):
        with pytest.raises(UserError, match="cannot be written"):
            draw_data_set(out, SampleSettings(people=1, test_people=0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]
