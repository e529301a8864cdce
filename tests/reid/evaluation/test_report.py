from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from manifests import pixels
from manifests.datasets import market1501
from manifests.io import Images, sha256_file
from manifests.people.dataset import SampleSettings, draw_data_set
from manifests.runtime.console import UserError
from manifests.schema import JUNK
from reid.data.labels import Labels
from reid.evaluation.ranking import distance_of, rank
from reid.evaluation.report import protocol_block, read_scored, write_report
from tests.helpers.scored_runs import write_run

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


def changed(path: Path, where: str, value: object) -> None:
    """Put a value into a file of JSON, at names with dots between them; none takes it away."""
    content = json.loads(path.read_text())
    *above, last = where.split(".")
    entries = content
    for name in above:
        entries = entries[name]
    if value is None:
        del entries[last]
    else:
        entries[last] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        ("config.seed", "0", "entry 'config.seed': input should be a valid integer"),
        ("config.steps", 1.5, "entry 'config.steps': input should be a valid integer"),
        ("protocol.query", [], "entry 'protocol.query': input should be a valid dictionary"),
        ("weights", None, "entry 'weights': field required"),
        ("scores.mAP", "high", "entry 'scores.mAP': input should be a valid number"),
        ("scores.rank_1", float("nan"), "entry 'scores.rank_1': input should be a finite number"),
        ("cmc", None, "entry 'cmc': field required"),
        ("cmc", [0.5], "entry 'cmc': list should have at least 20 items"),
        ("verification.roc.tpr", [0.5], "entry 'verification.roc.tpr': list should have at least"),
        ("verification.positives", [-1] * 256, "entry 'verification.positives.0': input should be"),
        ("verification.tpr_at_fpr", {}, "entry 'verification.tpr_at_fpr': expected rates at 0.0"),
        ("leakage", [], "entry 'leakage': input should be a valid dictionary"),
        ("leakage", {"near_duplicates": {}}, "entry 'leakage.near_duplicates.num_pairs': field"),
        ("versions", {"torch": 2}, "entry 'versions.torch': input should be a valid string"),
        ("queries_sha256", [], "entry 'queries_sha256': input should be a valid string"),
        ("num_real", -1, "entry 'num_real': input should be greater than or equal to 0"),
    ],
)
def test_a_report_of_other_entries_is_refused_with_the_first(tmp_path, where, value, said):
    run = write_run(tmp_path / "run", 0, keeps_nearest=True)
    read_scored(run)
    changed(run / "report.json", where, value)
    with pytest.raises(UserError, match=re.escape(f"report.json: {said}")):
        read_scored(run)


def test_entries_that_are_null_are_refused_where_a_value_is_needed(tmp_path):
    run = write_run(tmp_path / "run", 0, keeps_nearest=True)
    text = (run / "report.json").read_text()
    (run / "report.json").write_text(text.replace('"steps": 3000', '"steps": null'))
    with pytest.raises(UserError, match=r"report.json: entry 'steps': expected a value"):
        read_scored(run)
