"""People who do not exist: who is drawn, in what, and who knows of it."""

import csv

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from augment.generation import export, preview, synthetic_page, verify
from augment.generation.choices import Choices, NewPeople
from augment.generation.job import generate
from manifests import pixels, rules
from manifests.io import read_images
from manifests.runtime.console import Console, Exit, UserError
from manifests.schema import NEW_PERSON
from manifests.synthetic import read_synthetic
from reid.data.dataset import load_training_set, select
from tests.helpers import trivial

QUIET = Console(quiet=True)


class Draws(trivial.Trivial):
    """The upper half says who, the lower half is drawn for every image."""

    draws_people = True

    def new_people(self, who, random, target_pose):
        image = 2 * random.uniform(3, 1, 1).expand(-1, -1, 128, 64).clone() - 1
        image[:, :, :64] = 2 * who.uniform(3, 1, 1) - 1
        assert len(target_pose.joints) == len(image)
        return image


@pytest.fixture
def people(tmp_path):
    return trivial.write_people(tmp_path / "people", num_people=4)


def run(people, out, network=Draws, new=3, first=1, **changes):
    who = NewPeople(new_people=new, first_person=first)
    changes = {"image_format": "png", "per_id": 4, "people": who, **changes}
    settings = trivial.job_settings(people, out, **changes)
    return generate(settings, QUIET, trivial.trivial_weights(network=network))


def rows_of(out):
    shards = sorted((out / "data").glob("*.parquet"))
    return [row for shard in shards for row in pq.read_table(shard).to_pylist()]


def test_a_person_looks_one_way_before_many_backgrounds(people, tmp_path):
    assert run(people, tmp_path / "out") == Exit.DONE
    rows = rows_of(tmp_path / "out")
    train = set(read_images(people).only("train").strings("image_id"))
    assert [row["image_id"] for row in rows] == [
        f"n{person:06d}_aug{k:05d}.png" for person in (1, 2, 3) for k in range(4)
    ]
    assert {(row["source_id"], row["background_id"], row["camera_id"]) for row in rows} == {
        (None, None, -1)
    }
    assert {row["pose_id"] for row in rows} <= train
    images = np.stack([pixels.decode(row["image"]["bytes"], row["image_id"]) for row in rows])
    who, behind = images[:, 0, 0], images[:, -1, 0]
    assert len(np.unique(who, axis=0)) == 3
    assert all(len(np.unique(who[start : start + 4], axis=0)) == 1 for start in (0, 4, 8))
    assert len(np.unique(behind, axis=0)) == len(rows)


def test_a_person_is_the_same_in_every_run_that_draws_him(people, tmp_path):
    run(people, tmp_path / "three")
    run(people, tmp_path / "more", new=2, first=2, per_id=6, batch_size=3, rows_per_shard=3)
    of = {row["image_id"]: row["sha256"] for row in rows_of(tmp_path / "three")}
    others = {row["image_id"]: row["sha256"] for row in rows_of(tmp_path / "more")}
    shared = of.keys() & others.keys()
    assert len(shared) == 8
    assert all(of[name] == others[name] for name in shared)
    run(people, tmp_path / "other", seed=1)
    assert {row["sha256"] for row in rows_of(tmp_path / "other")}.isdisjoint(of.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": trivial.Trivial}, "--new-people 3: found weights of Trivial"),
        ({"first": 999_998}, "goes beyond 999,999"),
        ({"choices": Choices(source="nearest")}, "--source nearest: chooses by images"),
        ({"choices": Choices(pose_choice="balanced")}, "--pose-choice balanced: chooses"),
        ({"compile": "yes"}, "--compile yes: found --new-people"),
        ({"per_id": 13}, "found 12 target poses for every person, expected at least 13"),
        ({"new": 0, "first": 7}, "--first-person 7: found no --new-people"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_anything_is_written(
    changes, message, people, tmp_path
):
    with pytest.raises(UserError, match=message):
        run(people, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_labels_of_the_table_are_not_given_to_new_people(tmp_path, monkeypatch):
    people = trivial.write_people(tmp_path / "people", num_people=4)
    monkeypatch.setattr("augment.generation.choices.NEW_PERSON", "{:04d}")
    with pytest.raises(UserError, match="'0002' is a person of the images table"):
        run(people, tmp_path / "out")


def test_other_commands_know_such_rows(people, tmp_path):
    out = tmp_path / "out"
    run(people, out, image_format="jpg")
    images, synthetic = read_images(people), read_synthetic(out)
    assert rules.check_synthetic(images, synthetic) == 12
    assert verify.verify(verify.VerifySettings(out=out), QUIET) == Exit.DONE
    assert "people who do not exist" in (out / "README.md").read_text()

    page, sheet = tmp_path / "page.html", tmp_path / "sheet.png"
    choices = synthetic_page.Choices(embed=True, num_people=2, max_images=12, seed=0)
    synthetic_page.write_synthetic_page(page, synthetic, images.only("train"), choices, QUIET)
    assert "n000001" in page.read_text()
    preview.preview(preview.PreviewSettings(run=out, out=sheet), QUIET)
    assert sheet.stat().st_size > 0

    for to in ("market1501", "folder", "webdataset"):
        settings = export.ExportSettings(run=out, to=to, out=tmp_path / to)
        assert export.export(settings, QUIET) == Exit.DONE
    with (tmp_path / "market1501/names.csv").open() as file:
        names = {row["image_id"]: row["name"] for row in csv.DictReader(file)}
    assert names["n000002_aug00003.jpg"].startswith("0002_c1s1_")
    assert len(set(names.values())) == 12


def test_new_people_are_further_people_to_train_on(people, tmp_path):
    out = tmp_path / "out"
    run(people, out)
    images, synthetic = read_images(people), read_synthetic(out)
    chosen = select(images, synthetic, real_fraction=1.0, num_validation_people=0, data_seed=0)
    data = load_training_set(chosen, synthetic, (32, 64))
    real = set(images.only("train").strings("person_id"))
    assert set(data.people) == real | {NEW_PERSON.format(number) for number in (1, 2, 3)}
    assert chosen.leakage["synthetic"]["num_from_outside"] == 0


def test_rows_without_a_source_show_nobody_of_the_table(people, tmp_path):
    out = tmp_path / "out"
    run(people, out)
    images, synthetic = read_images(people), read_synthetic(out)
    somebody = images.take(np.array([0])).table.set_column(
        images.table.schema.get_field_index("person_id"), "person_id", [["n000002"]]
    )
    taken = type(images)(
        pa.concat_tables([images.table, somebody.cast(images.table.schema)]), images.root, {}
    )
    with pytest.raises(UserError, match="no source_id, but a person_id of real images"):
        rules.check_new_people(taken, synthetic)


def test_a_preview_of_people_who_do_not_exist_has_no_column_of_sources(people, tmp_path):
    run(people, tmp_path / "out")
    settings = preview.PreviewSettings(run=tmp_path / "out", out=tmp_path / "sheet.png", rows=4)
    assert preview.preview(settings, QUIET) == Exit.DONE
    with Image.open(tmp_path / "sheet.png") as file:
        assert file.width == 2 * 256 + 6 + 12


def test_new_people_are_exported_from_a_stated_number(people, tmp_path):
    out = tmp_path / "out"
    run(people, out, image_format="jpg")

    def exported(name, **changes):
        settings = export.ExportSettings(
            run=out, to="market1501", out=tmp_path / name, images=people, **changes
        )
        export.export(settings, QUIET)
        return {path.name for path in (tmp_path / name / "bounding_box_train").iterdir()}

    names = exported("numbered", new_people_from=1502)
    assert set(read_images(people).strings("image_id")) <= names
    assert not (tmp_path / "numbered/names.csv").exists()
    assert {name for name in names if "aug" in name} == {
        f"{person}_c1s1_000000_00_aug{k:05d}.jpg" for person in (1502, 1503, 1504) for k in range(4)
    }
    for first, said in ((4, "'0004' is a real person"), (9998, "3 people from 9998")):
        with pytest.raises(UserError, match=said):
            exported(f"from-{first}", new_people_from=first)
        assert not (tmp_path / f"from-{first}").exists()
