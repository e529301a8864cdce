from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from manifests import pixels
from manifests.datasets import market1501
from manifests.io import Images, sha256_file
from manifests.people.dataset import SampleSettings, draw_data_set
from manifests.schema import JUNK
from reid.data.labels import Labels
from reid.evaluation.ranking import distance_of, rank
from reid.evaluation.report import protocol_block, read_scored, write_report

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "reid_report.json"
# Sums of the same float64 terms in another order.
SAME_SUM = 1e-12


def labels(images: Images) -> Labels:
    cameras = images.table["camera_id"].to_numpy().astype(np.int64)
    names = np.array(images.strings("image_id"))
    return Labels(np.array(images.strings("person_id")), cameras, names)


def features(images: Images) -> np.ndarray:
    """Return the colours of the middle cells: exact integers, so that sums are exact as well."""
    middle = pixels.read_all(images, (8, 16))[:, 3:14, 3:5]
    return middle.reshape(len(images), -1).astype(np.float64)


def report_of_eight_people(folder: Path) -> dict:
    """Score colour features on eight drawn people and return the report."""
    draw_data_set(folder / "people", SampleSettings(people=1, test_people=8))
    images, _ = market1501.index(folder / "people")
    query, gallery = images.only("query"), images.only("gallery")
    kept = gallery.take(np.flatnonzero(np.array(gallery.strings("person_id")) != JUNK))
    measure = distance_of(features(query), features(kept), "euclidean")
    choices = {"rule": "market1501", "distance": "euclidean", "flip_test": False}
    facts = {
        "config": {"seed": 0},
        "weights": "last",
        "protocol": protocol_block(labels(query), labels(gallery), choices),
    }
    write_report(folder, facts, rank(measure, labels(query), labels(kept)), labels(query))
    return json.loads((folder / "report.json").read_text())


def test_the_report_of_eight_drawn_people_is_the_stored_one(tmp_path):
    # To store another: json.dumps(report_of_eight_people(folder), indent=1, sort_keys=True).
    found, golden = report_of_eight_people(tmp_path), json.loads(GOLDEN.read_text())
    # The bytes of Parquet are pyarrow's and change with its version.
    assert found.pop("queries_sha256") == sha256_file(tmp_path / "queries.parquet")
    assert found.keys() == golden.keys()
    for name in golden:
        if name in {"scores", "cmc"}:
            assert found[name] == pytest.approx(golden[name], abs=SAME_SUM)
        else:
            assert found[name] == golden[name]
    assert golden["protocol"]["query"]["num_people"] == 8
    assert 0 < golden["scores"]["mAP"] < golden["scores"]["rank_1"] < 1
    scored = read_scored(tmp_path)
    assert scored.average_precision.mean() == pytest.approx(golden["scores"]["mAP"])


def test_a_query_without_a_match_is_counted_and_listed_and_in_no_mean(tmp_path):
    query = Labels(
        np.array(["a", "nobody", "b"]), np.array([1, 1, 1]), np.array(["a1", "n1", "b1"])
    )
    gallery = Labels(np.array(["b", "a"]), np.array([2, 2]))
    distances = np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    facts = {"config": {"seed": 0}, "weights": "", "protocol": {"query": {}, "gallery": {}}}
    write_report(tmp_path, facts, rank(distances, query, gallery), query)
    scored = read_scored(tmp_path)
    assert (scored.report["num_queries"], scored.report["num_matched"]) == (3, 2)
    assert scored.report["unmatched"] == ["n1"]
    assert scored.queries.tolist() == ["a1", "b1"]
    assert scored.people.tolist() == ["a", "b"]
    assert scored.average_precision.tolist() == [0.5, 1.0]
    assert scored.report["scores"]["mAP"] == 0.75
