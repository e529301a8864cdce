"""Tables: what is written comes back, whole or not at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from manifests import io
from manifests.io import Images
from manifests.runtime.console import UserError
from manifests.schema import IMAGES, OPTIONAL_COLUMNS
from tests.helpers.poses import upright

coordinates = st.floats(-1000, 1000, width=32) | st.just(float("nan"))
poses = hnp.arrays(
    np.float32, st.tuples(st.integers(0, 7), st.just(18), st.just(2)), elements=coordinates
)


def table(image_ids: list[str], keypoints: pa.Array | None = None) -> pa.Table:
    rows = len(image_ids)
    columns = {
        "image_id": image_ids,
        "path": image_ids,
        "split": ["train"] * rows,
        "person_id": ["0002"] * rows,
        "camera_id": [1] * rows,
        "keypoints": pa.nulls(rows, IMAGES.field("keypoints").type)
        if keypoints is None
        else keypoints,
    }
    others = {f.name: [None] * rows for f in IMAGES if f.name not in columns}
    return pa.table({**columns, **others}, IMAGES)


@settings(max_examples=40, deadline=None)
@given(joints=poses, data=st.data())
def test_joints_come_back_from_a_file_bit_by_bit(joints, data, tmp_path_factory):
    rows = len(joints)
    annotated = np.array(data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows)), bool)
    ids = data.draw(st.permutations([f"{row}.jpg" for row in range(rows)]))
    root = tmp_path_factory.mktemp("joints")
    column = io.keypoint_column(joints, annotated)
    io.write_images(Images(table(list(ids), column), root, {}), root / "images.parquet")

    what = "an images table"
    table_read = io.read_table(root / "images.parquet", IMAGES, what, optional=OPTIONAL_COLUMNS)
    found = Images(table_read, root, {})

    order = np.argsort(ids)
    expected = np.where(annotated[:, None, None], joints, np.float32(np.nan))[order]
    assert found.strings("image_id") == sorted(ids)
    assert np.array_equal(found.keypoints(), expected, equal_nan=True)
    assert found.table["keypoints"].is_valid().to_pylist() == annotated[order].tolist()


def test_joints_of_a_slice_are_those_of_its_rows():
    joints = np.arange(5 * 36, dtype=np.float32).reshape(5, 18, 2)
    column = io.keypoint_column(joints, np.array([1, 0, 1, 1, 1], bool))
    part = table(list("abcde"), column).slice(1, 3)
    found = io.keypoint_array(part["keypoints"])
    assert np.isnan(found[0]).all()
    assert np.array_equal(found[1:], joints[2:4])


def test_a_joint_that_is_null_is_refused_in_one_sentence():
    pose = [[1.0, 2.0]] * 17 + [None]
    column = pa.chunked_array([pa.array([pose], IMAGES.field("keypoints").type)])
    with pytest.raises(UserError, match="found a joint that is null, expected NaN"):
        io.keypoint_array(column)


def test_the_footer_carries_root_and_provenance(tiny_images, tmp_path):
    path = tmp_path / "a" / "images.parquet"
    io.write_images(Images(tiny_images.table, tiny_images.root, {"seed": "0"}), path)
    metadata = pq.read_metadata(path).metadata
    assert metadata[b"seed"] == b"0"
    assert metadata[b"root"] == str(tiny_images.root).encode()
    assert io.read_images(path).provenance == {"seed": "0", "root": str(tiny_images.root)}


def test_a_table_and_its_root_may_be_named_by_text(tiny_images, tmp_path):
    io.write_images(tiny_images, tmp_path / "images.parquet")
    images = io.read_images(str(tmp_path / "images.parquet"), str(tmp_path))
    assert images.file(0) == tmp_path / images.table["path"][0].as_py()


def test_a_relative_root_starts_at_the_folder_of_the_table(tmp_path):
    (tmp_path / "pictures").mkdir()
    io.write_table(table(["a.jpg"]), tmp_path / "images.parquet", {"root": "pictures"})
    images = io.read_images(tmp_path / "images.parquet")
    assert images.file(0) == tmp_path / "pictures" / "a.jpg"


def test_the_same_table_gives_the_same_bytes(tiny_images, tmp_path):
    for name in ("a.parquet", "b.parquet"):
        io.write_images(tiny_images, tmp_path / name)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_row_groups_have_2048_rows(tmp_path):
    io.write_table(table([f"{i:04d}" for i in range(5000)]), tmp_path / "t.parquet", {})
    metadata = pq.read_metadata(tmp_path / "t.parquet")
    sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert sizes == [2048, 2048, 904]


def test_only_and_take_choose_rows(tiny_images):
    assert set(tiny_images.only("query").strings("split")) == {"query"}
    assert len(tiny_images.only("query")) == 2
    ids = tiny_images.strings("image_id")
    assert tiny_images.take(np.array([3, 1])).strings("image_id") == [ids[3], ids[1]]


def interrupted(tmp_path: Path, body: str) -> subprocess.CompletedProcess[str]:
    """Run a writer of ``tmp_path / 'file'`` in a process of its own."""
    script = f"""
import os, resource, signal
from pathlib import Path
from manifests.io import replacing, write_bytes
path = Path({str(tmp_path / "file")!r})
{body}
"""
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    ended = interrupted(
        tmp_path,
        """
with replacing(path) as file:
    file.write(b"n" * 1_000_000)
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
""",
    )
    assert ended.returncode == -9
    assert (tmp_path / "file").read_bytes() == b"old"
    left = [path.name for path in tmp_path.iterdir() if path.name != "file"]
    assert len(left) == 1
    assert left[0].startswith(".file.")
    assert left[0].endswith(".tmp")


def test_a_full_disk_leaves_the_old_file_and_names_the_place(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    ended = interrupted(
        tmp_path,
        """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
write_bytes(b"n" * 1_000_000, path)
""",
    )
    assert "UserError" in ended.stderr
    assert f"{tmp_path / 'file'}: cannot be written (File too large)" in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_an_error_while_writing_leaves_the_old_file_alone(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(TypeError), io.replacing(tmp_path / "file") as file:
        file.writelines([b"new", None])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be written"):
        io.write_bytes(b"x", tmp_path / "file" / "below")


def test_sha256_is_the_standard_one(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert io.sha256_file(tmp_path / "abc") == expected


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.parquet: found nothing of this name, exp"):
        io.read_images(tmp_path / "nothing.parquet")


def test_a_file_that_is_no_parquet_is_refused(tmp_path):
    (tmp_path / "t.parquet").write_text("name,split\n")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        io.read_images(tmp_path / "t.parquet")


def test_a_table_whose_columns_have_names_that_are_no_text_is_refused(tmp_path):
    pq.write_table(pa.table({"somename": [1]}), tmp_path / "t.parquet", store_schema=False)
    data = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(data.replace(b"somename", b"some\xf4ame"))
    with pytest.raises(UserError, match="not a readable Parquet file"):
        io.read_images(tmp_path / "t.parquet")


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_a_truncated_table_is_refused(tiny_images, tmp_path, keep):
    io.write_images(tiny_images, tmp_path / "t.parquet")
    data = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(data[: int(keep * len(data))])
    with pytest.raises(UserError, match="not a readable Parquet file"):
        io.read_images(tmp_path / "t.parquet")


def test_a_table_whose_middle_is_damaged_is_refused(tiny_images, tmp_path):
    io.write_images(tiny_images, tmp_path / "t.parquet")
    data = bytearray((tmp_path / "t.parquet").read_bytes())
    data[10:400] = bytes(390)
    (tmp_path / "t.parquet").write_bytes(data)
    with pytest.raises(UserError, match="not a readable Parquet file"):
        io.read_images(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns(["sha256"]), "column 'sha256' is missing"),
        (lambda t: t.append_column("age", pa.nulls(t.num_rows)), "column 'age' is not known"),
        (lambda t: t.select(list(reversed(t.column_names))), "another order"),
        (
            lambda t: t.set_column(5, "sequence", pa.array(["1"] * t.num_rows)),
            "column 'sequence' is string, not int32",
        ),
        (
            lambda t: t.set_column(5, "sequence", pa.array([2**31] * t.num_rows)),
            r"column 'sequence' does not fit into int32 \(Integer value 2147483648 not in range",
        ),
        (
            lambda t: t.set_column(4, "camera_id", pa.nulls(t.num_rows, pa.int16())),
            "column 'camera_id' has no value in 12 rows",
        ),
    ],
)
def test_a_table_of_another_schema_is_refused(tiny_images, tmp_path, change, message):
    io.write_table(change(tiny_images.table), tmp_path / "t.parquet", {"root": str(tmp_path)})
    with pytest.raises(UserError, match=message):
        io.read_images(tmp_path / "t.parquet")


def test_bytes_that_are_no_text_are_refused_with_their_column(tiny_images, tmp_path):
    no_text = pa.array([b"\xff"] * len(tiny_images), pa.binary()).view(pa.string())
    table = tiny_images.table.set_column(3, "person_id", no_text)
    io.write_table(table, tmp_path / "t.parquet", {"root": str(tmp_path)})
    for read in (io.read_images, lambda path: list(io.open_images(path).chunks(5))):
        with pytest.raises(UserError, match=r"'person_id' does not fit into string \(.*UTF8"):
            read(tmp_path / "t.parquet")


@pytest.mark.parametrize("dtype_backend", ["numpy_nullable", "pyarrow", None])
def test_a_table_that_pandas_saved_is_read_as_before(tiny_images, tmp_path, dtype_backend):
    io.write_images(tiny_images, tmp_path / "t.parquet")
    reading = {} if dtype_backend is None else {"dtype_backend": dtype_backend}
    frame = pd.read_parquet(tmp_path / "t.parquet", **reading)
    frame["split"] = frame["split"].astype("category")
    frame.to_parquet(tmp_path / "saved.parquet")
    chunks = io.open_images(tmp_path / "saved.parquet", tiny_images.root).chunks(5)
    whole = pa.concat_tables(chunk.table for chunk in chunks)
    ours = io.read_images(tmp_path / "t.parquet")
    for found in (
        io.read_images(tmp_path / "saved.parquet", ours.root),
        Images(whole, ours.root, {}),
    ):
        # NaN is no equal of NaN.
        assert np.array_equal(found.keypoints(), ours.keypoints(), equal_nan=True)
        assert found.table.drop_columns("keypoints").equals(ours.table.drop_columns("keypoints"))


def test_an_image_in_two_rows_is_refused(tmp_path):
    io.write_table(table(["b.jpg", "a.jpg", "b.jpg"]), tmp_path / "t.parquet", {"root": "."})
    with pytest.raises(UserError, match=r"image_id 'b\.jpg' is in more than one row"):
        io.read_images(tmp_path / "t.parquet")


@pytest.mark.parametrize("read", [io.read_images, io.open_images])
@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("split", "val", r"split not one of train, query, gallery: b\.jpg \(val\)$"),
        ("split", "Train", "split not one of train"),
        ("person_id", "-1", r"-1 \(junk\) or 0000 .* outside the gallery: b\.jpg \(train\)$"),
        ("person_id", "2", "which differ in zeros, a decimal point, case or spaces alone"),
    ],
)
def test_rows_that_would_be_in_no_split_or_nobody_are_refused(
    tmp_path, read, column, value, message
):
    rows = table(["a.jpg", "b.jpg"])
    values = pa.array([rows[column][0].as_py(), value])
    if column == "person_id" and value == "2":
        values = pa.array(["0002", "2"])
    rows = rows.set_column(rows.schema.get_field_index(column), IMAGES.field(column), values)
    io.write_images(Images(rows, tmp_path, {}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=message):
        read(tmp_path / "t.parquet")


def test_images_that_moved_are_found_by_root(tiny_images, tmp_path):
    io.write_images(tiny_images, tmp_path / "t.parquet")
    moved = tiny_images.root.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"tiny, which does not exist; name .* with --root"):
        io.read_images(tmp_path / "t.parquet")
    images = io.read_images(tmp_path / "t.parquet", moved)
    assert all(images.file(row).is_file() for row in range(len(images)))


def test_a_table_without_root_asks_for_one(tmp_path):
    io.write_table(table(["a.jpg"]), tmp_path / "t.parquet", {})
    with pytest.raises(UserError, match="--root"):
        io.read_images(tmp_path / "t.parquet")
    assert len(io.read_images(tmp_path / "t.parquet", tmp_path)) == 1


def test_a_row_without_a_path_has_no_file(tmp_path):
    rows = table(["a.jpg"]).set_column(1, IMAGES.field("path"), pa.nulls(1, pa.string()))
    with pytest.raises(UserError, match=r"row 'a\.jpg' of the images: no path"):
        Images(rows, tmp_path, {}).file(0)


@pytest.fixture
def images_of_five_chunks(tmp_path: Path) -> Images:
    ids = [f"{row:06d}.jpg" for row in range(4500)]
    images = Images(table(ids), tmp_path, {"layout": "table"})
    io.write_images(images, tmp_path / "images.parquet")
    return images


def test_chunks_of_a_table_are_its_rows_in_order(images_of_five_chunks: Images, tmp_path: Path):
    whole = io.read_images(tmp_path / "images.parquet")
    file = io.open_images(tmp_path / "images.parquet")
    chunks = list(file.chunks(1024))
    assert file.num_rows == len(whole) == 4500
    assert max(len(chunk) for chunk in chunks) == 1024
    assert pa.concat_tables([chunk.table for chunk in chunks]).equals(whole.table)
    assert all(chunk.root == whole.root for chunk in chunks)
    assert dict(file.provenance) == whole.provenance


def test_chunks_of_a_table_of_another_program_are_sorted(tmp_path: Path):
    rows = table(["c.jpg", "a.jpg", "b.jpg"]).replace_schema_metadata({"root": str(tmp_path)})
    pq.write_table(rows, tmp_path / "images.parquet")
    chunks = list(io.open_images(tmp_path / "images.parquet").chunks(2))
    assert [chunk.strings("image_id") for chunk in chunks] == [["a.jpg", "b.jpg"], ["c.jpg"]]


def test_a_table_that_names_an_image_twice_is_refused_in_chunks_too(tmp_path: Path):
    rows = table(["a.jpg", "a.jpg"]).replace_schema_metadata({"root": str(tmp_path)})
    pq.write_table(rows, tmp_path / "images.parquet")
    with pytest.raises(UserError, match=r"image_id 'a\.jpg' is in more than one row"):
        next(io.open_images(tmp_path / "images.parquet").chunks(2))


def test_a_table_damaged_behind_its_first_rows_is_refused_in_chunks(
    images_of_five_chunks: Images, tmp_path: Path
):
    path = tmp_path / "images.parquet"
    data = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(2).column(0).data_page_offset
    data[start : start + 200] = bytes(200)
    path.write_bytes(data)
    with pytest.raises(UserError, match="not a readable Parquet file; expected an images table"):
        list(io.open_images(path).chunks(512))


@pytest.mark.parametrize("sizes", [[4500], [1] * 3 + [2045] * 2 + [407], [2048, 0, 2048, 404], []])
def test_tables_written_one_after_the_other_are_written_like_one(
    images_of_five_chunks: Images, tmp_path: Path, sizes: list[int]
):
    rows = images_of_five_chunks.table[: sum(sizes)]
    ends = np.cumsum(sizes)
    tables = [rows[end - size : end] for size, end in zip(sizes, ends.tolist(), strict=True)]
    io.write_table(rows, tmp_path / "one", {"key": "value"})
    io.write_tables(tables, rows.schema, tmp_path / "many", {"key": "value"})
    assert (tmp_path / "many").read_bytes() == (tmp_path / "one").read_bytes()


def test_chunks_hold_one_row_group_in_memory(tmp_path: Path):
    ids = [f"{row:06d}.jpg" for row in range(60_000)]
    joints = 90 * np.random.default_rng(0).random((len(ids), 18, 2), np.float32)
    rows = table(ids, io.keypoint_column(upright(joints)))
    io.write_images(Images(rows, tmp_path, {}), tmp_path / "images.parquet")
    before, file = pa.total_allocated_bytes(), io.open_images(tmp_path / "images.parquet")
    held = [pa.total_allocated_bytes() - before for _ in file.chunks(512)]
    assert len(held) == -(-60_000 // 512)
    assert max(held) < 5 * rows.nbytes * io.ROW_GROUP_ROWS / len(ids)


@pytest.mark.parametrize("spelling", ["2", "0002.0", "2.0"])
def test_two_spellings_of_a_person_in_a_table_are_refused(tmp_path, spelling):
    rows = table(["a.jpg", "b.jpg"])
    people = pa.array(["0002", spelling])
    rows = rows.set_column(
        rows.schema.get_field_index("person_id"), IMAGES.field("person_id"), people
    )
    io.write_images(Images(rows, tmp_path, {}), tmp_path / "images.parquet")
    with pytest.raises(
        UserError, match="which differ in zeros, a decimal point, case or spaces alone"
    ):
        io.read_images(tmp_path / "images.parquet")
