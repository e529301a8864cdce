from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from manifests.io import read_images, write_images
from manifests.runtime.console import Console, UserError
from manifests.schema import IMAGES
from reid.cli import PROGRAM
from reid.evaluation.report import read_scored
from reid.evaluation.score import ScoreSettings, score
from reid.experiments.comparison import arm_of, check_alike, read_arm
from reid.models.export import TOLERANCE, Exported, ExportSettings, difference, export
from reid.models.features import RawFeatures, embed, load_network
from reid.models.network import ReidNetwork
from reid.models.run_folder import read_run
from reid.models.torchreid_adapter import build_model
from reid.training.train import TrainSettings, train
from tests.helpers.reid_people import write_people

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Return people of whom one has the same image in train and gallery."""
    folder = tmp_path_factory.mktemp("people")
    table = write_people(folder)
    names = ("0002_c1_train_0.jpg", "0008_c2_gallery_1.jpg")
    one, other = (folder / "images" / name for name in names)
    other.write_bytes(one.read_bytes())
    return table


@pytest.fixture(scope="module")
def run(images, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    plan = TrainSettings(
        images=images,
        out=out,
        steps=2,
        batch_size=8,
        height=64,
        width=32,
        device="cpu",
        score=False,
    )
    train(plan, QUIET)
    return out


@pytest.fixture
def unscored(run, tmp_path) -> Path:
    """Return a copy of the run that nobody has scored."""
    copy = tmp_path / "unscored"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("report.json", "scores"))
    return copy


def report(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def test_several_data_sets_are_scored_in_one_run_each_into_its_folder(
    run, images, tmp_path, capsys
):
    other = write_people(tmp_path, num_test=6)
    arguments = ["score", str(run), "--images", str(images), "--targets", f"six={other}"]
    PROGRAM.run(arguments)
    assert report(run)["num_queries"] == 4 * 2
    target = run / "targets" / "six"
    assert report(target)["num_queries"] == 6 * 2
    assert read_arm(str(target)).runs[0].report["config"] == report(run)["config"]
    # Near-duplicates are those of the run's own table.
    assert report(run)["leakage"]["near_duplicates"]["nearest"] == [
        {"train": "0002_c1_train_0.jpg", "gallery": "0008_c2_gallery_1.jpg", "bits": 0}
    ]
    assert "near_duplicates" not in report(target)["leakage"]
    assert report(run)["leakage"]["train_and_test_share_people"] is False
    # The people of another data set have names of their own.
    assert report(target)["leakage"]["train_and_test_share_people"] is None
    assert report(target)["leakage"]["train_and_test_people"].startswith("not checked")
    said = capsys.readouterr().err
    assert "targets/six: mAP" in said
    assert "1 pairs of a train and a gallery image are near-duplicates" in said
    for bad in ("six", f"..={other}", f"a/b={other}"):
        with pytest.raises(UserError, match=f"found '{bad}', expected NAME=TABLE"):
            score(ScoreSettings(run=run, images=images, targets=(bad,)), QUIET)


def with_cameras(table: Path, out: Path, cameras: dict[str, list[int]]) -> Path:
    """Write the table again, the cameras of a split in turn these."""
    images = read_images(table)
    splits, old = images.strings("split"), images.table["camera_id"].to_pylist()
    new = [
        cameras[split][row % len(cameras[split])] if split in cameras else camera
        for row, (split, camera) in enumerate(zip(splits, old, strict=True))
    ]
    place = images.table.schema.get_field_index("camera_id")
    column = pa.array(new, pa.int16())
    changed = images.table.set_column(place, IMAGES.field("camera_id"), column)
    write_images(replace(images, table=changed), out)
    return out


def test_a_gallery_without_cameras_is_refused_and_one_with_some_is_counted(
    unscored, images, tmp_path, capsys
):
    none = with_cameras(images, tmp_path / "none.parquet", {"gallery": [-1]})
    settings = {"run": unscored, "targets": (), "device": "cpu"}
    with pytest.raises(UserError, match=r"none.parquet: none of \d+ gallery images has a camera"):
        score(ScoreSettings(images=none, **settings), QUIET)
    some = with_cameras(images, tmp_path / "some.parquet", {"gallery": [-1, 1, 2]})
    score(ScoreSettings(images=some, **settings), Console())
    number = report(unscored)["protocol"]["gallery"]["num_unknown_cameras"]
    assert 0 < number < 10
    assert (
        f"0 queries and {number} gallery images are of unknown cameras" in capsys.readouterr().err
    )
    assert "num_unknown_cameras" not in report(unscored)["protocol"]["query"]


def test_scores_under_different_protocols_lie_side_by_side(unscored, images):
    score(ScoreSettings(run=unscored, images=images, device="cpu"), QUIET)
    before = (unscored / "report.json").read_bytes()

    score(
        ScoreSettings(run=unscored, images=images, device="cpu", flip_test=True, rerank=True), QUIET
    )

    assert (unscored / "report.json").read_bytes() == before
    beside = unscored / "scores" / "flip-rerank-20-6-0.3"
    assert report(beside)["protocol"]["flip_test"]
    assert read_scored(beside).folder == beside
    with pytest.raises(UserError, match=r"another protocol .* the folders of one protocol in RUN/"):
        check_alike([arm_of("plain", [unscored]), arm_of("flip", [beside])])
    score(ScoreSettings(run=unscored, images=images, device="cpu"), QUIET)
    assert sorted(path.name for path in (unscored / "scores").iterdir()) == ["flip-rerank-20-6-0.3"]


def test_another_table_with_people_who_were_trained_on_is_refused(run, tmp_path):
    other = write_people(tmp_path, num_train=3, num_test=4)
    with pytest.raises(UserError, match="3 people are in train and in query"):
        score(ScoreSettings(run=run, images=other, device="cpu"), QUIET)


def test_the_score_on_other_test_images_goes_beside_that_of_the_training(
    unscored, images, tmp_path
):
    score(ScoreSettings(run=unscored, images=images, device="cpu"), QUIET)
    before = (unscored / "report.json").read_bytes()
    for number in (5, 6, 5):
        others = write_people(tmp_path / f"{number}", num_test=number)
        score(
            ScoreSettings(run=unscored, images=others, near_duplicates=False, device="cpu"), QUIET
        )
    assert (unscored / "report.json").read_bytes() == before
    found = sorted((unscored / "scores").glob("plain*"))
    assert found[0].name == "plain"
    assert [report(folder)["num_queries"] for folder in found] == [5 * 2, 6 * 2]
    assert report(found[0])["leakage"]["train_and_test_share_people"] is False


def test_nobody_chose_the_best_weights_of_a_run_without_validation_people(run, images):
    with pytest.raises(UserError, match=r"--which best: .* set no people aside .* --which last"):
        score(ScoreSettings(run=run, images=images, which="best", device="cpu"), QUIET)


def test_numbers_of_reranking_without_it_are_refused(run, images):
    with pytest.raises(UserError, match=r"--rerank-k1, .* found without --rerank, expected both"):
        PROGRAM.run(["score", str(run), "--images", str(images), "--rerank-k1", "30"])


def test_the_report_says_which_feature_and_which_distance_went_into_reranking(run, images):
    plain = ScoreSettings(run=run, images=images, near_duplicates=False, device="cpu")
    score(plain, QUIET)
    before = report(run)
    assert before["protocol"]["reranking"] is None
    assert before["protocol"]["feature"] == "the network's output in evaluation mode"
    changed = plain.model_copy(update={"rerank": True, "rerank_k1": 4, "feature": "raw"})
    score(changed, QUIET)
    others = [report(folder) for folder in (run / "scores").iterdir()]
    same = before["protocol"]["feature"]
    (after,) = (
        other
        for other in others
        if other["protocol"]["reranking"] and other["protocol"]["feature"] != same
    )
    assert after["protocol"]["reranking"] == {
        "k1": 4,
        "k2": 6,
        "lambda": 0.3,
        "distance_in": "one minus the cosine, divided by the largest of its row",
    }
    assert after["protocol"]["feature"].startswith("what enters the network's last batch norm")
    assert after["num_matched"] == before["num_matched"]


def test_reranking_for_which_memory_is_short_is_refused_and_writes_nothing(
    run, images, monkeypatch
):
    plain = ScoreSettings(run=run, images=images, near_duplicates=False, device="cpu")
    score(plain, QUIET)
    before = {name: (run / name).read_bytes() for name in ("report.json", "queries.parquet")}
    monkeypatch.setattr("reid.evaluation.reranking.available_bytes", lambda: 1000)
    with pytest.raises(UserError, match=r"--rerank needs up to 0\.0 GB .* found 0\.0 GB available"):
        score(plain.model_copy(update={"rerank": True}), QUIET)
    assert before == {name: (run / name).read_bytes() for name in before}
    score(plain, QUIET)


def test_raw_features_are_what_the_last_normalisation_gets():
    network = build_model("osnet_x0_25", 3)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 32, 3), np.uint8)
    output = embed(ReidNetwork(network), pixels, "output", QUIET)
    raw = embed(ReidNetwork(RawFeatures(network)), pixels, "raw", QUIET)
    # OSNet's features go through a linear layer, the normalisation and a ReLU.
    with torch.inference_mode():
        finished = network.fc[1:](torch.from_numpy(raw)).numpy()
    np.testing.assert_array_equal(finished, output)
    assert abs(raw - output).max() > 0


def test_a_network_without_a_neck_has_no_raw_feature():
    with pytest.raises(UserError, match="Linear has no batch normalisation of features"):
        RawFeatures(nn.Linear(2, 2))


def test_an_onnx_file_gives_the_features_of_the_run_for_any_batch(run, tmp_path):
    pytest.importorskip("onnxscript", reason="the extra [onnx] is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
    file = tmp_path / "net.onnx"
    PROGRAM.run(["export", str(run), "--out", str(file), "--format", "onnx", "--quiet"])
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).integers(0, 256, (7, 64, 32, 3), np.uint8)
    expected = embed(load_network(read_run(run), "last"), pixels, "features", QUIET)
    inputs = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2) / np.float32(127.5) - 1, np.float32)
    for count in (1, 7):
        (found,) = session.run(["features"], {"images": inputs[:count]})
        np.testing.assert_allclose(found, expected[:count], atol=TOLERANCE * abs(expected).max())


def test_a_network_that_comes_out_otherwise_is_measured_as_such():
    images = torch.ones(2, 3, 4, 4)
    expected = torch.tensor([[1.0, -2.0], [0.5, 4.0]])
    off = Exported(b"", lambda batch: expected + 0.04 * batch.mean())
    assert difference(off, images, expected) == pytest.approx(0.01)


def test_an_export_that_gives_other_features_is_refused_and_writes_nothing(
    run, tmp_path, monkeypatch
):
    given: list[nn.Module] = []

    def loaded(file: object) -> SimpleNamespace:
        return SimpleNamespace(module=lambda: lambda images: 1.01 * given[0](images))

    monkeypatch.setattr(torch.export, "export", lambda network, *_, **__: given.append(network))
    monkeypatch.setattr(torch.export, "save", lambda program, file: file.write(b"another network"))
    monkeypatch.setattr(torch.export, "load", loaded)
    settings = ExportSettings(run=run, out=tmp_path / "net.pt2")
    with pytest.raises(UserError, match=r"as pt2 differs by 1\.0e-02 .* so nothing was written"):
        export(settings, QUIET)
    assert not list(tmp_path.iterdir())


def test_an_unknown_ending_is_refused_before_anything_is_read():
    settings = ExportSettings(run=Path("nowhere"), out=Path("net.bin"))
    with pytest.raises(UserError, match=r"found the ending '\.bin', expected \.pt2 or \.onnx"):
        export(settings, QUIET)
