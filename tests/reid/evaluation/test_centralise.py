"""Features plus the mean of others: of generated images, of copies, of neighbours."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from augment.generation.job import generate
from manifests.io import keypoint_column, read_images, write_images
from manifests.pixels import decode, read_all, resize
from manifests.runtime.console import Console, Exit, UserError
from manifests.schema import IMAGES
from manifests.synthetic import read_synthetic
from reid.data.inputs import Inputs
from reid.data.synthetic_images import SyntheticImages
from reid.evaluation.centralise import (
    MAX_COPIES,
    Centralisation,
    centralised,
    copies,
    means_of_neighbours,
    read_generated,
    unit,
)
from reid.evaluation.report import read_scored
from reid.evaluation.score import score
from reid.evaluation.score_settings import ScoreSettings
from reid.experiments.comparison import arm_of, check_alike
from reid.experiments.screen import ScreenSettings, screen
from reid.models.features import embed, load_network
from reid.models.run_folder import read_run
from reid.training.train import TrainSettings, train
from tests.helpers import trivial
from tests.helpers.poses import standing
from tests.helpers.reid_people import HEIGHT, WIDTH, write_people

QUIET = Console(quiet=True)
# float32 features, summed in float64.
ROUNDING = 1e-5
# There are 8 poses at test time; 10 is the default of --per-id.
AT_TEST_TIME = {"per_id": 10, "purpose": "test-time", "image_format": "png"}


def posed(table: Path, without: tuple[str, ...] = ()) -> Path:
    """Give every image of a table joints, but for these."""
    images = read_images(table)
    names = images.strings("image_id")
    joints = np.stack([standing("front", row % 9) for row in range(len(names))])
    joints = joints * np.array([WIDTH, HEIGHT]) / np.array([64, 128])
    annotated = np.array([name not in without for name in names])
    columns = {
        "keypoints": keypoint_column(joints.astype(np.float32), annotated),
        "width": pa.array([WIDTH] * len(names), pa.int32()),
        "height": pa.array([HEIGHT] * len(names), pa.int32()),
    }
    changed = images.table
    for name, column in columns.items():
        changed = changed.set_column(IMAGES.get_field_index(name), IMAGES.field(name), column)
    write_images(replace(images, table=changed), table)
    return table


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    table = write_people(tmp_path_factory.mktemp("people"))
    query = read_images(table).only("query").strings("image_id")
    return posed(table, (query[0],))


@pytest.fixture(scope="module")
def run(images, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    settings = {"steps": 2, "batch_size": 8, "height": 64, "width": 32, "device": "cpu"}
    train(TrainSettings(images=images, out=out, score=False, **settings), QUIET)
    return out


@pytest.fixture(scope="module")
def generated(images, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("sets") / "test-time"
    settings = trivial.job_settings(images, out, **AT_TEST_TIME)
    assert generate(settings, QUIET, trivial.trivial_weights()) == Exit.DONE
    return out


def scored(run: Path, images: Path, **changes) -> dict[str, dict]:
    how = Centralisation(**changes)
    score(ScoreSettings(run=run, images=images, device="cpu", centralisation=how), QUIET)
    folders = sorted((run / "scores").iterdir())
    return {f.name: json.loads((f / "report.json").read_text()) for f in folders}


def test_both_scores_stand_side_by_side_and_never_under_one_name(run, images, generated):
    score(ScoreSettings(run=run, images=images, device="cpu"), QUIET)
    before = {path.name: path.read_bytes() for path in run.glob("*.*")}
    reports = scored(run, images, centralise=generated, eta=(0.5, 1.0))

    assert {path.name: path.read_bytes() for path in run.glob("*.*")} == before
    plain = json.loads(before["report.json"])
    found = {name: report for name, report in reports.items() if name.startswith("generated-")}
    assert sorted(name.rpartition("-eta-")[2] for name in found) == ["0.5", "1"]
    for name, report in found.items():
        assert report["scores_without_centralisation"] == plain["scores"]
        assert report["protocol"]["centralisation"]["eta"] == float(name.rpartition("-")[2])
        # One query has no joints, so no generated image; it keeps its feature.
        assert report["centralised_images"]["query"]["num_without"] == 1
        assert report["centralised_images"]["gallery"]["num_without"] == 0
    name = min(found)
    assert read_scored(run / "scores" / name).report["scores"] == found[name]["scores"]
    with pytest.raises(UserError, match="another protocol"):
        check_alike([arm_of("plain", [run]), arm_of("other", [run / "scores" / name])])


def test_a_centralised_score_never_takes_the_place_of_the_plain_one(images, generated, tmp_path):
    out = tmp_path / "unscored"
    settings = {"steps": 1, "batch_size": 8, "height": 64, "width": 32, "device": "cpu"}
    train(TrainSettings(images=images, out=out, score=False, **settings), QUIET)
    scored(out, images, centralise=generated)
    assert not (out / "report.json").exists()


def test_generated_features_are_added_as_the_formula_says(run, images, generated):
    reports = scored(run, images, centralise=generated, eta=(1.0,))
    (name,) = (name for name in reports if name.startswith("generated-") and name[-2:] == "-1")
    network = load_network(read_run(run), "last")
    rows = read_synthetic(generated)
    made = [resize(decode(data, ""), (32, 64)) for data in rows.read_bytes(np.arange(len(rows)))]
    made = unit(embed(network, np.stack(made), "made", QUIET))
    sources = np.array(rows.strings("source_id"))
    added = {image: made[sources == image] for image in set(sources)}
    assert {len(own) for own in added.values()} == {8}
    check_distances(run, images, name, (added, 1.0))

    # Copies first, of every image and by their own weight, then what was generated.
    changes = {"centralise": generated, "copies": 2, "copies_eta": (4.0,), "eta": (1.0, 0.5)}
    reports = scored(run, images, **changes)
    entry = next(iter(report["protocol"]["centralisation"] for report in reports.values()))
    assert (entry["copies"], entry["copies_eta"]) == (2, 4.0)
    assert entry["generated"]["generator"] == "trivial"
    (name,) = (
        name for name in reports if name.startswith("copies-2-eta-4-gener") and "5" in name[-3:]
    )
    check_distances(run, images, name, (embedded_copies(run, images, 2), 4.0), (added, 0.5))


def embedded_copies(run: Path, images: Path, count: int) -> dict[str, np.ndarray]:
    """Return the features of so many copies of every query and gallery image."""
    network, added = load_network(read_run(run), "last"), {}
    for split in ("query", "gallery"):
        part = read_images(images).only(split)
        real = read_all(part, (32, 64))
        made = [unit(embed(network, copy, split, QUIET)) for copy in copies(real, count)]
        added.update(zip(part.strings("image_id"), np.stack(made, axis=1), strict=True))
    return added


def check_distances(
    run: Path, images: Path, name: str, *kinds: tuple[dict[str, np.ndarray], float]
) -> None:
    """Check a score against features plus, kind after kind, the mean of what is added."""
    table, network = read_images(images), load_network(read_run(run), "last")
    features = {}
    for split in ("query", "gallery"):
        part = table.only(split)
        real = unit(embed(network, read_all(part, (32, 64)), split, QUIET))
        for image, feature in zip(part.strings("image_id"), real, strict=True):
            total = feature
            for added, eta in kinds:
                if image in added:
                    total = total + eta * added[image].mean(axis=0)
                total = total / np.linalg.norm(total)
            features[image] = total
    queries = read_scored(run / "scores" / name).table.to_pylist()
    assert len(queries) == 8
    for query in queries:
        for other, distance in zip(query["ranked_ids"], query["ranked_distances"], strict=True):
            expected = 1 - features[query["image_id"]] @ features[other]
            assert abs(distance - expected) < ROUNDING


def test_copies_for_a_set_are_of_the_images_that_have_generated_ones_and_of_no_other(
    run, images, generated, capsys
):
    how = Centralisation(copies=2, copies_for=generated, copies_eta=(1.0,))
    score(ScoreSettings(run=run, images=images, device="cpu", centralisation=how), Console())
    said = "1 query and 0 gallery images have no generated image and keep their plain feature"
    assert said in capsys.readouterr().err

    set_of = read_generated(how, read_images(images), Inputs())
    assert set_of is not None
    name = f"copies-2-for-trivial-{set_of.sha256[:8]}-eta-1"
    report = read_scored(run / "scores" / name).report
    assert report["protocol"]["centralisation"] == {
        "copies": 2,
        "copies_eta": 1.0,
        "copies_for": {"generator": "trivial", "manifest_sha256": set_of.sha256},
    }
    # The gallery's junk is never ranked.
    assert report["centralised_images"] == {
        "query": {"num_images": 8, "num_without": 1},
        "gallery": {"num_images": 9, "num_without": 0},
    }
    sources = set(read_synthetic(generated).strings("source_id"))
    added = embedded_copies(run, images, 2)
    assert len(added) == len(sources) + 2
    added = {image: own for image, own in added.items() if image in sources}
    check_distances(run, images, name, (added, 1.0))


def test_a_network_of_another_data_set_is_scored_as_one(run, images, tmp_path, capsys):
    # Both data sets call their people 0001, 0002 and so on; in this one, those of the test.
    other = posed(write_people(tmp_path / "other", num_train=0, num_test=3))
    out = tmp_path / "of-other"
    generate(trivial.job_settings(other, out, **AT_TEST_TIME), QUIET, trivial.trivial_weights())
    for how in (Centralisation(centralise=out), Centralisation(copies=2, copies_for=out)):
        with pytest.raises(UserError, match=r"3 people are in train and in query .*--targets NAM"):
            score(ScoreSettings(run=run, images=other, device="cpu", centralisation=how), QUIET)

        before = {path.name for path in (run / "scores").glob("*")}
        settings = {"images": images, "targets": (f"other={other}",), "centralisation": how}
        score(ScoreSettings(run=run, device="cpu", **settings), Console())
        assert {path.name for path in (run / "scores").glob("*")} == before
        assert "without centralisation mAP" in capsys.readouterr().err
    reports = [
        read_scored(path).report for path in (run / "targets" / "other" / "scores").iterdir()
    ]
    assert len(reports) == 2
    for report in reports:
        assert report["centralised_images"]["query"] == {"num_images": 6, "num_without": 0}
        assert report["leakage"]["train_and_test_share_people"] is None
    assert not (run / "targets" / "other" / "report.json").exists()


def test_people_of_a_single_image_and_images_without_joints_are_counted_and_said(
    run, images, tmp_path, capsys
):
    table = read_images(images)
    names = table.strings("image_id")
    # Of 0007 a query is left, of 0008 a gallery image, of 0009 one query has no joints.
    alone = {"0007": "0007_c1_query_0.jpg", "0008": "0008_c1_gallery_1.jpg"}
    kept = [row for row, name in enumerate(names) if alone.get(name[:4], name) == name]
    few = tmp_path / "few.parquet"
    write_images(table.take(np.array(kept)), few)
    posed(few, ("0009_c1_query_0.jpg",))
    out = tmp_path / "set"
    generate(trivial.job_settings(few, out, **AT_TEST_TIME), QUIET, trivial.trivial_weights())
    for how, name in (
        ({"centralise": out}, "generated-*"),
        ({"centralise": out, "neighbours": 50}, "generated-*-neighbours-50-*"),
        ({"copies": 2, "copies_for": out}, "copies-2-for-*"),
    ):
        target = tmp_path / name[:20]
        shutil.copytree(run, target, ignore=shutil.ignore_patterns("scores", "targets"))
        settings = {"images": few, "centralisation": Centralisation(**how)}
        score(ScoreSettings(run=target, device="cpu", **settings), Console())
        said = capsys.readouterr().err
        assert "1 query and 0 gallery images have no generated image and keep their plain" in said
        assert "over 4 queries (1 without a match left out)" in said
        (report,) = [read_scored(path).report for path in (target / "scores").glob(name)]
        assert report["unmatched"] == [alone["0007"]]
        assert report["centralised_images"]["query"] == {"num_images": 5, "num_without": 1}
        assert report["centralised_images"]["gallery"] == {"num_images": 6, "num_without": 0}


def test_copies_and_neighbours_have_names_and_scores_of_their_own(run, images):
    reports = scored(run, images, copies=8) | scored(run, images, neighbours=2)
    entry = reports["copies-8-eta-8"]["protocol"]["centralisation"]
    assert entry == {"copies": 8, "copies_eta": 8.0}
    entry = reports["neighbours-2-eta-1"]["protocol"]["centralisation"]
    assert entry == {"eta": 1.0, "neighbours": 2}


def test_copies_are_distinct_and_the_first_is_the_mirror_image():
    image = np.random.default_rng(0).integers(0, 256, (1, 128, 64, 3)).astype(np.uint8)
    made = list(copies(image, MAX_COPIES))
    assert np.array_equal(made[0], image[:, :, ::-1])
    assert len({copy.tobytes() for copy in made} | {image.tobytes()}) == MAX_COPIES + 1
    # The second is shifted by three columns, the edge repeated.
    assert np.array_equal(made[1][:, :, 3:], image[:, :, :-3])
    assert np.array_equal(made[1][:, :, 0], image[:, :, 0])


def test_no_gallery_image_is_its_own_neighbour():
    gallery = unit(np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]))
    means = means_of_neighbours(gallery, gallery, 1, own=True)
    assert np.array_equal(means, gallery[[1, 0, 1]])
    query = means_of_neighbours(gallery[2:], gallery, 2, own=False)
    assert np.allclose(query, (gallery[2:] + gallery[1:2]) / 2)
    assert np.array_equal(means_of_neighbours(gallery[:1], gallery[:1], 3, own=True), [[0, 0]])


def test_a_mean_of_nothing_changes_nothing_but_the_length():
    features = np.array([[3.0, 4.0]])
    assert np.array_equal(centralised(features, np.zeros((1, 2)), 1.0), unit(features))


def test_images_for_test_time_are_refused_where_something_is_trained(
    run, images, generated, tmp_path
):
    settings = {"steps": 1, "batch_size": 8, "height": 64, "width": 32, "device": "cpu"}
    with pytest.raises(UserError, match="in the split 'gallery'; expected train only"):
        train(
            TrainSettings(images=images, out=tmp_path / "t", synthetic=generated, **settings), QUIET
        )
    with pytest.raises(UserError, match="made for test time; expected images of train"):
        SyntheticImages(generated)
    screening = {"run": run, "images": images, "out": tmp_path / "s", "device": "cpu"}
    with pytest.raises(UserError, match="expected train only"):
        screen(ScreenSettings(synthetic=generated, **screening), QUIET)


def test_what_cannot_be_centralised_is_refused_in_one_sentence(run, images, generated, tmp_path):
    training = tmp_path / "training"
    generate(trivial.job_settings(images, training, per_id=1), QUIET, trivial.trivial_weights())
    for table, changes, message in (
        (images, {"centralise": training}, "images of the split train, expected images of query"),
        (images, {"centralise": tmp_path / "none"}, "no such folder"),
        (
            images,
            {"centralise": generated, "copies": 8, "copies_for": generated},
            "--copies-for .*: found with --centralise",
        ),
        (images, {"copies_for": generated}, "--copies-for .*: found without --copies, expected"),
        (images, {"copies_for": training, "copies": 8}, "--copies-for .*: found images of the spl"),
        (images, {"eta": (0.5,)}, "--eta: found without"),
        (images, {"copies": 8, "eta": (0.5,)}, "--eta: found .*copies are weighed by --copies-eta"),
        (images, {"copies_eta": (1.0,)}, "--copies-eta: found without --copies"),
        (images, {"copies": 8, "copies_eta": (1.0, 1.0)}, "--copies-eta: .* each weight once"),
        (images, {"neighbours": 8, "eta": (1.0, 1.0)}, "--eta: .* expected each weight once"),
    ):
        how = Centralisation(**changes)
        with pytest.raises(UserError, match=message):
            score(ScoreSettings(run=run, images=table, device="cpu", centralisation=how), QUIET)


def test_a_set_of_other_test_images_is_refused(run, images, generated, tmp_path):
    table = read_images(images)
    splits = np.array(table.strings("split"))
    kept = np.flatnonzero((splits != "query") | (np.cumsum(splits == "query") > 4))
    fewer = tmp_path / "fewer.parquet"
    write_images(table.take(kept), fewer)
    for flag, how in (
        ("--centralise", Centralisation(centralise=generated)),
        ("--copies-for", Centralisation(copies_for=generated, copies=8)),
    ):
        message = rf"{flag} .*: found images of .*, which is in no split of this table"
        with pytest.raises(UserError, match=message):
            score(ScoreSettings(run=run, images=fewer, device="cpu", centralisation=how), QUIET)
        targets = tuple(f"{name}={images}" for name in ("one", "other"))
        settings = {"images": images, "targets": targets, "centralisation": how}
        with pytest.raises(UserError, match=f"{flag}: found with 2 --targets, expected at most"):
            score(ScoreSettings(run=run, device="cpu", **settings), QUIET)
