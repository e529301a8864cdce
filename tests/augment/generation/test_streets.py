"""Runs of a system that needs masks and streets: where they come from and what the rows say."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from augment.checkpoints import store
from augment.generation.export import ExportSettings, export
from augment.generation.resolve import Weights, open_weights
from augment.generation.run_config import read_run_config
from augment.generation.verify import VerifySettings, verify
from augment.generators.patn import Patn
from augment.generators.recompose import Recompose
from manifests import io, pixels
from manifests.masks import encode_mask, mask_of
from manifests.runtime.console import Console, Exit, UserError
from manifests.scenes import alpha_of, compose, street
from manifests.synthetic import read_synthetic
from tests.helpers import trivial
from tests.helpers.generation import QUIET, run

SIZE = (64, 128)
WEIGHTS = Weights(
    "recompose",
    "0" * 64,
    (128, 64),
    lambda device: Recompose().to(device),
    system=Recompose,
    needs=Recompose.needs,
)
PNG = {"weights": WEIGHTS, "image_format": "png"}


@pytest.fixture
def people(tmp_path):
    return trivial.write_people(tmp_path / "people", masked=True)


def edited(table, change):
    """Change columns of a table on disk; ``change`` gets them as lists."""
    images = io.read_images(table)
    columns = images.table.to_pydict()
    change(columns)
    for name in ("mask", "split"):
        field = images.table.schema.field(name)
        place = images.table.schema.get_field_index(name)
        changed = images.table.set_column(place, field, pa.array(columns[name], field.type))
        images = replace(images, table=changed)
    io.write_images(images, table)
    return table


def test_the_weights_that_come_with_the_package_need_nothing_else():
    weights = open_weights("recompose")

    assert weights.generator == "recompose"
    assert weights.system is Recompose
    assert weights.image_size == (128, 64)


@pytest.mark.parametrize("warp", ["none", "limbs"])
@pytest.mark.parametrize("background", ["none", "target"])
def test_what_a_network_needs_by_its_settings_reaches_it(people, tmp_path, background, warp):
    config = Patn.Config(
        base_width=4,
        num_blocks=1,
        discriminator_width=4,
        features="none",
        weight_perceptual=0,
        background=background,
        warp=warp,
    )
    header = store.Header(generator="patn", config=config.model_dump(mode="json"), facts={})
    path = tmp_path / "patn.safetensors"
    store.save_weights(Patn(config).sampling_state(), path, header)
    weights = open_weights(str(path))

    assert run(people, tmp_path / "out", weights) == Exit.DONE

    made = read_synthetic(tmp_path / "out").strings("background_id")
    assert (None in made) == (background == "none")


def test_a_row_is_its_sources_person_before_the_street_of_another_image(people, tmp_path):
    assert run(people, tmp_path / "out", **PNG) == Exit.DONE

    images = io.read_images(people)
    row_of = {name: row for row, name in enumerate(images.strings("image_id"))}
    cameras, joints = images.table["camera_id"].to_pylist(), images.keypoints()
    made = read_synthetic(tmp_path / "out")
    rows = made.table.to_pylist()
    assert len({row["background_id"] for row in rows}) > 6
    for row, data in zip(rows, made.read_bytes(np.arange(len(made))), strict=True):
        source, behind = row_of[row["source_id"]], row_of[row["background_id"]]
        assert row["background_id"] != row["source_id"]
        assert row["pose_id"] == row["source_id"]
        assert np.array_equal(np.array(row["keypoints"], np.float32), joints[source])
        assert row["camera_id"] == cameras[behind]
        assert row["sequence"] is None
        assert row["frame"] is None
        person, scene = (pixels.read(images.file(number)) for number in (source, behind))
        cut = street(scene, mask_of(images, behind, SIZE))
        expected = compose(person, alpha_of(mask_of(images, source, SIZE)), cut)
        assert abs(pixels.decode(data, "").astype(int) - expected).max() <= 1


def test_a_run_is_sound_and_again_the_same(people, tmp_path):
    for name in ("one", "two"):
        run(people, tmp_path / name, **PNG)

    assert trivial.files_of(tmp_path / "one") == trivial.files_of(tmp_path / "two")
    assert verify(VerifySettings(out=tmp_path / "one"), QUIET) == Exit.DONE


def test_who_has_no_mask_is_left_out_and_counted(people, tmp_path, capsys):
    def forget(columns):
        columns["mask"] = [
            None if person == "0003" else mask
            for person, mask in zip(columns["person_id"], columns["mask"], strict=True)
        ]

    run(edited(people, forget), tmp_path / "out", console=Console(), **PNG)

    made = read_synthetic(tmp_path / "out")
    assert set(made.strings("person_id")) == {"0002", "0004", "0005"}
    assert not {name[:4] for name in made.strings("background_id")} & {"0003"}
    assert "1 people are left out: no image of theirs has a mask" in capsys.readouterr().err
    assert "| people left out for want of a mask | 1 |" in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (None, "found no train image with a mask"),
        (np.ones((128, 64), bool), "mask that leaves a street beside the person"),
        (np.zeros((128, 64), bool), "mask that leaves a street beside the person"),
    ],
)
def test_a_table_without_any_street_is_refused(mask, message, people, tmp_path):
    def replace_all(columns):
        stored = None if mask is None else encode_mask(mask)
        columns["mask"] = [stored] * len(columns["mask"])

    with pytest.raises(UserError, match=message):
        run(edited(people, replace_all), tmp_path / "out", **PNG)
    assert not (tmp_path / "out").exists()


def test_no_street_comes_from_query_or_gallery(people, tmp_path):
    def move(columns):
        columns["split"] = [
            {"0004": "query", "0005": "gallery"}.get(person, "train")
            for person in columns["person_id"]
        ]

    run(edited(people, move), tmp_path / "out", per_id=3, **PNG)

    seen = {name[:4] for name in read_synthetic(tmp_path / "out").strings("background_id")}
    assert seen == {"0002", "0003"}


def test_a_street_that_cannot_be_read_is_an_error_of_its_rows(people, tmp_path):
    lost = people.parent / "0004_c2s1_000001_01.jpg"
    lost.unlink()

    assert run(people, tmp_path / "out", **PNG) == Exit.ROW_ERRORS

    rows = read_synthetic(tmp_path / "out").table.to_pylist()
    failed = {row["image_id"] for row in rows if row["error"] is not None}
    owing = {
        row["image_id"] for row in rows if lost.name in (row["source_id"], row["background_id"])
    }
    assert failed == owing
    assert 0 < len(failed) < len(rows)


def test_other_masks_make_another_run(people, tmp_path):
    run(people, tmp_path / "out", **PNG)
    before = read_run_config(tmp_path / "out").content

    def shift(columns):
        columns["mask"][0] = encode_mask(trivial.box(7))

    with pytest.raises(UserError, match=r"content\.masks_sha256: '[0-9a-f]{8}\.\.\.', now '"):
        run(edited(people, shift), tmp_path / "out", **PNG)
    assert before.target_images_sha256 is not None


def test_systems_without_such_needs_have_no_such_fields(people, tmp_path):
    run(people, tmp_path / "out")

    content = read_run_config(tmp_path / "out").content.model_dump(mode="json")
    assert not {"masks_sha256", "target_images_sha256"} & set(content)
    made = read_synthetic(tmp_path / "out")
    assert set(made.strings("background_id")) == {None}


def test_an_export_names_the_camera_that_an_image_looks_like(people, tmp_path):
    run(people, tmp_path / "out", weights=WEIGHTS)
    settings = ExportSettings(run=tmp_path / "out", to="market1501", out=tmp_path / "market")

    export(settings, QUIET)

    made = read_synthetic(tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "market/bounding_box_train").iterdir())
    expected = [
        f"{person}_c{camera}s1_{frame}_01_aug{k:05d}.jpg"
        for person, camera, frame, k in zip(
            made.strings("person_id"),
            made.table["camera_id"].to_pylist(),
            (source[10:16] for source in made.strings("source_id")),
            made.table["k"].to_pylist(),
            strict=True,
        )
    ]
    assert names == sorted(expected)


def test_a_manifest_from_before_there_were_streets_is_read(people, tmp_path):
    run(people, tmp_path / "out")
    path = tmp_path / "out" / "manifest.parquet"
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["background_id"]), path)

    made = read_synthetic(tmp_path / "out")

    assert made.table.schema.names == table.schema.names
    assert set(made.strings("background_id")) == {None}
