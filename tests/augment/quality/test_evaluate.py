"""The evaluation: which images meet which metric, and what the table says."""

import csv
import dataclasses
import io
import json
import re
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from augment.cli import PROGRAM
from augment.interface.condition import Condition, Pair
from augment.interface.randomness import RowRandom
from augment.interface.schedule import Stage
from augment.interface.system import PoseTransfer
from augment.pose.estimators.interface import Detection
from augment.quality.evaluate import EvaluateSettings, evaluate, score_pairs
from augment.quality.frechet import frechet_distance, moments
from augment.quality.metrics import JointAccuracy, Sides, Views, fid_metric
from augment.quality.pairs import sample_pairs
from augment.quality.protocol import EvaluationProtocol
from augment.quality.strip import draw_pose_panels
from augment.quality.table import Result
from manifests import pixels
from manifests.datasets import market1501 as market
from manifests.datasets.keypoint_files import keypoint_text
from manifests.io import Images, keypoint_column, write_images
from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.settings import Frozen
from tests.helpers.poses import upright

TOLERANCE = 1e-9  # means of float64 scores
NUM_PEOPLE, IMAGES_EACH, NUM_TRAIN = 3, 6, 70
NUM_PAIRS = NUM_PEOPLE * IMAGES_EACH * (IMAGES_EACH - 1)


def protocol_of(**settings) -> EvaluationProtocol:
    """Return a protocol without the ImageNet network, which not everybody has."""
    return EvaluationProtocol(**{"imagenet": "none", **settings})


def picture(seed: int) -> np.ndarray:
    """Return coarse patches with some noise."""
    random = np.random.default_rng(seed)
    patches = random.integers(0, 200, (16, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    return patches + random.integers(0, 56, (128, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """Return 3 test people with 6 images each, and 70 training images."""
    root = tmp_path_factory.mktemp("people")
    random = np.random.default_rng(0)
    joints: dict[str, np.ndarray] = {}
    names = [
        ("bounding_box_test", f"{person:04}_c{1 + i % 6}s1_{i:06}_01.jpg")
        for person in range(1, 1 + NUM_PEOPLE)
        for i in range(IMAGES_EACH)
    ] + [("bounding_box_train", f"{100 + i // 10:04}_c1s1_{i:06}_01.jpg") for i in range(NUM_TRAIN)]
    for folder in ("bounding_box_train", "bounding_box_test", "query"):
        (root / folder).mkdir()
    for seed, (folder, name) in enumerate(names):
        (root / folder / name).write_bytes(pixels.encode_jpeg(picture(seed)))
        joints[name] = upright(random.integers(2, (62, 126), (18, 2)).astype(np.float32))
    text = keypoint_text(list(joints), np.stack(list(joints.values())))
    (root / "keypoints.csv").write_text(text)
    return market.index(root, [root / "keypoints.csv"])[0]


class NoSettings(Frozen):
    """A toy has none."""


class Brightener(PoseTransfer):
    """Goes half the way to white, or a larger part of it, and keeps what it was condition."""

    Config: ClassVar[type[Frozen]] = NoSettings
    sampling: ClassVar[tuple[str, ...]] = ()

    def __init__(self, parts: int = 2) -> None:
        super().__init__()
        self.share = 1 / parts
        self.conditions: list[Condition] = []

    def generate(self, condition: Condition, random: RowRandom, options: Frozen) -> Tensor:
        self.conditions.append(condition)
        return condition.image * self.share + 1 - self.share

    def stages(self) -> tuple[Stage, ...]:
        return ()

    def run(self, pair: Pair, stage: str) -> Mapping[str, Tensor]:
        raise NotImplementedError

    def losses(self, phase: str, pair: Pair, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        raise NotImplementedError

    @classmethod
    def from_official(cls, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        raise NotImplementedError


def write_pairs(path: Path, names: list[tuple[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("from", "to"), *names])
    return path


@pytest.fixture
def three_pairs(images: Images, tmp_path: Path) -> tuple[Path, list[tuple[str, str]]]:
    ids = images.only("gallery").strings("image_id")
    names = [(ids[0], ids[3]), (ids[8], ids[7]), (ids[13], ids[12])]
    return write_pairs(tmp_path / "pairs.csv", names), names


def jpeg(image: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG")
    return np.asarray(Image.open(buffer))


def similarity(generated: np.ndarray, target: np.ndarray) -> float:
    return structural_similarity(
        generated,
        target,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=2,
        data_range=int(generated.max()) - int(generated.min()),
    )


def test_every_family_scores_its_own_jpeg_path(images, three_pairs):
    path, names = three_pairs
    result = score_pairs(images, {}, protocol_of(pairs=path, baseline=("copy",)))
    files = {name: images.file(row) for row, name in enumerate(images.strings("image_id"))}
    joints = dict(zip(images.strings("image_id"), images.keypoints(), strict=True))
    patn, gfla, raw = [], [], []
    for source_name, target_name in names:
        source, target = (
            np.asarray(Image.open(files[name])) for name in (source_name, target_name)
        )
        poses = [
            draw_pose_panels(joints[name][None], (64, 128))[0]
            for name in (source_name, target_name)
        ]
        strip = jpeg(np.concatenate([source, poses[0], target, poses[1], source], axis=1))
        patn.append(similarity(strip[:, 256:], strip[:, 128:192]))
        gfla.append(similarity(jpeg(source), target))
        raw.append(similarity(source, target))
    for family, expected in (("patn", patn), ("gfla", gfla), ("raw", raw)):
        ours = result.value("copy the source", "SSIM", family)
        assert ours == pytest.approx(np.mean(expected), abs=TOLERANCE)
    assert len({round(np.mean(values), 6) for values in (patn, gfla, raw)}) == 3


def test_the_target_itself_is_perfect_only_without_compression(images, three_pairs):
    protocol = protocol_of(pairs=three_pairs[0], baseline=("target",))
    result = score_pairs(images, {}, protocol)
    assert result.value("the target itself", "SSIM", "raw") == pytest.approx(1, abs=TOLERANCE)
    assert result.value("the target itself", "L1", "raw") == 0
    assert np.isnan(result.value("the target itself", "PSNR", "raw"))
    assert 0.8 < result.value("the target itself", "SSIM", "gfla") < 0.99


def test_no_value_depends_on_the_batch_size(images):
    whole = score_pairs(images, {"toy": Brightener()}, protocol_of(count=10, batch_size=10))
    split = score_pairs(images, {"toy": Brightener()}, protocol_of(count=10, batch_size=3))
    assert len(whole.scores) == len(split.scores) == 9
    for one, other in zip(whole.scores, split.scores, strict=True):
        assert one.row.name == other.row.name
        assert one.row.num_images == other.row.num_images == 10
        assert one.row.value == pytest.approx(other.row.value, rel=1e-12)


def test_a_network_gets_the_source_and_both_poses_and_its_image_is_truncated(images, three_pairs):
    path, names = three_pairs
    toy = Brightener()
    result = score_pairs(images, {"toy": toy}, protocol_of(pairs=path))
    row = {name: row for row, name in enumerate(images.strings("image_id"))}
    source = [pixels.read(images.file(row[name])) for name, _ in names]
    target = [pixels.read(images.file(row[name])) for _, name in names]
    (condition,) = toy.conditions
    expected = torch.from_numpy(np.stack(source)).permute(0, 3, 1, 2).float() / 127.5 - 1
    torch.testing.assert_close(condition.image, expected)
    joints = torch.from_numpy(images.keypoints())
    torch.testing.assert_close(condition.pose.joints, joints[[row[name] for name, _ in names]])
    torch.testing.assert_close(
        condition.target_pose.joints, joints[[row[name] for _, name in names]]
    )
    brighter = [np.floor((expected[i].numpy() * 0.5 + 1.5) / 2 * 255) for i in range(3)]
    difference = [
        np.abs(one.transpose(1, 2, 0) - other).mean() * 2 / 255
        for one, other in zip(brighter, target, strict=True)
    ]
    # A float32 sum on the brink of a whole number may be truncated to either side.
    assert result.value("toy", "L1", "raw") == pytest.approx(np.mean(difference), abs=1e-4)


def test_images_of_another_size_are_stretched_with_their_joints(images, three_pairs, tmp_path):
    path, names = three_pairs
    root = tmp_path / "double"
    for folder in ("bounding_box_train", "bounding_box_test", "query"):
        (root / folder).mkdir(parents=True)
    joints: dict[str, np.ndarray] = {}
    for row, name in enumerate(images.strings("image_id")):
        if name in {name for pair in names for name in pair}:
            doubled = pixels.read(images.file(row)).repeat(2, axis=0).repeat(2, axis=1)
            file = root / "bounding_box_test" / name
            file.write_bytes(pixels.encode_png(doubled))
            joints[name] = images.keypoints()[row] * 2 + 0.5
    (root / "keypoints.csv").write_text(
        keypoint_text(list(joints), np.stack(list(joints.values())))
    )
    large, _ = market.index(root, [root / "keypoints.csv"])
    protocol = protocol_of(pairs=path, baseline=("copy",))
    for one, other in zip(
        score_pairs(images, {}, protocol).scores,
        score_pairs(large, {}, protocol).scores,
        strict=True,
    ):
        assert one.row.value == pytest.approx(other.row.value, abs=TOLERANCE)


class Colours(nn.Module):
    """Mean colour of the upper and of the lower half."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x[:, :, :64].mean(dim=(2, 3)), x[:, :, 64:].mean(dim=(2, 3))), dim=1)


@pytest.fixture
def reid_network(tmp_path: Path) -> Path:
    path = tmp_path / "net.pt2"
    batch = {0: torch.export.Dim("batch", min=1, max=4096)}
    program = torch.export.export(Colours(), (torch.zeros(2, 3, 128, 64),), dynamic_shapes=(batch,))
    torch.export.save(program, path)
    return path


def test_the_re_id_frechet_distance_compares_whole_batches_of_64_with_train_images(
    images, reid_network
):
    protocol = protocol_of(reid=reid_network, baseline=("copy",), batch_size=40)
    result = score_pairs(images, {}, protocol)
    assert result.num_pairs == NUM_PAIRS == 90
    train = images.only("train")
    network = Colours()

    def features(batch: list[np.ndarray]) -> Tensor:
        stacked = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2)
        return network(stacked.float() / 127.5 - 1)

    real = moments(features([pixels.read(train.file(row)) for row in range(64)]))
    gallery = images.only("gallery")
    pairs = sample_pairs(gallery.strings("person_id"), gallery.keypoints())
    sources = [jpeg(pixels.read(gallery.file(int(row)))) for row in pairs[:64, 0]]
    expected = frechet_distance(real, moments(features(sources)))
    name = "re-ID Frechet distance"
    assert result.value("copy the source", name, "gfla") == pytest.approx(expected, rel=1e-5)
    assert {s.row.num_images for s in result.scores if s.row.name == name} == {64}


def test_a_network_of_several_metrics_is_loaded_once(images, reid_network, monkeypatch):
    load, loaded = torch.export.load, []

    def counted(file, *arguments, **options):
        loaded.append(file)
        return load(file, *arguments, **options)

    monkeypatch.setattr(torch.export, "load", counted)
    protocol = protocol_of(reid=reid_network, baseline=("copy",), count=64)
    names = {score.row.name for score in score_pairs(images, {}, protocol).scores}
    assert {"re-ID Frechet distance", "re-ID perceptual distance", "identity similarity"} <= names
    assert len(loaded) == 1


class Waiting(Brightener):
    """Makes an image only when the pairs after it have been read."""

    def __init__(self, num_batches: int) -> None:
        super().__init__()
        self.num_batches = num_batches
        self.num_read = 0
        self.progress = threading.Condition()

    def has_read(self) -> None:
        with self.progress:
            self.num_read += 1
            self.progress.notify()

    def generate(self, condition: Condition, random: RowRandom, options: Frozen) -> Tensor:
        # Sources and targets are read by one call each.
        expected = 2 * min(len(self.conditions) + 2, self.num_batches)
        with self.progress:
            assert self.progress.wait_for(lambda: self.num_read >= expected, timeout=5)
        return super().generate(condition, random, options)


def test_the_next_pairs_are_read_while_images_are_made(images, monkeypatch):
    toy, read_all = Waiting(num_batches=4), pixels.read_all

    def noted(*arguments):
        read = read_all(*arguments)
        toy.has_read()
        return read

    monkeypatch.setattr(pixels, "read_all", noted)
    result = score_pairs(images, {"toy": toy}, protocol_of(count=8, batch_size=2))
    assert len(toy.conditions) == 4
    assert result.num_pairs == 8


def test_each_subject_gets_its_own_scores(images):
    one = score_pairs(images, {"toy": Brightener()}, protocol_of(count=6))
    both = score_pairs(images, {"toy": Brightener()}, protocol_of(count=6, baseline=("copy",)))
    copied = score_pairs(images, {}, protocol_of(count=6, baseline=("copy",)))
    assert both.scores == one.scores + copied.scores


def test_too_few_pairs_for_a_frechet_distance_are_named_and_the_rest_is_scored(
    images, reid_network
):
    protocol = protocol_of(reid=reid_network, baseline=("copy",), count=63)
    result = score_pairs(images, {}, protocol)
    missing = {row.name: row.reason for row in result.not_measured}
    assert missing["re-ID Frechet distance"] == "found 63 pairs, expected 64 at least"
    assert 0 < result.value("copy the source", "re-ID perceptual distance", "gfla") < 2


def test_identity_similarity_compares_with_the_source(images, reid_network):
    protocol = protocol_of(reid=reid_network, baseline=("copy", "target"), count=20)
    result = score_pairs(images, {}, protocol)
    name = "identity similarity"
    assert result.value("copy the source", name, "raw") == pytest.approx(1.0, abs=1e-6)
    gallery = images.only("gallery")
    pairs = sample_pairs(gallery.strings("person_id"), gallery.keypoints())[:20]
    source, target = (
        Colours()(
            torch.from_numpy(pixels.read_all(gallery.take(rows), (64, 128))).permute(0, 3, 1, 2)
            / 127.5
            - 1
        )
        for rows in pairs.T
    )
    expected = torch.nn.functional.cosine_similarity(source, target).mean().item()
    assert expected < 0.999
    assert result.value("the target itself", name, "raw") == pytest.approx(expected, rel=1e-5)


def test_metrics_nobody_asked_for_are_named_with_the_reason(images, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    result = score_pairs(images, {}, protocol_of(baseline=("copy",), count=64))
    missing = {row.name: row.reason for row in result.not_measured}
    assert list(missing) == [
        "rows inside the person", "IS, mask-IS", "FID", "LPIPS, mask-LPIPS",
        "ImageNet Frechet distance", "ImageNet perceptual distance", "PCKh",
        "re-ID Frechet distance", "re-ID perceptual distance", "identity similarity", "DS",
    ]  # fmt: skip
    assert "give --estimator" in missing["PCKh"]
    assert "give --reid" in missing["re-ID perceptual distance"]
    assert missing["ImageNet Frechet distance"] == "left out by --imagenet none"
    assert "'augment detect --estimator blazepose --masks'" in missing["rows inside the person"]


def test_a_network_that_is_asked_for_and_not_there_is_refused(images, tmp_path):
    with pytest.raises(UserError, match=r"found nothing of this name at .*no\.pt2"):
        score_pairs(images, {}, protocol_of(reid=tmp_path / "no.pt2"))
    with pytest.raises(UserError, match=r"found nothing of this name at .*no\.tflite"):
        score_pairs(images, {}, protocol_of(estimator=str(tmp_path / "no.tflite")))


class Fixed:
    """An estimator that always finds the same pose."""

    name = "fixed"
    draws_masks = False

    def __init__(self, joints: np.ndarray) -> None:
        self._joints = joints

    def detect(self, images) -> list[Detection]:
        assert all(image.shape == (128, 64, 3) for image in images)
        return [Detection(self._joints)] * len(images)


def test_pckh_pools_joints_over_batches_and_names_the_estimator():
    pose = np.arange(36, dtype=np.float32).reshape(18, 2)
    far, no_head = pose.copy(), pose.copy()
    far[10:] += 500
    no_head[[0, 1, 14, 15, 16, 17]] = np.nan
    black = torch.zeros(1, 3, 128, 64, dtype=torch.uint8)
    side = Sides(black, black)
    accuracy = JointAccuracy(Fixed(pose))
    for target in (pose, far, no_head):
        mask = torch.zeros(1, 128, 64, dtype=torch.bool)
        accuracy.update(Views(side, side, side, black, mask, target[None], mask))
    (row,) = accuracy.rows()
    assert (row.name, row.family, row.num_images) == ("PCKh (fixed)", "patn", 2)
    assert row.value == (18 + 10) / 36


def copied(images: Images) -> Result:
    return score_pairs(images, {}, protocol_of(count=5, baseline=("copy", "target")))


def test_the_json_holds_every_score_and_null_for_what_is_no_number(images):
    result = copied(images)
    content = json.loads(result.to_json())
    assert content["num_pairs"] == 5
    assert len(content["scores"]) == 18
    first = content["scores"][0]
    assert (first["subject"], first["name"], first["family"]) == ("copy the source", "SSIM", "patn")
    assert first["value"] == result.value("copy the source", "SSIM", "patn")
    (psnr,) = (
        row
        for row in content["scores"]
        if (row["subject"], row["name"], row["family"]) == ("the target itself", "PSNR", "raw")
    )
    assert (psnr["value"], psnr["num_images"]) == (None, 0)


def test_the_markdown_has_a_table_per_family_and_a_column_per_subject(images):
    result = copied(images)
    lines = result.to_markdown().splitlines()
    assert [line.split(" | ")[0] for line in lines if line.endswith("| protocol |")] == [
        "| patn", "| gfla", "| raw"
    ]  # fmt: skip
    assert "| patn | copy the source | the target itself | protocol |" in lines
    value = result.value("copy the source", "SSIM", "patn")
    assert any(line.startswith(f"| SSIM | {value:.4f} | ") for line in lines)
    assert any(line.startswith("- FID: ") for line in lines)


@pytest.mark.market1501
def test_copying_the_source_on_real_pairs_gives_the_stored_scores(
    market1501, market1501_keypoints, golden, tmp_path
):
    stored = json.loads((golden / "metrics.json").read_text())
    names = [(row["generated"], row["target"]) for row in stored]
    for folder in ("bounding_box_train", "bounding_box_test", "query"):
        (tmp_path / folder).mkdir()
    for name in {name for pair in names for name in pair}:
        shutil.copy(market1501 / "bounding_box_test" / name, tmp_path / "bounding_box_test" / name)
    keypoints = market1501_keypoints / "market-annotation-test.csv"
    images, _ = market.index(tmp_path, [keypoints])
    protocol = protocol_of(
        pairs=write_pairs(tmp_path / "pairs.csv", names), baseline=("copy",), batch_size=7
    )
    result = score_pairs(images, {}, protocol)
    for ours, theirs in (("SSIM", "ssim"), ("mask-SSIM", "mask_ssim"), ("L1", "l1")):
        expected = np.mean([row[theirs] for row in stored])
        assert result.value("copy the source", ours, "raw") == pytest.approx(expected, abs=1e-6)


def test_of_two_networks_the_differences_stand_beside_their_means_with_people_resampled(images):
    toys = {"first": Brightener(), "second": Brightener(3), "third": Brightener()}
    result = score_pairs(images, toys, protocol_of(count=12))
    found = {(one.subject, one.name, one.family): one for one in result.differences}
    assert {one.baseline for one in found.values()} == {"first"}
    assert {subject for subject, *_ in found} == {"second", "third"}
    for name, family in (("SSIM", "raw"), ("L1", "raw"), ("SSIM", "patn")):
        one = found["second", name, family].difference
        means = [result.value(subject, name, family) for subject in ("first", "second")]
        assert one.mean == pytest.approx(means[1] - means[0], abs=1e-12)
        assert one.low < one.mean < one.high
        same = found["third", name, family].difference
        assert (same.low, same.mean, same.high) == (0, 0, 0)
    lines = result.to_markdown().splitlines()
    assert "| more than first | family | second | third | pairs |" in lines
    assert any(line.startswith("| L1 | raw | +") and "[" in line for line in lines)
    (stored,) = (
        row
        for row in json.loads(result.to_json())["differences"]
        if (row["subject"], row["name"], row["family"]) == ("second", "L1", "raw")
    )
    assert stored["low"] == found["second", "L1", "raw"].difference.low


def test_two_networks_of_one_name_are_refused(images, tmp_path):
    table = tmp_path / "images.parquet"
    write_images(images, table)
    settings = EvaluateSettings(images=table, weights=("patn-sample", "patn-sample"))
    with pytest.raises(UserError, match="found two networks called 'patn-sample'"):
        evaluate(settings, Console(quiet=True))


def test_the_command_shows_the_table_and_keeps_it(images, three_pairs, tmp_path, capsys):
    table, out = tmp_path / "images.parquet", tmp_path / "scores.json"
    write_images(images, table)
    code = PROGRAM.run(
        ["evaluate", "--images", str(table), "--pairs", str(three_pairs[0]), "--out", str(out),
         "--baseline", "copy", "target", "--imagenet", "none", "--device", "cpu", "--quiet"]
    )  # fmt: skip
    assert code == Exit.DONE
    shown = capsys.readouterr().out
    assert shown.startswith("3 pairs: the first 3 of pairs.csv.\n")
    assert "| patn | copy the source | the target itself | protocol |" in shown
    assert json.loads(out.read_text())["num_pairs"] == 3


def test_pairs_of_market1501_that_are_not_the_published_ones_are_called_so(
    images, three_pairs, tmp_path, capsys
):
    write_images(images, tmp_path / "images.parquet")
    arguments = ["evaluate", "--images", str(tmp_path / "images.parquet"), "--count", "3",
             "--baseline", "copy", "--imagenet", "none", "--device", "cpu"]  # fmt: skip

    PROGRAM.run([*arguments, "--pairs", str(three_pairs[0])])
    assert "published" not in capsys.readouterr().err

    PROGRAM.run(arguments)
    (told,) = [line for line in capsys.readouterr().err.splitlines() if "published" in line]
    assert told.startswith("these pairs are not the published ones of Market-1501")
    assert told.endswith("--pairs market-pairs-test.csv gives those")


def test_the_row_of_fid_names_the_port_of_inception_and_its_way_of_resizing():
    metric_of = fid_metric(lambda _: pytest.fail("config"), moments(torch.rand(3, 4)), 64)
    (row,) = metric_of().rows()
    assert "torch-fidelity's port (inception-v3-compat" in row.protocol
    assert "resized to 299 x 299 as TensorFlow 1 does" in row.protocol
    assert "not TTUR's or pytorch-fid's" in row.protocol


def test_pairs_of_two_people_or_without_a_pose_are_refused(images, tmp_path):
    gallery = images.only("gallery")
    ids, people = gallery.strings("image_id"), gallery.strings("person_id")
    two = write_pairs(tmp_path / "two.csv", [(ids[0], ids[1]), (ids[0], ids[6])])
    told = f"found 1 of 2 that show two people, the first '{ids[0]}' ({people[0]}) and '{ids[6]}'"
    with pytest.raises(UserError, match=re.escape(told)):
        score_pairs(images, {}, protocol_of(pairs=two, baseline=("copy",)))
    place = images.table.schema.get_field_index("keypoints")
    column = keypoint_column(images.keypoints(), np.zeros(len(images), bool))
    poseless = dataclasses.replace(
        images, table=images.table.set_column(place, "keypoints", column)
    )
    one = write_pairs(tmp_path / "one.csv", [(ids[0], ids[1])])
    told = f"found 2 of 2 images without any joint, the first '{ids[0]}'"
    with pytest.raises(UserError, match=re.escape(told)):
        score_pairs(poseless, {}, protocol_of(pairs=one, baseline=("copy",)))


class Smaller(Brightener):
    """Makes images of half the width and height."""

    @property
    def image_size(self) -> tuple[int, int]:
        return 64, 32


def test_a_network_of_another_size_gets_images_and_poses_of_its_size(images, three_pairs):
    toy = Smaller()
    score_pairs(images, {"toy": toy}, protocol_of(pairs=three_pairs[0]))
    (condition,) = toy.conditions
    assert condition.image.shape == (3, 3, 64, 32)
    row = images.strings("image_id").index(three_pairs[1][0][0])
    expected = (images.keypoints()[row] + 0.5) / 2 - 0.5
    assert np.allclose(condition.pose.joints[0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("arguments", [["--count", "0"], ["--count", "-3"], ["--batch-size", "0"]])
def test_a_number_that_scores_nothing_is_refused(images, tmp_path, arguments):
    write_images(images, tmp_path / "images.parquet")
    command = ["evaluate", "--images", str(tmp_path / "images.parquet"), "--baseline", "copy"]
    with pytest.raises(UserError, match=f"Input should be greater than 0, found {arguments[1]}"):
        PROGRAM.run([*command, *arguments])


def test_the_command_refuses_to_score_nothing(images, tmp_path):
    write_images(images, tmp_path / "images.parquet")
    with pytest.raises(UserError, match="neither --weights nor --baseline"):
        PROGRAM.run(["evaluate", "--images", str(tmp_path / "images.parquet")])
