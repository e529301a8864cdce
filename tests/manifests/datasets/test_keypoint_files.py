"""Keypoint files of other tools, for any layout."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from augment.cli import PROGRAM
from manifests import pixels
from manifests.datasets.keypoint_files import KeypointOptions, keypoint_text, read_keypoint_files
from manifests.io import read_images
from manifests.keypoints import COCO_NAMES, JOINT_NAMES
from manifests.runtime.console import UserError
from tests.helpers.poses import upright

NAMES = ("anna/cam1_0.png", "anna/cam2_0.png", "ben/cam1_0.png", "ben/cam2_0.png")
PATTERN = r"(?P<person_id>\w+)/cam(?P<camera_id>\d+)_\d+\.png"


@pytest.fixture
def joints() -> np.ndarray:
    """Return four poses of whole numbers; the right wrist is missing in all."""
    generator = np.random.default_rng(2)
    found = upright(generator.integers((3, 8), (45, 90), (4, 18, 2)).astype(np.float32))
    found[:, 4] = np.nan
    found[:, 1] = found[:, [2, 5]].mean(axis=1)
    return found


@pytest.fixture
def crops(tmp_path, person) -> Path:
    for number, name in enumerate(NAMES):
        path = tmp_path / "crops" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pixels.encode_png(person(number, (48, 96))))
    return tmp_path / "crops"


def triplets(joints: np.ndarray) -> list[float]:
    there = ~np.isnan(joints).any(axis=1)
    values = np.where(there[:, None], joints, 0)
    return np.concatenate([values, 0.8 * there[:, None]], axis=1).ravel().tolist()


def as_openpose25(joints: np.ndarray) -> np.ndarray:
    feet = np.ones((6, 2), np.float32)
    return np.concatenate([joints[:8], joints[[8, 11]].mean(0)[None], joints[8:], feet])


def as_coco(joints: np.ndarray) -> np.ndarray:
    return np.stack([joints[JOINT_NAMES.index(name)] for name in COCO_NAMES])


def openpose_folder(folder: Path, joints: np.ndarray) -> Path:
    for name, pose in zip(NAMES, joints, strict=True):
        path = folder / f"{name.removesuffix('.png')}_keypoints.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        # Somebody in the background, of less confidence.
        other = [value / 2 for value in triplets(as_openpose25(pose))]
        people = [
            {"pose_keypoints_2d": other},
            {"pose_keypoints_2d": triplets(as_openpose25(pose))},
        ]
        path.write_text(json.dumps({"version": 1.3, "people": people}))
    return folder


def coco_file(path: Path, joints: np.ndarray, scale: int = 1) -> Path:
    images = [
        {"id": number, "file_name": name, "width": 48 * scale, "height": 96 * scale}
        for number, name in enumerate(NAMES)
    ]
    scaled = (joints + 0.5) * scale - 0.5
    annotations = [
        {"image_id": number, "keypoints": triplets(as_coco(pose))}
        for number, pose in enumerate(scaled)
    ]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def indexed(crops: Path, *arguments: str) -> np.ndarray:
    out = crops.parent / "images.parquet"
    PROGRAM.run(["index", str(crops), "--pattern", PATTERN, "--out", str(out), *arguments])
    return read_images(out).keypoints()


def test_a_folder_of_openpose_files_gives_the_surest_person_of_each_image(crops, joints, capsys):
    folder = openpose_folder(crops.parent / "openpose", joints)
    found = indexed(crops, "--keypoints", str(folder))
    assert np.array_equal(found, joints, equal_nan=True)
    assert "4 further people in images with several" in capsys.readouterr().err


def test_an_image_in_which_openpose_finds_nobody_has_no_joint(crops, joints):
    folder = openpose_folder(crops.parent / "openpose", joints)
    (folder / "anna/cam1_0_keypoints.json").write_text('{"people": []}')
    found = indexed(crops, "--keypoints", str(folder))
    assert np.isnan(found[0]).all()
    assert np.array_equal(found[1:], joints[1:], equal_nan=True)


def test_a_coco_file_gives_18_joints_in_pixels_of_the_stored_image(crops, joints):
    found = indexed(crops, "--keypoints", str(coco_file(crops.parent / "coco.json", joints)))
    assert np.array_equal(found, joints, equal_nan=True)
    # The file says for which size of image it was made.
    large = coco_file(crops.parent / "large.json", joints, scale=4)
    assert np.allclose(indexed(crops, "--keypoints", str(large)), joints, atol=1e-3, equal_nan=True)


def written(crops: Path, joints: np.ndarray) -> str:
    path = crops.parent / "joints.csv"
    path.write_text(keypoint_text(NAMES, joints))
    return str(path)


@pytest.mark.parametrize(
    ("change", "flags"),
    [
        (lambda joints: joints, []),
        (lambda joints: joints[..., ::-1], ["--keypoint-order", "yx"]),
        (lambda joints: (joints + 0.5) / [48, 96], ["--keypoint-scale", "unit"]),
        (lambda joints: (joints + 0.5) * 8 - 0.5, ["--keypoint-scale", "384x768"]),
        (np.nan_to_num, ["--keypoint-missing", "zero"]),
    ],
)
def test_flags_read_right_what_is_refused_without_them(crops, joints, change, flags):
    file = written(crops, np.asarray(change(joints)))
    found = indexed(crops, "--keypoints", file, *flags)
    assert np.allclose(found, joints, atol=1e-4, equal_nan=True)
    if flags:
        with pytest.raises(UserError, match=rf"of 4 poses .*{flags[0]}"):
            indexed(crops, "--keypoints", file)


def test_a_table_takes_keypoints_too(crops, joints):
    rows = "".join(f"{name},{name[:3]},1,train\n" for name in NAMES)
    csv, out = crops.parent / "people.csv", crops.parent / "images.parquet"
    csv.write_text("path,person_id,camera_id,split\n" + rows)
    file = written(crops, joints)
    PROGRAM.run(["index", str(crops), "--table", str(csv), "--keypoints", file, "--out", str(out)])
    images = read_images(out)
    assert np.array_equal(images.keypoints(), joints, equal_nan=True)
    assert len(images.provenance["keypoints_sha256_0"]) == 64


def test_one_pose_for_two_images_of_one_name_is_refused(crops, joints):
    path = crops.parent / "joints.csv"
    path.write_text(keypoint_text(["cam1_0.png"], joints[:1]))
    with pytest.raises(UserError, match=r"found one pose 'cam1_0.png' for the images 'anna/cam1"):
        indexed(crops, "--keypoints", str(path))


def test_keypoints_of_other_images_alone_are_refused(crops, joints):
    path = crops.parent / "joints.csv"
    path.write_text(keypoint_text(["x.png"], joints[:1]))
    with pytest.raises(UserError, match=r"no pose of these images among 1 names like 'x.png'"):
        indexed(crops, "--keypoints", str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "k.json: not readable as JSON"),
        ("[" * 100_000, "k.json: not readable as JSON"),
        ("{}", "k.json: found no list of annotations"),
        ('[{"image_id": 4, "keypoints": []}]', "k.json: found image_id 4, which its list"),
        ('[{"image_id": "a", "keypoints": [1, 2]}]', "k.json: found no list of x, y, confidence"),
        ('[{"image_id": "a", "keypoints": [1, 2, 1]}]', "k.json: a: found 1 joints, expected 17"),
        ('[{"image_id": "a", "keypoints": [1e400, 2, 1]}]', "k.json: found no list of x, y"),
        ('{"images": [4], "annotations": []}', "k.json: found an entry of 'images' without an id"),
    ],
)
def test_a_wrong_json_file_is_refused_in_one_sentence(tmp_path, text, message):
    (tmp_path / "k.json").write_text(text)
    with pytest.raises(UserError, match=re.escape(message)):
        read_keypoint_files(KeypointOptions((tmp_path / "k.json",)))


def test_all_broken_files_of_a_folder_are_named_at_once_and_left_out_on_demand(
    crops, joints, capsys
):
    folder = openpose_folder(crops.parent / "joints", joints)
    files = sorted(folder.rglob("*.json"))
    files[0].write_text("{")
    files[2].write_text('{"people": 3}')
    with pytest.raises(UserError) as refused:
        indexed(crops, "--keypoints", str(folder))
    told = str(refused.value)
    assert told.startswith(f"2 keypoint files cannot be used: {files[0]}: not readable as JSON")
    assert f"{files[2]}: found no list 'people'" in told
    assert told.endswith("--skip-broken leaves such files out")

    found = indexed(crops, "--keypoints", str(folder), "--skip-broken")

    assert np.isfinite(found).any(axis=(1, 2)).tolist() == [False, True, False, True]
    assert f"2 keypoint files that cannot be used (like {files[0]}: not" in capsys.readouterr().err


def test_files_in_linked_folders_are_read_too(crops, joints):
    folder = openpose_folder(crops.parent / "joints", joints)
    (folder / "ben").rename(crops.parent / "elsewhere")
    (folder / "ben").symlink_to(crops.parent / "elsewhere")
    found = indexed(crops, "--keypoints", str(folder))
    assert np.isfinite(found).any(axis=(1, 2)).all()


def test_two_images_of_one_id_are_refused(tmp_path):
    listed = [{"id": 1, "file_name": f"{name}.png"} for name in "ab"]
    (tmp_path / "k.json").write_text(json.dumps({"images": listed, "annotations": []}))
    with pytest.raises(UserError, match=r"k.json: found two images of the id 1, expected one"):
        read_keypoint_files(KeypointOptions((tmp_path / "k.json",)))


def test_a_folder_without_openpose_files_and_an_unknown_scale_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"found no file named IMAGE_keypoints.json"):
        read_keypoint_files(KeypointOptions((tmp_path,)))
    with pytest.raises(UserError, match="--keypoint-scale: found 'half', expected pixels, unit"):
        read_keypoint_files(KeypointOptions((tmp_path,), keypoint_scale="half"))


def test_how_files_are_read_is_no_flag_without_files(crops):
    with pytest.raises(UserError, match="found no --keypoints"):
        indexed(crops, "--keypoint-order", "yx")
