"""Pose estimators: the frames they answer in, COCO's joints in ours, joints for tables."""

import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from augment.cli import PROGRAM
from augment.pose.detect import (
    COCO_NAMES,
    Estimator,
    Letterbox,
    MoveNet,
    add_joints,
    from_coco,
    load_estimator,
    surest_person,
)
from augment.quality.pckh import count_joints
from manifests import pixels
from manifests.datasets.market1501 import read_keypoints
from manifests.io import Images, read_images
from manifests.keypoints import JOINT_NAMES, visible
from manifests.runtime.console import Exit, UserError

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


class Corner:
    """Finds every joint at the bottom right pixel."""

    name = "corner"

    def __init__(self) -> None:
        self.seen = 0

    def joints(self, images: Sequence[np.ndarray]) -> np.ndarray:
        self.seen += len(images)
        return np.stack(
            [np.full((18, 2), (image.shape[1] - 1, image.shape[0] - 1)) for image in images]
        ).astype(np.float32)


def test_only_rows_without_annotation_get_joints(tiny_images: Images):
    estimator = Corner()
    found = add_joints(tiny_images, estimator)
    before, after = tiny_images.keypoints(), found.keypoints()
    empty = tiny_images.table["keypoints"].is_null().to_numpy()
    assert estimator.seen == int(empty.sum()) == 2
    np.testing.assert_array_equal(after[~empty], before[~empty])
    assert (after[empty] == (63, 127)).all()
    assert found.table["keypoints"].null_count == 0
    assert found.table.schema.equals(tiny_images.table.schema)
    assert found.provenance["keypoints_estimator"] == "corner"
    assert "keypoints_estimator" not in tiny_images.provenance


def test_annotation_is_replaced_where_asked(tiny_images: Images):
    estimator = Corner()
    found = add_joints(tiny_images, estimator, replaces=True)
    assert estimator.seen == len(tiny_images) == 12
    assert (found.keypoints() == (63, 127)).all()


def test_an_unknown_estimator_is_refused():
    with pytest.raises(UserError, match=r"found 'openpose', expected FILE\.tflite or keypointrcnn"):
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
    (joints,) = estimator.joints([person(0)])
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
    found = movenet.joints([pixels.read(file) for file in files])
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
