"""How near images lie to their people's others, and the column that says it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from manifests.centrality import centrality_facts, centrality_of
from manifests.io import open_images, read_images, sha256_file, write_images
from manifests.pixels import encode_jpeg
from manifests.runtime.console import Console, Exit, UserError
from manifests.schema import CENTRALITY
from reid.cli import PROGRAM
from reid.evaluation.centrality import CentralitySettings, centrality
from reid.training.train import TrainSettings, train
from tests.helpers.reid_people import picture, write_people, write_synthetic

QUIET = Console(quiet=True)
ODD = "0001_c1_train_1.jpg"
"""An image that is called one of person 0001 and shows another."""


def trained_on(images: Path, out: Path, **changes: object) -> Path:
    settings = TrainSettings(
        images=images, out=out, steps=60, batch_size=16, height=64, width=32, device="cpu",
        learning_rate=5e-3, score=False,
    )  # fmt: skip
    train(settings.model_copy(update=changes), QUIET)
    return out


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Path:
    return write_people(tmp_path_factory.mktemp("people"), frames=3)


@pytest.fixture(scope="module")
def trained(people, tmp_path_factory) -> Path:
    return trained_on(people, tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture
def settings(trained, tmp_path) -> CentralitySettings:
    images = write_people(tmp_path, frames=3)
    (tmp_path / "images" / ODD).write_bytes(encode_jpeg(picture(4, 1, 70)))
    return CentralitySettings(run=trained, images=images, out=tmp_path / "deeper/central.parquet")


def test_an_image_that_shows_somebody_else_is_the_least_central_and_the_rest_of_the_table_stays(
    settings, capsys
):
    paths = {"--images": settings.images, "--out": settings.out}
    flags = [str(part) for flag in paths.items() for part in flag]
    assert PROGRAM.run(["centrality", str(settings.run), *flags]) is Exit.DONE
    assert "centrality of 36 train images" in capsys.readouterr().err
    before, after = read_images(settings.images), read_images(settings.out)
    assert after.table.drop_columns([CENTRALITY]).equals(before.table.drop_columns([CENTRALITY]))
    assert after.root.resolve() == before.root.resolve()
    found = dict(zip(after.strings("image_id"), centrality_of(after).tolist(), strict=True))
    of_person = {name: value for name, value in found.items() if name.startswith("0001_")}
    assert min(of_person, key=of_person.__getitem__) == ODD
    is_train = np.array(after.strings("split")) == "train"
    assert np.isfinite(centrality_of(after)[is_train]).all()
    assert np.isnan(centrality_of(after)[~is_train]).all()
    facts = centrality_facts(after.provenance)
    assert facts is not None
    assert facts.weights_sha256 == sha256_file(settings.run / "last.safetensors")
    assert (facts.real_fraction, facts.data_seed) == (1.0, 0)


def test_an_image_is_compared_with_the_others_of_its_person_and_not_with_itself(settings):
    images = read_images(settings.images)
    names = images.strings("image_id")
    keep = [row for row, name in enumerate(names) if not name.startswith("0002_c")]
    only = names.index("0002_c1_train_0.jpg")
    write_images(images.take(np.sort([*keep, only])), settings.images)
    centrality(settings, QUIET)
    found = read_images(settings.out)
    value = centrality_of(found)[found.strings("image_id").index("0002_c1_train_0.jpg")]
    assert np.isnan(value)


def test_images_outside_the_fraction_have_no_say(settings):
    centrality(settings.model_copy(update={"real_fraction": 0.5, "data_seed": 3}), QUIET)
    found = read_images(settings.out)
    assert np.isfinite(centrality_of(found)).sum() == 18
    facts = centrality_facts(found.provenance)
    assert facts is not None
    assert (facts.real_fraction, facts.data_seed) == (0.5, 3)


def test_a_table_without_the_column_is_read_as_one_where_it_is_not_known(settings):
    assert CENTRALITY not in pq.read_schema(settings.images).names
    assert np.isnan(centrality_of(read_images(settings.images))).all()
    centrality(settings, QUIET)
    assert CENTRALITY in pq.read_schema(settings.out).names
    chunks = list(open_images(settings.out).chunks(7))
    assert sum(np.isfinite(centrality_of(chunk)).sum() for chunk in chunks) == 36


@pytest.mark.parametrize("text", ["", "[]", '{"real_fraction": 1}', "null", '{"data_seed": []}'])
def test_a_footer_that_says_something_else_is_refused(text):
    with pytest.raises(UserError, match="the table's footer: found centrality '"):
        centrality_facts({CENTRALITY: text})


def test_networks_that_do_not_know_these_people_are_refused(settings, tmp_path):
    images = read_images(settings.images)
    index = images.table.schema.get_field_index("person_id")
    unknown = ["1" + name for name in images.strings("person_id")]
    field = images.table.schema.field("person_id")
    table = images.table.set_column(index, field, [unknown])
    write_images(replace(images, table=table), tmp_path / "others.parquet")
    others = settings.model_copy(update={"images": tmp_path / "others.parquet"})
    with pytest.raises(UserError, match="run was trained on 6 other people than the 6 of the im"):
        centrality(others, QUIET)
    synthetic = write_synthetic(tmp_path / "synthetic")
    run = trained_on(settings.images, tmp_path / "both", synthetic=synthetic, steps=2)
    with pytest.raises(UserError, match="both was trained on synthetic images"):
        centrality(settings.model_copy(update={"run": run}), QUIET)


def test_people_of_one_image_each_are_refused(settings):
    images = read_images(settings.images)
    splits, names = images.strings("split"), images.strings("image_id")
    keep = [
        row
        for row, (split, name) in enumerate(zip(splits, names, strict=True))
        if split != "train" or name.endswith("_c1_train_0.jpg")
    ]
    write_images(images.take(np.array(keep)), settings.images)
    with pytest.raises(UserError, match="found one image each of 6 train people"):
        centrality(settings, QUIET)
