"""Reading and writing tables: a file appears whole or not at all and says where it came from."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from jaxtyping import Float, Int

from manifests.keypoints import NUM_JOINTS
from manifests.runtime.console import UserError
from manifests.runtime.storage import ObjectStorePath, StoragePath, replacing, storage_path
from manifests.schema import IMAGES, MANIFEST

# pyarrow makes these functions at import time, where type checkers do not see them.
pc: Any = pyarrow.compute

ROW_GROUP_ROWS: Final = 2048
ROOT_KEY: Final = "root"
SUCCESS: Final = "_SUCCESS"

_KEYPOINTS_LEAF = "keypoints.list.element.list.element"
_WINDOW_ROWS = 2 * ROW_GROUP_ROWS


@dataclass(frozen=True, slots=True)
class Images:
    """An images table in memory.

    ``read_images`` gives the rows sorted by ``image_id``; ``take`` keeps the order it is asked for.
    """

    table: pa.Table
    root: Path
    """Where relative paths start."""
    provenance: Mapping[str, str]
    """The footer's keys and values: settings, versions, digests of what the table was made from."""

    def __len__(self) -> int:
        return self.table.num_rows

    def only(self, split: str) -> Images:
        """Return the rows of one split."""
        # Filtering by an expression crashed the process on keypoints (pyarrow 26.0.1).
        wanted = np.asarray(pc.equal(self.table["split"], split))
        return self if wanted.all() else self.take(np.flatnonzero(wanted))

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
        """Return where the image of a row lies.

        Raises:
            UserError: If the row names no file.
        """
        path = self.table["path"][row].as_py()
        if path is None:
            raise UserError(f"row '{self.table['image_id'][row].as_py()}' of the images: no path")
        return self.root / path


@dataclass(frozen=True, slots=True)
class Synthetic:
    """A finished OUT of ``augment generate``: every planned row, also the failed ones."""

    table: pa.Table
    root: StoragePath

    def __len__(self) -> int:
        return self.table.num_rows

    def strings(self, column: str) -> list[str]:
        """Return a text column as a list."""
        return self.table[column].to_pylist()

    def keypoints(self) -> Float[np.ndarray, "rows 18 2"]:
        """Return the joints of every row as ``Images.keypoints`` does."""
        return keypoint_array(self.table["keypoints"])

    def take(self, rows: Int[np.ndarray, " count"]) -> Synthetic:
        """Return the rows at these positions, in this order."""
        return replace(self, table=self.table.take(pa.array(rows, pa.int64())))

    def without_errors(self) -> Synthetic:
        """Return the rows that have an image."""
        return self.take(np.flatnonzero(np.asarray(self.table["error"].is_null())))

    def shard_file(self, shard: str) -> StoragePath:
        """Return where a shard lies; ``shard`` as the manifest names it.

        A bare name is one in the folder ``data``, a path starts at the root, a URL stands for
        itself: a manifest may point to the shards of another folder.
        """
        if "://" in shard:
            return storage_path(shard)
        return self.root / shard if "/" in shard else self.root / "data" / shard

    def read_bytes(self, rows: Int[np.ndarray, " count"]) -> Iterator[bytes]:
        """Give the encoded images of these rows, in this order.

        Memory stays below two windows of 4,096 images however many rows are asked for. Rows in
        the manifest's order cost one pass over the shards; a random order over many shards reads
        a row group for every window that touches it.

        Raises:
            UserError: If a row has no image (it failed), or a shard is missing or damaged.
        """
        for start in range(0, len(rows), _WINDOW_ROWS):
            yield from self._window(np.asarray(rows[start : start + _WINDOW_ROWS], np.int64))

    def _window(self, rows: Int[np.ndarray, " count"]) -> list[bytes]:
        lying = self.table.select(["shard", "shard_row"]).take(pa.array(rows))
        shards = np.asarray(lying["shard"].to_pylist(), dtype=object)
        shard_rows = lying["shard_row"].to_numpy()
        images: list[bytes | None] = [None] * len(rows)
        for shard in sorted(set(shards)):
            wanted = np.flatnonzero(shards == shard)
            found = _shard_bytes(self.shard_file(shard), shard_rows[wanted])
            for position, image in zip(wanted, found, strict=True):
                images[position] = image
        for row, image in zip(rows, images, strict=True):
            if image is None:
                name = self.table["image_id"][int(row)].as_py()
                raise UserError(f"{self.root}: row '{name}' has no image; it failed when generated")
        return [image for image in images if image is not None]


def keypoint_array(column: pa.ChunkedArray) -> Float[np.ndarray, "rows 18 2"]:
    """Return a ``keypoints`` column as float32; null rows become NaN.

    Convention: (x, y), pixels of the stored image, pixel centres at integers, origin top-left.
    """
    joints = np.full((len(column), NUM_JOINTS, 2), np.nan, np.float32)
    annotated = np.asarray(column.is_valid())
    # ``flatten`` leaves null rows out and respects slices; ``values`` does neither.
    flat = column.combine_chunks().flatten().flatten().to_numpy(zero_copy_only=False)
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


def read_images(path: Path, root: Path | None = None) -> Images:
    """Read an images table.

    Args:
        path: A Parquet file that ``augment index`` wrote.
        root: Where the images lie now; without it the footer says. A relative root in the footer
            starts at the table's own folder.

    Raises:
        UserError: If the file is missing, no Parquet file, of another schema, names an image
            twice, or the folder of the images does not exist.
    """
    table = _read_table(path, IMAGES, "an images table (made by 'augment index')")
    table = _sorted(table)
    ids = table["image_id"]
    if pc.any(pc.equal(ids[1:], ids[:-1])).as_py():
        raise UserError(f"{path}: image_id '{_first_twice(ids)}' stands in more than one row")
    provenance = _footer(table)
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
    return Images(table.replace_schema_metadata(None), root, provenance)


def write_images(images: Images, path: Path) -> None:
    """Write an images table, sorted by ``image_id``, with its root and provenance."""
    provenance = {**images.provenance, ROOT_KEY: str(images.root)}
    write_table(_sorted(images.table), path, provenance)


def write_table(table: pa.Table, path: StoragePath, provenance: Mapping[str, str]) -> None:
    """Write a table whole or not at all, in row groups of 2,048 rows.

    Args:
        table: Any table; the bytes of a column ``image`` are stored as they are.
        path: Its folder is made if it is missing.
        provenance: Goes into the footer as key-value metadata, beside what the schema has.

    Raises:
        UserError: If the place cannot be written.
    """
    footer = {**(table.schema.metadata or {}), **_encoded(provenance)}
    names = [field.name for field in table.schema if field.name != "image"]
    leaves = [_KEYPOINTS_LEAF if name == "keypoints" else name for name in names]
    # Dictionaries, statistics and compression of encoded images cost time and bytes.
    options: dict[str, Any] = {
        "use_dictionary": leaves,
        "write_statistics": leaves,
        "compression": dict.fromkeys(leaves, "zstd"),
    }
    with replacing(path) as file:
        footed = table.replace_schema_metadata(footer)
        pq.write_table(footed, file, row_group_size=ROW_GROUP_ROWS, **options)


def write_bytes(data: bytes, path: StoragePath) -> None:
    """Write a file whole or not at all.

    Raises:
        UserError: If the place cannot be written.
    """
    with replacing(path) as file:
        file.write(data)


@contextmanager
def parquet(path: StoragePath) -> Generator[pq.ParquetFile]:
    """Open a Parquet file for reading.

    Raises:
        FileNotFoundError: If there is none.
        pa.ArrowException: If it is damaged; also an ``OSError`` without a number.
    """
    if isinstance(path, ObjectStorePath):
        # Columns that lie side by side come in one request.
        with path.ranges() as ranges, pq.ParquetFile(ranges, pre_buffer=True) as file:
            yield file
        return
    with pq.ParquetFile(path) as file:
        yield file


def sha256_file(path: StoragePath) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def finished_manifest(out: StoragePath) -> StoragePath:
    """Return the manifest file of a finished OUT of ``augment generate``.

    Raises:
        UserError: If OUT is missing or not finished.
    """
    if not out.is_dir():
        found = "a file" if out.is_file() else "no such folder"
        raise UserError(f"{out}: {found}; expected the OUT of 'augment generate'")
    if not (out / SUCCESS).is_file():
        raise UserError(
            f"{out}: has no {SUCCESS}, so it is not a finished run of 'augment generate'; "
            "the same 'augment generate' command finishes it"
        )
    return out / "manifest.parquet"


def read_synthetic(out: StoragePath) -> Synthetic:
    """Read a finished OUT of ``augment generate``.

    Raises:
        UserError: If OUT is missing, not finished, or its manifest is not one.
    """
    manifest = finished_manifest(out)
    table = _read_table(manifest, MANIFEST, "the manifest of 'augment generate'")
    return Synthetic(table.replace_schema_metadata(None), out)


def _read_table(path: StoragePath, schema: pa.Schema, what: str) -> pa.Table:
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {found}; expected {what}")
    try:
        with parquet(path) as file:
            difference = _difference(file.schema_arrow, schema)
            if difference:
                raise UserError(f"{path}: {difference}; expected {what}")
            return file.read()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file; expected {what}") from error


def _difference(found: pa.Schema, expected: pa.Schema) -> str:
    missing = [name for name in expected.names if name not in found.names]
    if missing:
        return f"column '{missing[0]}' is missing"
    unknown = [name for name in found.names if name not in expected.names]
    if unknown:
        return f"column '{unknown[0]}' is not known"
    for field in expected:
        if not found.field(field.name).equals(field):
            return f"column '{field.name}' is {found.field(field.name).type}, not {field.type}"
    return "" if found.names == expected.names else "the columns stand in another order"


def _shard_bytes(path: StoragePath, shard_rows: Int[np.ndarray, " count"]) -> list[bytes | None]:
    images: list[bytes | None] = [None] * len(shard_rows)
    try:
        with parquet(path) as file:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            ends = np.cumsum(sizes)
            if len(shard_rows) and (not sizes or shard_rows.max() >= ends[-1]):
                raise UserError(f"{path}: has {sum(sizes)} rows, the manifest names more")
            groups = np.searchsorted(ends, shard_rows, side="right")
            for group in np.unique(groups):
                column = file.read_row_group(int(group), columns=["image.bytes"])["image"]
                wanted = np.flatnonzero(groups == group)
                inside = shard_rows[wanted] - (ends[group] - sizes[group])
                picked = column.flatten()[0].take(pa.array(inside, pa.int64()))
                for place, image in zip(wanted, picked.to_pylist(), strict=True):
                    images[place] = image
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: missing or damaged shard ({error})") from error
    return images


def _footer(table: pa.Table) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}


def _encoded(provenance: Mapping[str, str]) -> dict[bytes, bytes]:
    return {key.encode(): value.encode() for key, value in sorted(provenance.items())}


def _sorted(table: pa.Table) -> pa.Table:
    ids = table["image_id"]
    rises = pc.all(pc.less_equal(ids[:-1], ids[1:]), min_count=0).as_py()
    return table if rises else table.sort_by("image_id")


def _first_twice(ids: pa.ChunkedArray) -> str:
    return min(name for name, count in Counter(ids.to_pylist()).items() if count > 1)
