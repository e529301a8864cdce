"""The folder of a run."""

import json
import shutil
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from augment.generation import manifest, shards
from augment.generation.job import generate
from augment.generation.run_config import (
    Content,
    Encoding,
    RunConfig,
    Sampling,
    begin,
    default_rows_per_shard,
    read_run_config,
    table_digest,
)
from augment.generation.verify import problems
from manifests import io
from manifests.runtime import storage
from manifests.runtime.console import Console, Exit, UserError
from manifests.schema import MANIFEST, SHARD
from manifests.synthetic import read_synthetic
from tests.helpers import trivial
from tests.helpers.generation import run

RUN = RunConfig(
    content=Content(
        generator="trivial",
        weights_sha256="0" * 64,
        images_sha256="1" * 64,
        poses_sha256="2" * 64,
        rows=20,
        per_id=5,
        seed=0,
        width=64,
        height=128,
        encoding=Encoding(),
        sampling=Sampling(
            device="cpu",
            precision="float32",
            batch_size=2,
            threads=1,
            cpu="cpu AVX2",
            torch="2.11.0",
        ),
    ),
    rows_per_shard=4,
)


def changed(run=RUN, **content):
    return run.model_copy(update={"content": run.content.model_copy(update=content)})


@pytest.fixture
def out(tmp_path):
    """A finished run of 20 rows in 5 shards."""
    people = trivial.write_people(tmp_path / "people")
    settings = trivial.job_settings(people, tmp_path / "out")
    generate(settings, Console(quiet=True), trivial.trivial_weights())
    return tmp_path / "out"


def test_golden_keys():
    assert RUN.content_key == "cefc1e2755c9ea26359677c423610e27820250c03fe12e60645668d3c2983fbc"
    assert RUN.layout_key == "f215db07e3f8590f6c99d486583c1a300cca33ce24546f128180830b2b607a59"


def test_the_keys_of_runs_made_before_compiling_was_a_setting_stay():
    before = changed(code_version=1)

    assert before.content_key == "ac3ab45bf06b08ba48f81b33b6e559ab2c46d0bd56ef19bc9a7701334786fa50"
    assert before.layout_key == "ab6419699b5192db9d7bbc452bea4a4ac74c5b2f213e5b464b4b99732147a990"


@pytest.mark.parametrize("field", sorted(set(Content.model_fields) - {"encoding", "sampling"}))
def test_every_field_of_the_contents_changes_both_keys(field):
    value = getattr(RUN.content, field)
    new = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else "x"

    other = changed(**{field: {"steps": 4} if value == {} else new})

    assert other.content_key != RUN.content_key
    assert other.layout_key != RUN.layout_key


@pytest.mark.parametrize("field", sorted(Sampling.model_fields))
def test_every_way_to_run_the_network_changes_the_content_key(field):
    value = getattr(RUN.content.sampling, field)
    new = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else "x"

    other = changed(sampling=RUN.content.sampling.model_copy(update={field: new}))

    assert other.content_key != RUN.content_key


def test_the_cut_into_shards_changes_the_layout_key_alone():
    other = RUN.model_copy(update={"rows_per_shard": 8})

    assert other.content_key == RUN.content_key
    assert other.layout_key != RUN.layout_key


def test_a_run_is_read_as_it_was_begun(tmp_path):
    begin(tmp_path / "out", RUN, {"seed": 0})

    assert read_run_config(tmp_path / "out") == RUN


def test_run_json_holds_keys_settings_and_versions(tmp_path):
    begin(tmp_path / "out", RUN, {"seed": 0})

    found = json.loads((tmp_path / "out/run.json").read_text())
    assert found["content_key"] == RUN.content_key
    assert found["layout_key"] == RUN.layout_key
    assert found["settings"] == {"seed": 0}
    assert {"python", "torch", "numpy", "pyarrow"} <= set(found["versions"])


def test_the_same_run_joins_and_leaves_run_json_alone(tmp_path):
    begin(tmp_path / "out", RUN, {"seed": 0})
    before = (tmp_path / "out/run.json").read_bytes()

    begin(tmp_path / "out", RUN, {"seed": 1})

    assert (tmp_path / "out/run.json").read_bytes() == before


def test_another_run_is_refused_with_the_fields_that_differ(tmp_path):
    begin(tmp_path / "out", RUN, {})

    other = changed(per_id=6, encoding=Encoding(quality=75))
    with pytest.raises(UserError, match="per_id") as refusal:
        begin(tmp_path / "out", other, {})

    for part in (
        "out: belongs to another run",
        "encoding.quality: 95, now 75",
        "per_id: 5, now 6",
    ):
        assert part in str(refusal.value)
    assert "seed" not in str(refusal.value)


def test_a_folder_with_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years")

    with pytest.raises(UserError, match=r"found 'thesis\.tex' and no run\.json"):
        begin(tmp_path, RUN, {})

    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "out").write_text("")

    with pytest.raises(UserError, match="out: found a file, expected a folder"):
        begin(tmp_path / "out", RUN, {})


@pytest.mark.parametrize("text", ["", "{", "[]", '{"config": {"seed": 1}}'])
def test_a_damaged_run_json_is_refused(tmp_path, text):
    (tmp_path / "run.json").write_text(text)

    with pytest.raises(UserError, match=r"run\.json"):
        read_run_config(tmp_path)


def test_shards_have_about_a_64th_of_the_rows_and_whole_batches():
    sizes = {
        (rows, batch): default_rows_per_shard(rows, batch)
        for rows, batch in [(4_096, 16), (7_510, 16), (100_000, 100), (10**8, 256), (10**8, 30_000)]
    }

    assert sizes == {
        (4_096, 16): 512,
        (7_510, 16): 512,
        (100_000, 100): 1_600,
        (10**8, 256): 20_480,
        (10**8, 30_000): 30_000,
    }


def test_a_small_job_has_eight_shards_or_shards_of_a_batch():
    sizes = {
        (rows, batch): default_rows_per_shard(rows, batch)
        for rows, batch in [(1, 16), (150, 16), (1_000, 16), (4_095, 16), (150, 256), (4_095, 256)]
    }

    assert sizes == {
        (1, 16): 16,
        (150, 16): 16,
        (1_000, 16): 112,
        (4_095, 16): 496,
        (150, 256): 256,
        (4_095, 256): 256,
    }
    assert -(-1_000 // 112) >= 8
    assert -(-4_095 // 496) >= 8


def test_the_digest_of_a_table_does_not_depend_on_row_order_or_root():
    images = trivial.made_up()
    rows, joints = images.table.to_pylist(), images.keypoints()

    assert table_digest(trivial.table_of(rows[::-1], joints[::-1], "/else")) == table_digest(images)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("image_id", "x.jpg"),
        ("person_id", "9999"),
        ("sha256", "f" * 64),
        ("camera_id", 6),
        ("sequence", None),
        ("frame", 77),
        ("width", 65),
        ("height", 129),
    ],
)
def test_the_digest_of_a_table_depends_on_what_its_rows_say(column, value):
    images = trivial.made_up()
    rows = images.table.to_pylist()
    rows[4][column] = value

    other = trivial.table_of(rows, images.keypoints(), ".")

    assert table_digest(other) != table_digest(images)


def test_the_manifest_is_the_shards_without_their_images(out):
    manifest = read_synthetic(out)

    rows = []
    for shard in range(5):
        for place, row in enumerate(pq.read_table(shards.shard_file(out, shard)).to_pylist()):
            image = row.pop("image")
            rows.append({**row, "shard": f"part-{shard:06d}.parquet", "shard_row": place})
            (data,) = manifest.read_bytes([len(rows) - 1])
            assert data == image["bytes"]
    assert manifest.table.schema.equals(MANIFEST)
    assert manifest.table.to_pylist() == rows


def test_the_mark_of_success_says_what_the_run_holds(out):
    run = read_run_config(out)

    assert json.loads((out / "_SUCCESS").read_text()) == {
        "content_key": run.content_key,
        "layout_key": run.layout_key,
        "rows": 20,
        "shards": 5,
        "manifest_sha256": io.sha256_file(out / "manifest.parquet"),
    }


def test_finalising_again_changes_nothing(out):
    before = trivial.files_of(out)
    card = (out / "README.md").read_text()

    manifest.finalise(out, read_run_config(out), card)

    assert trivial.files_of(out) == before


def test_a_run_with_a_missing_shard_is_not_finalised(out):
    shards.withdraw(out)
    (out / "data/part-000001.parquet").unlink()

    assert manifest.finalise(out, read_run_config(out), "") is None
    assert not (out / "_SUCCESS").exists()


def test_rows_that_stand_twice_are_refused(out):
    run = read_run_config(out)
    table = pq.read_table(shards.shard_file(out, 1))
    shards.publish(out, run, 2, table.replace_schema_metadata(None), "cpu")

    with pytest.raises(UserError, match=r"part-000002\.parquet: rows stand twice or out of order"):
        manifest.finalise(out, run, "")


def test_rows_that_stand_twice_in_one_shard_are_refused(out):
    run = read_run_config(out)
    table = pq.read_table(shards.shard_file(out, 1)).replace_schema_metadata(None)
    shards.publish(out, run, 1, table.take([0, 1, 1, 2]), "cpu")

    with pytest.raises(UserError, match=r"part-000001\.parquet: rows stand twice or out of order"):
        manifest.finalise(out, run, "")


def test_a_run_on_two_kinds_of_devices_says_so(out):
    run = read_run_config(out)
    table = pq.read_table(shards.shard_file(out, 1)).replace_schema_metadata(None)
    shards.publish(out, run, 1, table, "A")
    for shard in (0, 2, 3, 4):
        rows = pq.read_table(shards.shard_file(out, shard)).replace_schema_metadata(None)
        shards.publish(out, run, shard, rows, "B")

    manifest.finalise(out, run, "made on {devices}")

    assert (out / "README.md").read_text().startswith("made on 4 rows on A, 16 rows on B (mixed,")


def test_a_writer_whose_file_was_tidied_away_accepts_the_published_shard(out, monkeypatch):
    run = read_run_config(out)
    table = pq.read_table(shards.shard_file(out, 1)).replace_schema_metadata(None)
    before = trivial.files_of(out)
    write = io.pq.write_table

    def tidied(rows, file, **options):
        write(rows, file, **options)
        shards.tidy(out)

    monkeypatch.setattr(io.pq, "write_table", tidied)

    shards.publish(out, run, 1, table, "cpu")

    assert trivial.files_of(out) == before


def test_a_finaliser_whose_file_was_tidied_away_accepts_the_finished_run(out, monkeypatch):
    run = read_run_config(out)
    before = trivial.files_of(out)
    monkeypatch.setattr(storage.os, "fsync", lambda handle: shards.tidy(out))

    success = manifest.finalise(out, run, "")

    assert success == shards.read_success(out, run)
    assert trivial.files_of(out) == before


def test_names_with_a_dot_or_an_underscore_are_not_data(out):
    before = read_synthetic(out).table
    (out / "data/_notes").write_text("")
    (out / "data/.part-000009.parquet").write_text("")
    (out / "_SUCCESS").unlink()

    manifest.finalise(out, read_run_config(out), "")

    assert read_synthetic(out).table.equals(before)


def test_a_mark_of_another_run_is_refused(out):
    other = shards.Success(content_key="0", layout_key="0", rows=1, shards=1, manifest_sha256="0")
    (out / "_SUCCESS").write_text(other.to_json())

    with pytest.raises(UserError, match="_SUCCESS: the mark of another run"):
        shards.read_success(out, read_run_config(out))


def long_shard(out, run):
    """Publish one shard of 5,000 rows, of which every hundredth failed."""
    rows = pq.read_table(out / "data/part-000000.parquet").take([0] * 5_000)
    k = pa.array(range(5_000), pa.int32())
    errors = pa.array(["broken" if number % 100 == 0 else None for number in range(5_000)])
    for name, column in (("k", k), ("error", errors)):
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, rows.schema.field(name), column)
    shards.publish(out, run, 0, rows.cast(SHARD), "cpu")


def test_a_long_shard_is_one_row_group_of_the_manifest(out, tmp_path):
    run = changed(rows=5_000).model_copy(update={"rows_per_shard": 5_000})
    (tmp_path / "long/data").mkdir(parents=True)
    shutil.copy(out / "data/part-000000.parquet", tmp_path / "long/data")
    long_shard(tmp_path / "long", run)

    manifest.finalise(tmp_path / "long", run, "{errors}")

    metadata = pq.read_metadata(tmp_path / "long/manifest.parquet")
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [5_000]
    assert (tmp_path / "long/README.md").read_text() == "50"


def test_how_many_rows_failed_is_told_by_the_footer_alone(out):
    long_shard(out, changed(rows=5_000))
    file = out / "data/part-000000.parquet"
    data = file.read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    # Three row groups whose pages nobody can read any more.
    file.write_bytes(data[:4] + bytes(footer - 4) + data[footer:])

    assert shards.num_errors(file) == 50


def test_a_shard_whose_footer_is_not_text_is_damaged(out):
    run = read_run_config(out)
    path = shards.shard_file(out, 1)
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"\xff": b"x"}), path)
    assert shards.shard_state(out, run, 1) == "damaged"


def test_another_table_has_no_errors_to_count(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"t\.parquet: found no column 'error'"):
        shards.num_errors(tmp_path / "t.parquet")


def test_finalising_opens_no_shard_while_one_is_missing(out):
    run = read_run_config(out)
    (out / "data/part-000003.parquet").unlink()
    shutil.copy(out / "data/part-000001.parquet", out / "data/part-000002.parquet")

    assert manifest.finalise(out, run, "") is None

    (out / "data/part-000003.parquet").write_bytes(b"")
    with pytest.raises(UserError, match=r"part-000002\.parquet: a shard of another run"):
        manifest.finalise(out, run, "")


def test_a_manifest_in_other_row_groups_is_as_sound(out):
    table = pq.read_table(out / "manifest.parquet")
    pq.write_table(table, out / "manifest.parquet", row_group_size=3)
    success = json.loads((out / "_SUCCESS").read_text())
    success["manifest_sha256"] = io.sha256_file(out / "manifest.parquet")
    (out / "_SUCCESS").write_text(json.dumps(success))

    assert list(problems(out, read_run_config(out))) == []


def test_a_manifest_that_ends_early_differs_from_the_shards(out):
    table = pq.read_table(out / "manifest.parquet")
    pq.write_table(table.slice(0, 18), out / "manifest.parquet")

    found = list(problems(out, read_run_config(out)))

    assert "its SHA-256 is not the one in _SUCCESS" in found[0]
    assert found[1:] == [f"{out}/data/part-000004.parquet: row group 0 differs from the manifest"]


def test_a_manifest_that_is_none_is_refused(out):
    (out / "manifest.parquet").write_bytes(b"nothing")

    with pytest.raises(UserError, match=r"manifest\.parquet: damaged"):
        list(problems(out, read_run_config(out)))


@pytest.mark.parametrize("damage", ["cut off", "rows missing"])
def test_a_run_with_a_damaged_shard_is_not_finalised_and_nothing_is_left(people, tmp_path, damage):
    folder = tmp_path / "out"
    assert run(people, folder) == Exit.DONE
    for name in ("manifest.parquet", "README.md", "_SUCCESS"):
        (folder / name).unlink()
    path = shards.shard_file(folder, 3)
    if damage == "cut off":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        few = pq.read_table(path).slice(0, 3).replace_schema_metadata(None).cast(SHARD)
        shards.publish(folder, read_run_config(folder), 3, few, "cpu")

    assert manifest.finalise(folder, read_run_config(folder), "") is None

    assert sorted(path.name for path in folder.iterdir()) == ["data", "run.json"]


def test_a_shard_damaged_behind_its_footer_is_named_with_what_mends_it(people, tmp_path):
    folder = tmp_path / "out"
    assert run(people, folder) == Exit.DONE
    before = trivial.files_of(folder)
    for name in ("manifest.parquet", "README.md", "_SUCCESS"):
        (folder / name).unlink()
    path = shards.shard_file(folder, 3)
    data = path.read_bytes()
    path.write_bytes(data[:4] + bytes(400) + data[404:])
    with pytest.raises(
        UserError, match=r"3\.parquet: damaged .* remove it and run .* again$"
    ) as met:
        run(people, folder)
    assert "\n" not in str(met.value)
    path.unlink()
    assert run(people, folder) == Exit.DONE
    assert trivial.files_of(folder) == before


def test_a_run_opens_every_shard_once_after_it_was_written(people, tmp_path, monkeypatch):
    opened = []
    parquet = io.parquet
    monkeypatch.setattr(io, "parquet", lambda path: opened.append(path.name) or parquet(path))

    assert run(people, tmp_path / "out") == Exit.DONE

    written = sorted(path.name for path in (tmp_path / "out/data").iterdir())
    # A look for each before, which finds none; rows for the manifest after.
    assert len(written) == 5
    tables = {"images.parquet": 1, "manifest.parquet": 1}
    assert Counter(opened) == {**dict.fromkeys(written, 2), **tables}


def test_a_worker_that_does_not_finish_the_run_opens_no_shard_that_it_wrote(
    people, tmp_path, monkeypatch
):
    opened = []
    parquet = io.parquet
    monkeypatch.setattr(io, "parquet", lambda path: opened.append(path.name) or parquet(path))

    assert run(people, tmp_path / "out", worker="1/2") == Exit.DONE

    # The looks before it begins.
    assert opened == ["images.parquet", "part-000001.parquet", "part-000003.parquet"]
