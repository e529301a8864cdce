"""Generated images: the manifest of a finished run and the bytes in its shards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests import io, pixels
from manifests.runtime.console import UserError
from manifests.synthetic import Synthetic, read_synthetic
from tests.helpers.reid_people import write_synthetic

ORDINARY = pa.default_memory_pool()
COUNTED = pa.proxy_memory_pool(ORDINARY)
"""For a single test, and never freed: Arrow's threads may hold memory of it after the test."""


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.integers(0, 8), max_size=20))
def test_bytes_come_in_the_order_asked_for(rows, made):
    synthetic, images = made
    assert list(synthetic.read_bytes(np.array(rows, int))) == [images[row] for row in rows]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Synthetic, list[bytes]]:
    out = tmp_path_factory.mktemp("out")
    images = [f"image {row}".encode() for row in range(9)]
    return stored(out, images, 4), images


def stored(out: Path, images: list[bytes | None], rows_per_shard: int) -> Synthetic:
    """Write shards that hold these bytes and the least of a manifest."""
    rows_of_shards = []
    for start in range(0, len(images), rows_per_shard):
        part = images[start : start + rows_per_shard]
        name = f"part-{start // rows_per_shard:06d}.parquet"
        rows = pa.table({"image": [{"bytes": image, "path": "x"} for image in part]})
        io.write_table(rows, out / "data" / name, {})
        rows_of_shards += [
            {"image_id": f"{start + i}", "shard": name, "shard_row": i} for i in range(len(part))
        ]
    return Synthetic(pa.Table.from_pylist(rows_of_shards), out)


def test_reading_all_shards_holds_few_of_them_in_memory(tmp_path):
    size, rows_per_shard, shards = 2000, 4096, 6
    images = [row.to_bytes(4, "big") * (size // 4) for row in range(rows_per_shard * shards)]
    synthetic = stored(tmp_path, images, rows_per_shard)
    pa.set_memory_pool(COUNTED)
    try:
        for row, data in enumerate(synthetic.read_bytes(np.arange(len(images)))):
            assert data == images[row]
    finally:
        pa.set_memory_pool(ORDINARY)
    assert COUNTED.max_memory() < 2 * rows_per_shard * size


def test_a_finished_out_is_read(finish, synthetic_rows, tmp_path):
    rows = synthetic_rows(3, pixels.encode_jpeg)
    synthetic = finish(tmp_path / "out", rows)
    assert len(synthetic) == 9
    assert read_synthetic(str(tmp_path / "out")).root == tmp_path / "out"
    assert synthetic.table["seed"].to_pylist()[:2] == [2**64 - 1, 2**64 - 2]
    assert list(synthetic.read_bytes(np.arange(9))) == [row["image"]["bytes"] for row in rows]


def test_a_failed_row_stays_in_the_table_and_has_no_bytes(finish, synthetic_rows, tmp_path):
    rows = synthetic_rows(2, pixels.encode_jpeg)
    rows[3] |= {"image": None, "error": "cut off"}
    synthetic = finish(tmp_path / "out", rows)
    assert len(synthetic) == 6
    assert len(synthetic.without_errors()) == 5
    assert len(list(synthetic.without_errors().read_bytes(np.arange(5)))) == 5
    with pytest.raises(UserError, match="row '0007_aug00001' has no image"):
        list(synthetic.read_bytes(np.arange(6)))


def test_an_unfinished_out_is_refused(finish, synthetic_rows, tmp_path):
    finish(tmp_path / "out", synthetic_rows(1, pixels.encode_jpeg))
    (tmp_path / "out" / "_SUCCESS").unlink()
    with pytest.raises(UserError, match="has no _SUCCESS"):
        read_synthetic(tmp_path / "out")


def test_a_missing_out_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        read_synthetic(tmp_path / "out")


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(b"PAR1 no more")])
def test_a_missing_or_damaged_shard_is_named(made_fresh, harm: Callable[[Path], object]):
    harm(made_fresh.root / "data" / "part-000001.parquet")
    with pytest.raises(UserError, match=r"part-000001\.parquet: missing or damaged shard"):
        list(made_fresh.read_bytes(np.arange(9)))


@pytest.mark.parametrize("kind", [pa.string(), pa.struct([("bytes", pa.string())]), None])
def test_a_table_without_images_is_no_shard(made_fresh, kind):
    path = made_fresh.root / "data" / "part-000001.parquet"
    table = pq.read_table(path).drop_columns("image")
    if kind is not None:
        table = table.append_column("image", pa.nulls(len(table), kind))
    pq.write_table(table, path)
    with pytest.raises(UserError, match=r"part-000001\.parquet: found no column 'image'"):
        list(made_fresh.read_bytes(np.arange(9)))


def test_a_shard_with_fewer_rows_than_the_manifest_says_is_refused(made_fresh):
    data = made_fresh.root / "data"
    (data / "part-000002.parquet").replace(data / "part-000001.parquet")
    with pytest.raises(UserError, match="has 1 rows, the manifest names more"):
        list(made_fresh.read_bytes(np.arange(8)))


@pytest.fixture
def made_fresh(tmp_path) -> Synthetic:
    return stored(tmp_path, [b"image"] * 9, 4)


def test_a_manifest_from_before_there_were_backgrounds_is_read(tmp_path):
    out = write_synthetic(tmp_path / "synthetic")
    path = out / "manifest.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["background_id"]), path)
    assert set(read_synthetic(out).strings("background_id")) == {None}
