"""Reading and writing tables: the images table, Parquet files with their provenance, digests."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from jaxtyping import Float, Int

from manifests.columns import conformed, difference
from manifests.keypoint_check import KeypointCheck
from manifests.keypoints import NUM_JOINTS
from manifests.person_ids import check_spellings
from manifests.runtime.console import UserError
from manifests.runtime.files import check_file, is_endless
from manifests.runtime.object_store import ObjectStorePath
from manifests.runtime.storage import StoragePath, replacing
from manifests.schema import DISTRACTOR, IMAGES, JUNK, OPTIONAL_COLUMNS, SPLITS

# pyarrow makes these functions at import time, where type checkers do not see them.
pc: Any = pyarrow.compute

ROW_GROUP_ROWS: Final = 2048
_NUM_SHOWN: Final = 3
"""Rows that break a rule and are named; the others are counted."""
ROOT_KEY: Final = "root"

_ANY_NAME = ("utf-8", "surrogateescape")
"""How text of a footer is encoded: names of folders need not be UTF-8."""
_CHECKED_ROWS = 65_536
_KEYPOINTS_LEAF = "keypoints.list.element.list.element"
_AN_IMAGES_TABLE = "an images table (made by 'augment index')"


@dataclass(frozen=True, slots=True)
class Images:
    """An images table in memory.

    ``read_images`` gives the rows sorted by ``image_id``; ``take`` keeps the order of its argument.
    """

    table: pa.Table
    root: Path
    """The folder that relative paths start from."""
    provenance: Mapping[str, str]
    """The footer's keys and values: settings, versions, digests of what the table was made from."""

    def __len__(self) -> int:
        return self.table.num_rows

    def only(self, split: str) -> Images:
        """Return the rows of one split."""
        # Filtering by an expression crashed the process on keypoints (pyarrow 26.0.1).
        mask = np.asarray(pc.equal(self.table["split"], split))
        return self if mask.all() else self.take(np.flatnonzero(mask))

    def take(self, rows: Int[np.ndarray, " count"]) -> Images:
        """Return the rows at these positions, in this order."""
        return replace(self, table=self.table.take(pa.array(rows, pa.int64())))

    def strings(self, column: str) -> list[str]:
        """Return a text column as a list."""
        return self.table[column].to_pylist()

    def keypoints(self) -> Float[np.ndarray, "rows 18 2"]:
        """Return the joints of every row as float32; a row without annotation is all NaN.

        Convention: (x, y), pixels of the stored image, pixel centres at integers, origin top-left.
        """
        return keypoint_array(self.table["keypoints"])

    def file(self, row: int) -> Path:
        """Return the file of a row's image.

        Raises:
            UserError: If the row names no file.
        """
        path = self.table["path"][row].as_py()
        if path is None:
            raise UserError(f"row '{self.table['image_id'][row].as_py()}' of the images: no path")
        return self.root / path


def keypoint_array(column: pa.ChunkedArray) -> Float[np.ndarray, "rows 18 2"]:
    """Return a ``keypoints`` column as float32; null rows become NaN.

    Convention: (x, y), pixels of the stored image, pixel centres at integers, origin top-left.

    Raises:
        UserError: If a joint of a row that is annotated is null.
    """
    joints = np.full((len(column), NUM_JOINTS, 2), np.nan, np.float32)
    annotated = np.asarray(column.is_valid())
    # ``flatten`` leaves null rows out and respects slices; ``values`` does neither.
    flat = column.combine_chunks().flatten().flatten().to_numpy(zero_copy_only=False)
    if len(flat) != 2 * NUM_JOINTS * annotated.sum():
        raise UserError("column 'keypoints': found a joint that is null, expected NaN, NaN for it")
    joints[annotated] = flat.reshape(-1, NUM_JOINTS, 2)
    return joints


def keypoint_column(
    joints: Float[np.ndarray, "rows 18 2"], annotated: np.ndarray | None = None
) -> pa.Array:
    """Return joints as a ``keypoints`` column; rows where ``annotated`` is false become null.

    Convention: (x, y), pixels of the stored image, pixel centres at integers, origin top-left.
    """
    flat = pa.array(np.ascontiguousarray(joints, np.float32).reshape(-1))
    pairs = pa.FixedSizeListArray.from_arrays(flat, 2)
    mask = None if annotated is None else pa.array(~np.asarray(annotated, bool))
    return pa.FixedSizeListArray.from_arrays(pairs, NUM_JOINTS, mask=mask)


def read_images(path: Path | str, root: Path | str | None = None) -> Images:
    """Read an images table.

    Args:
        path: A Parquet file that ``augment index`` wrote.
        root: The folder of the images; without it the footer's. A relative root in the footer
            starts at the table's own folder.

    Raises:
        UserError: If the file is missing, no Parquet file, of another schema, names an image
            twice or a person in two spellings, has a row in no split or nobody outside the
            gallery, its keypoints cannot be pixels of its images, or the folder of the images does
            not exist.
    """
    path = Path(path)
    table = read_table(path, IMAGES, _AN_IMAGES_TABLE, optional=OPTIONAL_COLUMNS)
    table = _sorted(table)
    ids = table["image_id"]
    if pc.any(pc.equal(ids[1:], ids[:-1])).as_py():
        raise UserError(f"{path}: image_id '{_first_twice(ids)}' is in more than one row")
    check_spellings(pc.unique(table["person_id"]).to_pylist(), str(path))
    check_splits(table, str(path))
    _check_joints([table], path)
    provenance = _footer(table.schema)
    folder = _existing_root(path, None if root is None else Path(root), provenance)
    return Images(table.replace_schema_metadata(None), folder, provenance)


def first_of(rows: Sequence[str], count: int) -> str:
    """Return the first of some rows by name, and how many more there are.

    >>> first_of(["a", "b", "c", "d"], 4)
    'a, b, c and 1 more'
    """
    more = f" and {count - _NUM_SHOWN:,} more" if count > _NUM_SHOWN else ""
    return f"{', '.join(rows[:_NUM_SHOWN])}{more}"


def check_splits(table: pa.Table, where: str) -> None:
    """Check that every row is in a split, and nobody outside the gallery.

    Raises:
        UserError: If a split is unknown, or a row of junk or a distractor is in another than the
            gallery; names ``where``, the first such rows and how many there are.
    """
    for rule, broken in (
        (
            f"split not one of {', '.join(SPLITS)}",
            pc.invert(pc.is_in(table["split"], value_set=pa.array(SPLITS))),
        ),
        (
            f"person_id {JUNK} (junk) or {DISTRACTOR} (distractor) outside the gallery",
            pc.and_(
                pc.not_equal(table["split"], "gallery"),
                pc.is_in(table["person_id"], value_set=pa.array([JUNK, DISTRACTOR])),
            ),
        ),
    ):
        rows = np.flatnonzero(np.asarray(broken))
        if len(rows):
            first = table.select(["image_id", "split"]).take(rows[:_NUM_SHOWN]).to_pylist()
            shown = [f"{row['image_id']} ({row['split']})" for row in first]
            raise UserError(f"{where}: {rule}: {first_of(shown, len(rows))}")


@dataclass(frozen=True, slots=True)
class ImagesFile:
    """An images table on the disk, of which a row group at a time is in memory."""

    path: Path
    root: Path
    """The folder that relative paths start from."""
    provenance: Mapping[str, str]
    """The footer's keys and values."""
    num_rows: int
    is_sorted: bool
    """Whether the rows lie sorted by ``image_id`` and name each image once."""

    def chunks(self, num_rows: int) -> Iterator[Images]:
        """Give the rows sorted by ``image_id``, at most ``num_rows`` at a time.

        A table that is not sorted (none that our commands wrote) is read whole.

        Raises:
            UserError: If the file is damaged or names an image twice.
        """
        if not self.is_sorted:
            images = read_images(self.path, self.root)
            for start in range(0, len(images), num_rows):
                yield replace(images, table=images.table.slice(start, num_rows))
            return
        with _opened(self.path, IMAGES, _AN_IMAGES_TABLE, OPTIONAL_COLUMNS) as file:
            for group in _row_groups(file, IMAGES.names, self.path):
                table = group.replace_schema_metadata(None)
                for start in range(0, len(table), num_rows):
                    yield Images(table.slice(start, num_rows), self.root, self.provenance)


def open_images(path: Path, root: Path | None = None) -> ImagesFile:
    """Return an images table that is read a few rows at a time.

    Args:
        path: As ``read_images`` takes it.
        root: As ``read_images`` takes it.

    Raises:
        UserError: If the file is missing, no Parquet file, of another schema, names a person in two
            spellings, has a row in no split or nobody outside the gallery, its keypoints cannot be
            pixels of its images, or the folder of the images does not exist.
    """
    with _opened(path, IMAGES, _AN_IMAGES_TABLE, OPTIONAL_COLUMNS) as file:
        provenance = _footer(file.schema_arrow)
        last, is_sorted = pa.array([], pa.string()), True
        people: set[str] = set()
        for group in _row_groups(file, ["image_id", "person_id", "split"], path):
            check_splits(group, str(path))
            people.update(pc.unique(group["person_id"]).to_pylist())
            ids = pa.concat_arrays([last, *group["image_id"].chunks])
            is_sorted &= pc.all(pc.less(ids[:-1], ids[1:]), min_count=0).as_py()
            last = ids[-1:]
        check_spellings(sorted(people), str(path))
        _check_joints(_row_groups(file, ["width", "height", "keypoints"], path), path)
        num_rows = file.metadata.num_rows
    return ImagesFile(path, _existing_root(path, root, provenance), provenance, num_rows, is_sorted)


def _check_joints(tables: Iterable[pa.Table], path: Path) -> None:
    """Check that the keypoints of tables can be what they are taken for, a block at a time."""
    check = KeypointCheck()
    for table in tables:
        for first in range(0, len(table), _CHECKED_ROWS):
            block = table.slice(first, _CHECKED_ROWS)
            check.add(keypoint_array(block["keypoints"]), image_sizes(block))
    check.finish(str(path))


def image_sizes(table: pa.Table) -> Float[np.ndarray, "rows 2"]:
    """Return (width, height) of every row in pixels; NaN where it is not known."""
    columns = [table[name].cast(pa.float64()).to_numpy() for name in ("width", "height")]
    return np.stack(columns, axis=1)


def _row_groups(file: pq.ParquetFile, names: Sequence[str], path: Path) -> Iterator[pa.Table]:
    """Give these columns of an images table; those that it does not have are null."""
    fields = [IMAGES.field(name) for name in names]
    present = [name for name in names if name in file.schema_arrow.names]
    # ``iter_batches`` holds ever more memory: 200 bytes a row (pyarrow 26.0.1).
    for number in range(file.num_row_groups):
        yield conformed(file.read_row_group(number, present), fields, str(path))


def _existing_root(path: Path, root: Path | None, provenance: Mapping[str, str]) -> Path:
    if root is None:
        if ROOT_KEY not in provenance:
            raise UserError(f"{path}: does not say where its images lie; name it with --root")
        root = path.parent / provenance[ROOT_KEY]
        where = f"the images of {path}"
    else:
        where = "--root"
    if not root.is_dir():
        raise UserError(
            f"{where}: expected in folder {root}, which does not exist; "
            "name the folder where they lie now with --root"
        )
    return root


def write_images(images: Images, path: Path) -> None:
    """Write an images table, sorted by ``image_id``, with its root and provenance."""
    table = images.table
    for group in OPTIONAL_COLUMNS:
        if all(table[name].null_count == len(table) for name in group):
            table = table.drop_columns(list(group))
    write_table(_sorted(table), path, {**images.provenance, ROOT_KEY: str(images.root)})


def write_table(table: pa.Table, path: StoragePath, provenance: Mapping[str, str]) -> None:
    """Write a table whole or not at all, in row groups of 2,048 rows.

    Args:
        table: Any table; the bytes of a column ``image`` are stored as they are.
        path: Its folder is made if it is missing.
        provenance: Key-value metadata for the footer, added to the schema's own.

    Raises:
        UserError: If the file cannot be written.
    """
    with_footer = _with_footer(table.schema, provenance)
    with replacing(path) as file:
        rows = table.replace_schema_metadata(with_footer.metadata)
        pq.write_table(rows, file, row_group_size=ROW_GROUP_ROWS, **_options(with_footer))


def write_tables(
    tables: Iterable[pa.Table], schema: pa.Schema, path: StoragePath, provenance: Mapping[str, str]
) -> None:
    """Write tables one after the other, as ``write_table`` writes them all at once.

    A row group of them is in memory at a time; where one table ends and the next begins changes no
    byte.

    Args:
        tables: The rows, in order.
        schema: Of each of them.
        path: Its folder is made if it is missing.
        provenance: Key-value metadata for the footer, added to the schema's own.

    Raises:
        UserError: If the file cannot be written.
    """
    with_footer = _with_footer(schema, provenance)
    with (
        replacing(path) as file,
        pq.ParquetWriter(file, with_footer, **_options(schema)) as writer,
    ):
        for table in _whole_row_groups(tables, schema):
            rows = table.replace_schema_metadata(with_footer.metadata)
            writer.write_table(rows, ROW_GROUP_ROWS)


def _with_footer(schema: pa.Schema, provenance: Mapping[str, str]) -> pa.Schema:
    return schema.with_metadata({**(schema.metadata or {}), **_encoded(provenance)})


def _options(schema: pa.Schema) -> dict[str, Any]:
    """Return how columns are stored."""
    names = [field.name for field in schema if field.name != "image"]
    leaves = [_KEYPOINTS_LEAF if name == "keypoints" else name for name in names]
    # Dictionaries, statistics and compression of encoded images cost time and bytes.
    return {
        "use_dictionary": leaves,
        "write_statistics": leaves,
        "compression": dict.fromkeys(leaves, "zstd"),
    }


def write_bytes(data: bytes, path: StoragePath) -> None:
    """Write a file whole or not at all.

    Raises:
        UserError: If the file cannot be written.
    """
    with replacing(path) as file:
        file.write(data)


@contextmanager
def parquet(path: StoragePath) -> Generator[pq.ParquetFile]:
    """Open a Parquet file for reading.

    Raises:
        FileNotFoundError: If there is none.
        UserError: If a pipe or a device lies there.
        pa.ArrowException: If it is damaged; also an ``OSError`` without a number.
    """
    if isinstance(path, ObjectStorePath):
        # Columns that lie side by side come in one request.
        with path.ranges() as ranges, pq.ParquetFile(ranges, pre_buffer=True) as file:
            yield file
        return
    if is_endless(path):
        raise UserError(f"{path}: found no regular file, expected a Parquet file")
    try:
        opened = pq.ParquetFile(path)
    except UnicodeDecodeError as error:
        raise pa.ArrowInvalid(f"a column's name is no text ({error})") from error
    with opened as file:
        yield file


def sha256_file(path: StoragePath) -> str:
    """Return the SHA-256 of a file in hexadecimal.

    Raises:
        UserError: If it is missing, or a pipe or a device.
    """
    check_file(path, "a file")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_table(
    path: StoragePath, schema: pa.Schema, what: str, optional: Sequence[Sequence[str]] = ()
) -> pa.Table:
    """Return a Parquet file of this schema, as we or as other tools write it.

    Args:
        path: The file.
        schema: Its columns, in their order.
        what: What was expected, for messages.
        optional: Groups of columns, of which each may be missing as a whole: they are null then.

    Raises:
        UserError: If it is missing, damaged or of another schema; says that ``what`` was expected.
    """
    with _opened(path, schema, what, optional) as file:
        return conformed(file.read(), list(schema), str(path))


@contextmanager
def _opened(
    path: StoragePath, schema: pa.Schema, what: str, optional: Sequence[Sequence[str]]
) -> Generator[pq.ParquetFile]:
    """Open a Parquet file of this schema, perhaps without the optional columns."""
    check_file(path, what)
    try:
        with parquet(path) as file:
            names = set(file.schema_arrow.names)
            absent = {name for group in optional if not names & set(group) for name in group}
            present = pa.schema([field for field in schema if field.name not in absent])
            problem = difference(file.schema_arrow, present)
            if problem:
                raise UserError(f"{path}: {problem}; expected {what}")
            yield file
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file; expected {what}") from error


def _whole_row_groups(tables: Iterable[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    """Give the rows again, in tables of whole row groups but for the last."""
    rest, is_empty = schema.empty_table(), True
    for table in tables:
        rest = pa.concat_tables([rest, table])
        whole = len(rest) - len(rest) % ROW_GROUP_ROWS
        if whole:
            yield rest[:whole]
            rest, is_empty = rest[whole:], False
    if len(rest) or is_empty:
        yield rest


def _footer(schema: pa.Schema) -> dict[str, str]:
    entries = (schema.metadata or {}).items()
    return {key.decode(*_ANY_NAME): value.decode(*_ANY_NAME) for key, value in entries}


def _encoded(provenance: Mapping[str, str]) -> dict[bytes, bytes]:
    entries = sorted(provenance.items())
    return {key.encode(*_ANY_NAME): value.encode(*_ANY_NAME) for key, value in entries}


def _sorted(table: pa.Table) -> pa.Table:
    ids = table["image_id"]
    rises = pc.all(pc.less_equal(ids[:-1], ids[1:]), min_count=0).as_py()
    return table if rises else table.sort_by("image_id")


def _first_twice(ids: pa.ChunkedArray) -> str:
    return min(name for name, count in Counter(ids.to_pylist()).items() if count > 1)
