"""``augment verify``."""

import pyarrow as pa
import pyarrow.parquet as pq

from augment.generation import shards
from augment.generation.run_config import read_run_config
from augment.generation.verify import VerifySettings, verify
from manifests.runtime.console import Exit
from manifests.schema import SHARD
from tests.helpers.generation import QUIET, run


def problems_of(out, capsys):
    code = verify(VerifySettings(out=out), QUIET)
    lines = capsys.readouterr().out.splitlines()
    assert code == (Exit.REFUSED if lines else Exit.DONE)
    return [line.removeprefix(f"{out}/") for line in lines]


def test_a_sound_run_is_verified(out, capsys):
    assert problems_of(out, capsys) == []


def test_an_image_that_changed_is_found(out, capsys):
    path = shards.shard_file(out, 2)
    rows = pq.read_table(path).to_pylist()
    rows[1]["image"]["bytes"] += b"\0"
    table = pq.read_table(path).from_pylist(rows, SHARD)
    shards.publish(out, read_run_config(out), 2, table, "cpu")

    (problem,) = problems_of(out, capsys)

    assert problem == (
        f"data/part-000002.parquet: the image of row '{rows[1]['image_id']}' does not have its "
        "SHA-256"
    )


def test_a_row_that_changed_is_found(out, capsys):
    path = shards.shard_file(out, 2)
    rows = pq.read_table(path).to_pylist()
    rows[1]["person_id"] = "0009"
    table = pq.read_table(path).from_pylist(rows, SHARD)
    shards.publish(out, read_run_config(out), 2, table, "cpu")

    assert problems_of(out, capsys) == [
        "data/part-000002.parquet: row group 0 differs from the manifest"
    ]


def test_bytes_that_are_no_text_are_found(out, capsys):
    path = shards.shard_file(out, 2)
    table = pq.read_table(path)
    index = table.schema.get_field_index("error")
    no_text = pa.array([b"\xff"] * len(table), pa.binary()).view(pa.string())
    changed = table.set_column(index, table.schema.field("error"), no_text)
    shards.publish(out, read_run_config(out), 2, changed.replace_schema_metadata(None), "cpu")

    (problem,) = problems_of(out, capsys)

    assert problem.startswith("data/part-000002.parquet: damaged (")


def test_a_flipped_bit_is_found(out, capsys):
    path = shards.shard_file(out, 2)
    data = bytearray(path.read_bytes())
    data[data.index(b"\xff\xd8\xff") + 900] ^= 1
    path.write_bytes(data)

    (problem,) = problems_of(out, capsys)

    assert problem.startswith("data/part-000002.parquet: ")


def test_a_manifest_that_changed_is_found(out, capsys):
    table = pq.read_table(out / "manifest.parquet")
    pq.write_table(table, out / "manifest.parquet")

    assert problems_of(out, capsys) == ["manifest.parquet: its SHA-256 is not the one in _SUCCESS"]


def test_missing_and_unexpected_files_are_found(out, capsys):
    (out / "data/part-000001.parquet").rename(out / "data/part-000077.parquet")

    assert problems_of(out, capsys) == [
        "data/part-000077.parquet: no shard of this run",
        "data/part-000001.parquet: missing; the same 'augment generate' command makes it again",
    ]


def test_an_unfinished_run_is_not_verified(people, tmp_path, capsys):
    run(people, tmp_path / "out", worker="0/2")

    assert len(problems_of(tmp_path / "out", capsys)) == 3
