"""Pose estimators: the frames they answer in, COCO's joints in ours, joints for tables."""

import importlib.util
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from augment.cli import PROGRAM
from augment.pose.detect import Choices, add_joints
from augment.pose.estimators import blazepose
from augment.pose.estimators.interface import Estimator, joints_of
from augment.pose.estimators.keypointrcnn import surest_person
from augment.pose.estimators.letterbox import Letterbox
from augment.pose.estimators.movenet import MoveNet
from augment.pose.estimators.registry import load_estimator
from augment.quality.pckh import count_joints
from manifests import pixels
from manifests.datasets import market1501
from manifests.datasets.keypoint_files import read_keypoints
from manifests.datasets.mask_files import add_masks
from manifests.io import Images, read_images
from manifests.keypoints import COCO_NAMES, JOINT_NAMES, from_coco, visible
from manifests.masks import read_masks
from manifests.people.dataset import KEYPOINT_FILES, SampleSettings, draw_data_set
from manifests.runtime import run_record
from manifests.runtime.console import Exit, UserError
from manifests.schema import MASK_COLUMNS
from tests.helpers.estimators import Corner, last_column

# Median distance of the joints of drawn people; 4 px of real ones.
MADE_UP_PX = 8.0

MOVENET = "movenet_singlepose_lightning_int8.tflite"


@pytest.fixture(scope="session")
def movenet(market1501_keypoints: Path) -> Estimator:
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")
    path = Path(os.environ.get("AUGMENT_MOVENET", market1501_keypoints / MOVENET))
    if not path.exists():
        pytest.skip(f"{path} does not exist")
    return load_estimator(str(path))


def test_every_joint_but_the_neck_takes_its_cocos_namesake():
    coco = np.arange(34, dtype=np.float32).reshape(1, 17, 2)
    ours = from_coco(coco)[0]
    for place, name in enumerate(COCO_NAMES):
        np.testing.assert_array_equal(ours[JOINT_NAMES.index(name)], coco[0, place])
    np.testing.assert_array_equal(ours[1], (coco[0, 5] + coco[0, 6]) / 2)


def test_without_one_shoulder_there_is_no_neck():
    for shoulder in (5, 6):
        coco = np.ones((1, 17, 2), np.float32)
        coco[0, shoulder] = np.nan
        assert visible(from_coco(coco))[0].sum() == 16
        assert np.isnan(from_coco(coco)[0, 1]).all()


@given(st.integers(20, 300), st.integers(20, 300), st.data())
def test_convention_a_dot_in_the_letterbox_comes_back_to_its_pixel(
    width: int, height: int, data: st.DataObject
):
    side = 192
    radius = 8
    x = data.draw(st.integers(radius, width - 1 - radius))
    y = data.draw(st.integers(radius, height - 1 - radius))
    columns, rows = np.arange(width) - x, np.arange(height)[:, None] - y
    dot = np.clip(255 * (1 - np.hypot(columns, rows) / radius), 0, 255).astype(np.uint8)
    box = Letterbox.of((width, height), side)
    square = box.draw(np.repeat(dot[..., None], 3, axis=2))[..., 0].astype(float)
    centre = [(square.sum(axis=axis) * np.arange(side)).sum() / square.sum() for axis in (0, 1)]
    # Bytes and bilinear weights move the centre of a dot of 16 px by a few hundredths.
    np.testing.assert_allclose(box.back(np.array(centre)), (x, y), atol=0.1)


def test_convention_a_crop_of_64_by_128_stands_in_the_middle_of_the_square():
    box = Letterbox.of((64, 128), 192)
    assert (box.scaled, box.corner) == ((96, 192), (48, 0))
    # Pixel centres: (i + 0.5) * 1.5 - 0.5 in the square.
    corners = np.array([[48.25, 0.25], [48 + 94.75, 190.75]])
    np.testing.assert_allclose(box.back(corners), [[0, 0], [63, 127]])


def test_a_joint_beside_the_image_is_missing():
    box = Letterbox.of((64, 128), 192)
    beside = box.back(np.array([[47.4, 50.0], [144.0, 50.0], [47.6, 50.0]]))
    assert np.isnan(beside).all(axis=1).tolist() == [True, True, False]


def people(scores: list[float]) -> dict[str, torch.Tensor]:
    count = len(scores)
    return {
        "scores": torch.tensor(scores),
        "keypoints": torch.arange(count * 51, dtype=torch.float32).view(count, 17, 3),
        "keypoints_scores": torch.full((count, 17), 5.0),
    }


def test_the_first_person_counts_from_pixel_centres_and_unsure_joints_are_missing():
    found = people([0.9, 0.8])
    found["keypoints_scores"][0, 3] = 1.9
    joints = surest_person(found)
    assert joints[1].tolist() == [2.5, 3.5]
    assert np.isnan(joints).all(axis=1).tolist() == [place == 3 for place in range(17)]


def test_nobody_sure_enough_gives_a_pose_without_joints():
    for found in (people([]), people([0.49])):
        assert np.isnan(surest_person(found)).all()


def test_only_rows_without_annotation_get_joints(tiny_images: Images):
    estimator = Corner()
    found = add_joints(tiny_images, estimator, Choices())
    before, after = tiny_images.keypoints(), found.keypoints()
    empty = tiny_images.table["keypoints"].is_null().to_numpy()
    assert estimator.seen == int(empty.sum()) == 2
    np.testing.assert_array_equal(after[~empty], before[~empty])
    assert (after[empty] == last_column(64, 128)).all()
    assert found.table["keypoints"].null_count == 0
    assert found.table.schema.equals(tiny_images.table.schema)
    assert found.provenance["keypoints_estimator"] == "corner"
    assert "keypoints_estimator" not in tiny_images.provenance


def test_annotation_is_replaced_where_asked(tiny_images: Images):
    estimator = Corner()
    found = add_joints(tiny_images, estimator, Choices(replaces=True))
    assert estimator.seen == len(tiny_images) == 12
    assert (found.keypoints() == last_column(64, 128)).all()


def test_an_unknown_estimator_is_refused():
    with pytest.raises(
        UserError, match=r"found 'openpose', expected blazepose, FILE\.tflite or keypointrcnn"
    ):
        load_estimator("openpose")


def test_keypoint_rcnn_without_weights_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match="give --estimator-weights FILE or"):
        load_estimator("keypointrcnn")


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth does not fit keypointrcnn"):
        load_estimator("keypointrcnn", weights=str(tmp_path / "other.pth"))


@pytest.mark.slow
def test_keypoint_rcnn_finds_18_joints_in_the_image(tmp_path, person):
    detection = pytest.importorskip("torchvision.models.detection")
    torch.manual_seed(0)
    weights = detection.keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    # Every box is a person as large as the image, and every joint sure.
    weights["roi_heads.box_predictor.cls_score.bias"][:] = torch.tensor([-9.0, 9.0])
    weights["roi_heads.box_predictor.bbox_pred.weight"].zero_()
    weights["roi_heads.box_predictor.bbox_pred.bias"][:] = torch.tensor([0.0, 0.0, 99.0, 99.0] * 2)
    weights["roi_heads.keypoint_predictor.kps_score_lowres.bias"].fill_(9.0)
    torch.save(weights, tmp_path / "rcnn.pth")
    estimator = load_estimator("keypointrcnn", "cpu", str(tmp_path / "rcnn.pth"))
    digest = sha256((tmp_path / "rcnn.pth").read_bytes()).hexdigest()
    assert estimator.provenance["sha256"] == digest
    (joints,) = joints_of(estimator, [person(0)])
    assert joints.shape == (18, 2)
    assert (joints >= -0.5).all()
    assert (joints <= (63.5, 127.5)).all()
    # A place of its own for each joint but the neck, which lies between the shoulders.
    shoulders = [JOINT_NAMES.index(f"{side}_shoulder") for side in ("left", "right")]
    np.testing.assert_allclose(joints[1], joints[shoulders].mean(axis=0), rtol=1e-6)
    assert len(np.unique(joints, axis=0)) > 9


def test_a_file_that_is_no_network_is_refused(tmp_path):
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")
    path = tmp_path / "net.tflite"
    path.write_bytes(b"no network")
    with pytest.raises(UserError, match=r"net\.tflite is no \.tflite network"):
        MoveNet(path)


@pytest.mark.parametrize("kept", [0, 1000, 0.5, -10])
def test_a_truncated_network_is_refused(tmp_path: Path, kept: float):
    data = packaged_blazepose().read_bytes()
    path = tmp_path / "pose.tflite"
    path.write_bytes(data[: int(kept * len(data)) if kept == 0.5 else int(kept)])
    with pytest.raises(UserError, match=r"pose\.tflite is no \.tflite network"):
        load_estimator(str(path))


def test_another_network_than_movenet_and_blazepose_is_refused_by_what_it_takes_and_gives():
    modules = packaged_blazepose().parents[1]
    other = modules / "face_detection/face_detection_short_range.tflite"
    if not other.is_file():
        pytest.skip(f"{other} does not exist")
    told = (
        r"takes float32 \(1, 128, 128, 3\) and gives \(1, 896, 16\), \(1, 896, 1\), expected the "
        r"file of MoveNet, uint8 \(1, side, side, 3\) to \(1, 1, 17, 3\), or of BlazePose"
    )
    with pytest.raises(UserError, match=told):
        load_estimator(str(other))


@pytest.mark.market1501
@pytest.mark.slow
def test_movenet_agrees_with_the_annotation_of_1000_real_images(
    movenet, market1501, market1501_keypoints, record_property, capsys
):
    annotated = read_keypoints(market1501_keypoints / "market-annotation-train.csv")
    # A fixed draw spread over all people.
    names = sorted(annotated, key=lambda name: zlib.crc32(name.encode()))[:1000]
    truth = np.stack([annotated[name] for name in names])
    files = [market1501 / "bounding_box_train" / name for name in names]
    found = joints_of(movenet, [pixels.read(file) for file in files])
    distance = np.linalg.norm(found - truth, axis=-1)
    both = ~np.isnan(distance)
    pckh = count_joints(found, truth).pckh()
    with capsys.disabled():
        print(f"\n{movenet.name} on 1,000 training images; box PCKh {pckh:.3f}")  # noqa: T201
        for joint, name in enumerate(JOINT_NAMES):
            errors = distance[both[:, joint], joint]
            line = (
                f"  {name:15} in both {len(errors):4}  median {np.median(errors):.2f} px  "
                f"within 8 px {np.mean(errors < 8):6.1%}"
            )
            print(line)  # noqa: T201
    record_property("pckh", pckh)
    assert np.median(distance[both]) < 3.0
    assert np.nanmedian(distance, axis=0).max() < 3.5
    assert both.sum() > 0.95 * visible(truth).sum()
    # Left and right are not exchanged: the mirrored names would be farther.
    swapped = np.linalg.norm(found[:, 2] - truth[:, 5], axis=-1)
    assert np.nanmedian(swapped) > 2 * np.nanmedian(distance[:, 2])


def test_the_command_refuses_to_write_over_its_input(tmp_path: Path):
    table = str(tmp_path / "images.parquet")
    with pytest.raises(UserError, match="is the input, expected another file"):
        PROGRAM.run(["detect", "--images", table, "--out", table, "--estimator", "x.tflite"])


def test_the_command_writes_a_table_in_which_every_row_has_joints(
    movenet, market1501_keypoints, tiny_images: Images, tiny_root: Path, tmp_path: Path
):
    out = tmp_path / "joints.parquet"
    path = os.environ.get("AUGMENT_MOVENET", market1501_keypoints / MOVENET)
    code = PROGRAM.run(
        ["detect", "--images", str(tiny_root / "images.parquet"), "--out", str(out),
         "--estimator", str(path), "--quiet"]
    )  # fmt: skip
    assert code == Exit.DONE
    found = read_images(out)
    assert found.table["keypoints"].null_count == 0
    assert found.provenance["keypoints_estimator"] == movenet.name
    assert found.strings("image_id") == tiny_images.strings("image_id")


def test_masks_and_confidence_are_kept_where_asked_and_sound(tiny_images: Images):
    found = add_joints(tiny_images, Corner(), Choices(masks=True))
    assert found.table["mask"].null_count == 0
    assert set(found.table["mask_source"].to_pylist()) == {"blazepose"}
    read, known = read_masks(found, (64, 128))
    assert known.all()
    assert (read.sum(axis=(1, 2)) == 20 * 128).all()
    # Annotated joints stay.
    annotated = ~tiny_images.table["keypoints"].is_null().to_numpy()
    np.testing.assert_array_equal(found.keypoints()[annotated], tiny_images.keypoints()[annotated])
    without = add_joints(tiny_images, Corner(), Choices())
    assert without.table["mask"].null_count == len(without)
    assert without.table["pose_confidence"].null_count == len(without) - 2


def test_masks_drawn_from_joints_stay_where_the_estimator_finds_none(tiny_images: Images):
    drawn, _ = add_masks(tiny_images, None, from_joints=True)
    found = add_joints(drawn, Corner(), Choices(masks=True, min_confidence=0.5))
    sure = found.table["pose_confidence"].to_numpy() >= 0.5
    before, after = (table.table["mask_source"].to_pylist() for table in (drawn, found))
    assert after == ["blazepose" if one else old for one, old in zip(sure, before, strict=True)]
    assert {"blazepose", "joints"} <= set(after)
    for row in np.flatnonzero(~sure).tolist():
        assert found.table["mask"][row] == drawn.table["mask"][row]


def test_below_the_confidence_there_is_nobody(tiny_images: Images):
    choices = Choices(masks=True, replaces=True, min_confidence=0.5)
    found = add_joints(tiny_images, Corner(), choices)
    sure = found.table["pose_confidence"].to_numpy() >= 0.5
    assert 0 < sure.sum() < len(sure)
    assert (visible(found.keypoints()).any(axis=1) == sure).all()
    assert (found.table["mask"].is_valid().to_numpy() == sure).all()


def test_what_is_replaced_leaves_nothing_of_the_old_masks(tiny_images: Images):
    drawn, _ = add_masks(tiny_images, None, from_joints=True)
    choices = Choices(masks=True, replaces=True, min_confidence=0.5)
    found, fresh = (add_joints(images, Corner(), choices).table for images in (drawn, tiny_images))
    assert found.select(MASK_COLUMNS).equals(fresh.select(MASK_COLUMNS))
    assert found["mask"].null_count > drawn.table["mask"].null_count


def test_any_number_of_threads_gives_the_same_table(tiny_images: Images):
    tables = [
        add_joints(tiny_images, Corner(), Choices(masks=True, replaces=True, threads=threads)).table
        for threads in (1, 3)
    ]
    assert tables[0].equals(tables[1])


def test_parts_of_other_settings_are_refused(tiny_images: Images, tiny_root: Path, tmp_path: Path):
    out = tmp_path / "joints.parquet"
    run_record.write(tmp_path / "joints.parquet.parts", {"estimator": "another"})
    path = packaged_blazepose()
    arguments = ["--images", str(tiny_root / "images.parquet"), "--out", str(out), "--quiet"]
    with pytest.raises(UserError, match="belongs to another run"):
        PROGRAM.run(["detect", *arguments, "--estimator", str(path)])
    assert not out.exists()


def packaged_blazepose() -> Path:
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")
    if "AUGMENT_BLAZEPOSE" in os.environ:
        return Path(os.environ["AUGMENT_BLAZEPOSE"])
    try:
        return blazepose.packaged_file()
    except UserError:
        pytest.skip("mediapipe is not installed and $AUGMENT_BLAZEPOSE is not set")


def test_blazepose_finds_the_made_up_people_and_their_outlines(tmp_path: Path):
    estimator = load_estimator(str(packaged_blazepose()))
    draw_data_set(tmp_path / "people", SampleSettings(people=4, test_people=1))
    keypoints = [tmp_path / "people" / name for name in KEYPOINT_FILES.values()]
    images = market1501.index(tmp_path / "people", keypoints)[0].only("train")
    crops = [pixels.read(images.file(row)) for row in range(len(images))]
    found = estimator.detect(crops)
    sure = [row for row, one in enumerate(found) if one.mask is not None]
    assert len(sure) > 0.8 * len(crops)
    truth = images.keypoints()
    distance = np.linalg.norm(np.stack([one.joints for one in found]) - truth, axis=2)[sure]
    assert np.nanmedian(distance) < MADE_UP_PX
    # The mask holds the joints of the trunk, and leaves some street.
    for row in sure:
        mask = found[row].mask
        trunk = truth[row][[2, 5, 8, 11]]
        trunk = np.rint(trunk[~np.isnan(trunk).any(axis=1)]).astype(int)
        assert mask.shape == (128, 64)
        inside = mask[trunk[:, 1].clip(0, 127), trunk[:, 0].clip(0, 63)]
        assert inside.mean() >= 0.5
        assert 0.1 < mask.mean() < 0.9


def test_blazepose_gives_the_same_bytes_on_every_thread(tmp_path: Path, person):
    estimator = load_estimator(str(packaged_blazepose()))
    crops = [person(seed, (48, 96)) for seed in range(3)]
    alone = estimator.detect(crops)
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda crop: estimator.detect([crop])[0], crops))
    for one, other in zip(alone, together, strict=True):
        assert one.confidence == other.confidence
        np.testing.assert_array_equal(one.joints, other.joints)


def test_blazepose_tells_its_file_its_package_and_its_thresholds():
    path = packaged_blazepose()
    facts = dict(load_estimator(str(path)).provenance)
    assert facts.pop("runtime") == f"ai-edge-litert {metadata.version('ai-edge-litert')}"
    assert facts == {
        "network": "pose_landmark_full.tflite",
        "sha256": sha256(path.read_bytes()).hexdigest(),
        "package": "mediapipe 0.10.21",
        "padding": 1.25,
        "confidence_threshold": 0.5,
        "visibility_threshold": 0.5,
        "mask_threshold": 0.5,
    }


def test_blazepose_without_its_package_names_the_commands_that_bring_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install --no-deps mediapipe==0\.10\.21"):
        load_estimator("blazepose")


def test_blazepose_of_another_release_is_refused_and_its_package_never_imported(
    tmp_path: Path, monkeypatch
):
    file = tmp_path / "mediapipe" / blazepose.FILE
    file.parent.mkdir(parents=True)
    file.write_bytes(b"heavy")
    (tmp_path / "mediapipe/__init__.py").write_text("raise ImportError('not to be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    told = (
        rf"{file} has the SHA-256 {sha256(b'heavy').hexdigest()[:8]}\.\.\., expected "
        rf"e9a5c5cb\.\.\.; pip install .* or --estimator {file} takes this one"
    )
    with pytest.raises(UserError, match=told):
        load_estimator("blazepose")


def test_masks_of_an_estimator_that_draws_none_are_refused(
    movenet, tiny_images, tiny_root, tmp_path, market1501_keypoints
):
    path = os.environ.get("AUGMENT_MOVENET", market1501_keypoints / MOVENET)
    with pytest.raises(UserError, match="draws none; expected --estimator blazepose"):
        PROGRAM.run(
            ["detect", "--images", str(tiny_root / "images.parquet"), "--masks", "--estimator",
             str(path), "--out", str(tmp_path / "out.parquet")]
        )  # fmt: skip
