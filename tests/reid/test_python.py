"""``reid`` from Python: a run's network, scores of features, generated images as a data set."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import reid
from manifests import pixels
from manifests.io import read_images
from manifests.runtime.console import Console, UserError
from manifests.schema import JUNK
from reid.data.labels import labels_of
from reid.training.train import TrainSettings, train
from tests.helpers.reid_people import picture, write_people, write_synthetic


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_people(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    small = {"steps": 2, "batch_size": 8, "height": 64, "width": 32, "device": "cpu"}
    train(TrainSettings(images=images, out=out, **small), Console(quiet=True))
    return out


def test_nothing_heavy_is_imported_before_it_is_needed():
    code = "import reid, sys; assert 'torch' not in sys.modules; assert reid.__all__"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match="module 'reid' has no attribute 'laod'"):
        _ = reid.laod


def test_a_loaded_run_and_evaluate_give_the_scores_of_its_report(run, images):
    model = reid.load(run, device="cpu")
    parts = []
    for split in ("query", "gallery"):
        table = read_images(images).only(split)
        crops = [pixels.read(table.file(row)) for row in range(len(table))]
        parts.append((model.embed(crops), labels_of(table)))
    (query, left), (gallery, right) = parts
    found = reid.evaluate(query, gallery, left.people, right.people, left.cameras, right.cameras)
    report = json.loads((run / "report.json").read_text())
    assert found.mean_average_precision == pytest.approx(report["scores"]["mAP"], abs=1e-6)
    assert found.cmc(5).tolist() == pytest.approx(report["cmc"][:5], abs=1e-6)
    assert model.people == tuple(f"{person:04d}" for person in range(1, 7))


def test_images_of_all_kinds_and_sizes_are_embedded(run):
    model = reid.load(run, device="cpu")
    crop = picture(3, 1, 0)
    large = np.kron(crop, np.ones((2, 2, 1), np.uint8))
    kinds = [crop, Image.fromarray(crop), torch.from_numpy(crop), large]
    features = model.embed(kinds)
    assert np.array_equal(features[0], features[1])
    assert np.array_equal(features[0], features[2])
    assert np.array_equal(features[0], features[3])
    mirrored = model.embed([crop, crop[:, ::-1].copy()], flip_test=True)
    np.testing.assert_allclose(mirrored[0], mirrored[1], rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match="found no image to embed"):
        model.embed([])
    with pytest.raises(UserError, match="image 1"):
        model.embed([crop, crop.astype(np.float32) / 255])


def test_people_may_have_any_labels_and_junk_is_not_ranked():
    query, gallery = np.eye(3)[:2], np.eye(3)
    found = reid.evaluate(query, gallery, [1, 2], [1, 2, JUNK], [1, 1], [2, 2, 2])
    assert found.mean_average_precision == 1.0
    assert found.num_matches.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"gallery": np.eye(3)[:, :2]}, "features of 3 and of 2 numbers for query and gallery"),
        ({"query_people": [1]}, "query: found 1 people for 2 features"),
        ({"gallery_cameras": [2]}, "gallery: found 1 cameras for 3 features"),
        ({"query": np.full((2, 3), np.nan)}, "query features are not finite; expected finite"),
        ({"query_people": [8, 9]}, "no query|match"),
        ({"query_people": ["0001", "2"]}, "the people '0001' and '1', which differ in zeros"),
        ({"gallery_people": [1, 2, -1.0]}, "found the person '-1.0', expected '-1' for junk"),
        ({"query_cameras": [1.0, np.nan]}, "query: found cameras that are no whole numbers, exp"),
        ({"query_cameras": ["c1", "c2"]}, "query: found cameras that are no whole numbers, exp"),
        ({"gallery_cameras": [-1, -1, -1]}, "expected camera_id, or --protocol all-cameras$"),
        ({"distance": "cosin"}, "found distance 'cosin', expected one of cosine, euclidean"),
        ({"protocol": "market-1501"}, "found protocol 'market-1501', expected one of market1501"),
        ({"query": np.array([["a", "b", "c"]] * 2)}, "query: found features of type <U1"),
    ],
)
def test_what_cannot_be_ranked_is_refused(change, expected):
    given = {
        "query": np.eye(3)[:2], "gallery": np.eye(3), "query_people": [1, 2],
        "gallery_people": [1, 2, 3], "query_cameras": [1, 1], "gallery_cameras": [2, 2, 2],
    }  # fmt: skip
    with pytest.raises(UserError, match=expected):
        reid.evaluate(**given | change)


def test_bits_and_whole_numbers_are_features_too():
    given = np.eye(2), np.eye(2)[::-1], [1, 2], [2, 1], [1, 1], [2, 2]
    for kind in (bool, np.uint8, np.int64):
        query, gallery, *labels = given
        scores = reid.evaluate(query.astype(kind), gallery.astype(kind), *labels)
        assert scores.mean_average_precision == 1


def test_generated_images_are_a_data_set_with_people_and_weights(tmp_path):
    out = write_synthetic(tmp_path / "made", num_train=3, per_person=2)
    table = pq.read_table(out / "manifest.parquet")
    place = table.schema.get_field_index("weight")
    weights = pa.array([None, 0.5, None, 0.0, 1.0, 2.0], pa.float32())
    pq.write_table(
        table.set_column(place, table.schema.field(place), weights), out / "manifest.parquet"
    )
    data = reid.SyntheticImages(out, transform=lambda image: image.float() / 255)
    assert len(data) == 6
    assert data[1]["person_id"] == "0001"
    assert data[-1]["image_id"] == data[5]["image_id"] == "0003_g1.jpg"
    shown = (data[4]["image"].permute(1, 2, 0).numpy() * 255).round()
    assert np.abs(shown - picture(3, 1, 50)).mean() < 20
    (batch,) = DataLoader(data, batch_size=6)
    assert batch["image"].shape == (6, 3, 64, 32)
    assert batch["weight"].tolist() == [1.0, 0.5, 1.0, 0.0, 1.0, 2.0]
    with pytest.raises(IndexError):
        data[6]
    with pytest.raises(UserError, match="expected the OUT of 'augment generate'"):
        reid.SyntheticImages(tmp_path / "nothing")
