from __future__ import annotations

import json
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests.io import read_images, write_table
from manifests.pixels import encode_jpeg
from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.storage import storage_path
from manifests.schema import MANIFEST, SHARD
from manifests.synthetic import read_synthetic
from reid.cli import PROGRAM
from reid.experiments.screen import ScreenSettings, factors_of, screen
from reid.training.train import TrainSettings, train
from tests.helpers.reid_people import picture, write_people, write_synthetic

QUIET = Console(quiet=True)
LOST, SHOWN = "0001_g0.jpg", "0004"
"""An image that was made as person 0001 and shows another."""


def screener_settings(images: Path, out: Path, **changes: object) -> TrainSettings:
    settings = TrainSettings(
        images=images, out=out, steps=60, batch_size=16, height=64, width=32, device="cpu",
        learning_rate=5e-3, score=False,
    )  # fmt: skip
    return settings.model_copy(update=changes)


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Path:
    return write_people(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def trained(people, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    train(screener_settings(people, out), QUIET)
    return out


@pytest.fixture
def synthetic(tmp_path) -> Path:
    """Return generated images of which one lost its person."""
    out = write_synthetic(tmp_path / "synthetic")
    shard = out / "data" / "part-000000.parquet"
    rows = pq.read_table(shard).to_pylist()
    lost = next(row for row in rows if row["image_id"] == LOST)
    lost["image"]["bytes"] = encode_jpeg(picture(int(SHOWN), 1, 70))
    write_table(pa.Table.from_pylist(rows, SHARD), shard, {})
    return out


@pytest.fixture
def settings(people, trained, synthetic, tmp_path) -> ScreenSettings:
    return ScreenSettings(
        synthetic=synthetic, run=trained, images=people, out=tmp_path / "screened", drop_beyond=1
    )


def facts(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def arguments(settings: ScreenSettings, *further: str) -> list[str]:
    """Return the command line of some settings."""
    flags = {"--run": settings.run, "--images": settings.images, "--out": settings.out}
    named = [str(part) for flag in flags.items() for part in flag]
    return ["screen", str(settings.synthetic), *named, *further]


def test_an_image_that_shows_somebody_else_is_dropped_and_the_others_are_trained_on(
    settings, tmp_path, capsys
):
    assert PROGRAM.run(arguments(settings, "--drop-beyond", "1")) is Exit.DONE
    assert "of 12 images 11 kept as they are, 0 weighed down, 1 dropped" in capsys.readouterr().err
    rows = pq.read_table(settings.out / "screen.parquet").to_pylist()
    seen = {row["image_id"]: row for row in rows}
    assert seen[LOST]["nearest_person"] == SHOWN
    assert (seen[LOST]["weight"], seen["0001_g1.jpg"]["weight"]) == (None, 1.0)
    screened = read_synthetic(settings.out)
    error = dict(zip(screened.strings("image_id"), screened.strings("error"), strict=True))
    place = f"number {seen[LOST]['rank']} of the nearest"
    assert error.pop(LOST) == f"screened out: its own person is {place}"
    assert set(error.values()) == {None}
    both = {"synthetic": settings.out, "steps": 2}
    train(screener_settings(settings.images, tmp_path / "both", **both), QUIET)
    run = facts(tmp_path / "both")
    assert run["num_synthetic"] == 11
    summary = run["leakage"]["synthetic"]["summary"]
    assert summary.endswith("; the network that screened them on 24 real images (fraction 1.0)")


def test_images_that_look_like_the_person_cut_out_of_their_street_are_counted(settings, capsys):
    images = read_images(settings.images)
    path = settings.synthetic / "manifest.parquet"
    rows = pq.read_table(path).to_pylist()
    of_person = {}
    for name, person in zip(images.strings("image_id"), images.strings("person_id"), strict=True):
        of_person.setdefault(person, name)
    others = [row for row in rows if row["person_id"] != SHOWN]
    for row in others[1:4]:
        row["background_id"] = of_person[SHOWN]
    lost = next(row for row in rows if row["image_id"] == LOST)
    lost["background_id"] = of_person[SHOWN]
    own = next(row for row in rows if row["person_id"] == SHOWN)
    own["background_id"] = of_person[SHOWN]
    write_table(pa.Table.from_pylist(rows, MANIFEST), path, {})
    cut_out = sum(row["background_id"] is not None for row in others)

    screen(settings, Console())

    said = f"{1 / cut_out:.1%} of {cut_out} images before a street are nearest to the person who"
    assert said in capsys.readouterr().err


def test_the_screened_manifest_points_to_the_shards_and_both_folders_may_move(settings, tmp_path):
    screen(settings, QUIET)
    before = read_synthetic(settings.synthetic)
    expected = list(before.read_bytes(np.arange(len(before))))
    assert not (settings.out / "data").exists()
    (tmp_path / "elsewhere").mkdir()
    for folder in (settings.synthetic, settings.out):
        shutil.move(folder, tmp_path / "elsewhere" / folder.name)
    after = read_synthetic(tmp_path / "elsewhere" / settings.out.name)
    assert list(after.read_bytes(np.arange(len(after)))) == expected


def test_a_screened_folder_is_screened_again_by_another_rule(settings, tmp_path):
    screen(settings, QUIET)
    again = settings.model_copy(
        update={"synthetic": settings.out, "out": tmp_path / "deeper" / "again"}
    )
    screen(again, QUIET)
    assert pq.read_metadata(again.out / "screen.parquet").num_rows == 11
    twice = read_synthetic(again.out)
    assert len(list(twice.read_bytes(np.arange(len(twice))))) == 12


def test_the_generator_of_screened_images_is_still_known(settings):
    known = {"train_split": "train", "train_sha256": "0"}
    text = json.dumps({"config": {}, "settings": {"weights_facts": known}})
    (settings.synthetic / "run.json").write_text(text)
    screen(settings, QUIET)
    assert facts(settings.out)["settings"]["weights_facts"] == known


def test_ranks_become_weights(settings):
    lighter = settings.model_copy(update={"weigh_beyond": 2, "drop_beyond": 4, "weight": 0.25})
    assert factors_of(np.arange(1, 7), lighter).tolist() == [1, 1, 0.25, 0.25, 0, 0]
    assert factors_of(np.arange(1, 4), settings).tolist() == [1, 0, 0]


def test_weights_in_the_manifest_are_multiplied_and_rows_of_nobody_stay(settings):
    path = settings.synthetic / "manifest.parquet"
    rows = pq.read_table(path).to_pylist()
    for row in rows:
        row["weight"] = 0.5 if row["image_id"] == LOST else None
    rows[-1] |= {"person_id": "-1", "weight": 0.75}
    write_table(pa.Table.from_pylist(rows, MANIFEST), path, {})
    screen(settings.model_copy(update={"drop_beyond": 6, "weigh_beyond": 1}), QUIET)
    table = read_synthetic(settings.out).table
    weight = dict(zip(table["image_id"].to_pylist(), table["weight"].to_pylist(), strict=True))
    assert (weight[LOST], weight["0001_g1.jpg"], weight[rows[-1]["image_id"]]) == (0.25, 1.0, 0.75)
    assert pq.read_metadata(settings.out / "screen.parquet").num_rows == 11


def test_the_same_command_is_already_done_and_another_one_is_refused(settings):
    screen(settings, QUIET)
    before = {file.name: file.stat().st_mtime_ns for file in settings.out.iterdir()}
    assert screen(settings, QUIET) is Exit.DONE
    assert {file.name: file.stat().st_mtime_ns for file in settings.out.iterdir()} == before
    with pytest.raises(UserError, match=r"belongs to another run \(drop_beyond: 1, now 2\)"):
        screen(settings.model_copy(update={"drop_beyond": 2}), QUIET)
    # A mark of somebody else's is no sign of ours, and nothing is written beside his files.
    (settings.out / "run.json").unlink()
    with pytest.raises(UserError, match=r"found '_SUCCESS' and no run.json; expected an empty"):
        screen(settings, QUIET)


def test_a_run_that_knows_too_much_is_refused(settings, people, tmp_path):
    both = screener_settings(people, tmp_path / "both", synthetic=settings.synthetic, steps=1)
    train(both, QUIET)
    with pytest.raises(UserError, match="both was trained on synthetic images, which it would"):
        screen(settings.model_copy(update={"run": both.out}), QUIET)
    # A table whose test people the run was trained on.
    other = write_people(tmp_path / "other", num_train=4)
    with pytest.raises(UserError, match="2 people are in train and in query"):
        screen(settings.model_copy(update={"images": other}), QUIET)
    assert not settings.out.exists()


def test_what_cannot_be_screened_is_refused_in_words(settings):
    path = settings.synthetic / "manifest.parquet"
    rows = pq.read_table(path).to_pylist()
    only = [row for row in rows if row["image_id"] == LOST]
    write_table(pa.Table.from_pylist(only, MANIFEST), path, {})
    with pytest.raises(UserError, match="all 1 images would be dropped; expected a run that"):
        screen(settings, QUIET)
    assert not settings.out.exists()
    write_table(pa.Table.from_pylist([only[0] | {"person_id": "-1"}], MANIFEST), path, {})
    with pytest.raises(UserError, match="has no image of a person"):
        screen(settings, QUIET)
    with pytest.raises(
        UserError,
        match=r"^--weigh-beyond 10 is not below --drop-beyond 10; expected fewer, for images",
    ):
        PROGRAM.run(arguments(settings, "--weigh-beyond", "10"))
    with pytest.raises(UserError, match=r"^--weight 0\.2: found no --weigh-beyond"):
        PROGRAM.run(arguments(settings, "--weight", "0.2"))
    unfinished = settings.run.parent / "unfinished"
    unfinished.mkdir(exist_ok=True)
    shutil.copy(settings.run / "run.json", unfinished)
    with pytest.raises(UserError, match=r"unfinished/last\.safetensors does not exist"):
        screen(settings.model_copy(update={"run": unfinished}), QUIET)


def test_images_in_a_store_are_screened_where_they_lie(settings):
    fsspec.filesystem("memory").put(str(settings.synthetic), "/runs/", recursive=True)
    url = f"memory://runs/{settings.synthetic.name}"
    far = settings.model_copy(update={"synthetic": storage_path(url)})
    screen(far, QUIET)
    screened = read_synthetic(far.out)
    assert set(screened.strings("shard")) == {f"{url}/data/part-000000.parquet"}
    assert len(list(screened.read_bytes(np.arange(len(screened))))) == 12


def test_people_of_one_image_have_a_centroid_and_nothing_to_leave_out(settings, tmp_path, capsys):
    alone = write_people(tmp_path / "alone", frames=1, cameras=1)
    screen(settings.model_copy(update={"images": alone, "drop_beyond": 6}), Console())
    assert pq.read_metadata(settings.out / "screen.parquet").num_rows == 12
    said = capsys.readouterr().err
    assert "synthetic images: " in said
    assert "left out" not in said


def test_new_people_stay_and_are_held_against_real_ones(
    people, trained, synthetic, tmp_path, capsys
):
    # The images of 0001 are now somebody's who does not exist, and looks like 0001.
    for path in (synthetic / "manifest.parquet", synthetic / "data/part-000000.parquet"):
        table = pq.read_table(path)
        rows = [
            row | {"person_id": "n000001", "source_id": None} if row["person_id"] == "0001" else row
            for row in table.to_pylist()
        ]
        write_table(pa.Table.from_pylist(rows, table.schema), path, {})
    out = tmp_path / "screened"
    settings = ScreenSettings(
        synthetic=synthetic, run=trained, images=people, out=out, device="cpu", drop_beyond=1
    )
    assert screen(settings, Console()) == Exit.DONE
    assert "1 new people: 100.0% are nearer to a train person" in capsys.readouterr().err
    facts = json.loads((out / "run.json").read_text())["new_people"]
    assert (facts["people"], facts["images"], facts["share_memorised"]) == (1, 2, 1.0)
    looked_at = set(pq.read_table(out / "screen.parquet")["person_id"].to_pylist())
    assert looked_at == {f"{person:04d}" for person in range(2, 7)}
    kept = read_synthetic(out).without_errors()
    assert kept.strings("person_id").count("n000001") == 2
