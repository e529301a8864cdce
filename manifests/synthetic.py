"""Reading generated images: the manifest of a finished run and the bytes in its shards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int

from manifests.io import ROW_GROUP_ROWS, keypoint_array, parquet, read_table
from manifests.runtime.console import UserError
from manifests.runtime.storage import StoragePath, storage_path
from manifests.schema import BACKGROUND_COLUMNS, MANIFEST

SUCCESS: Final = "_SUCCESS"
"""The file that marks a finished run."""

SCREENED_OUT: Final = "screened out"
"""What the error of an image begins with that 'reid screen' dropped."""

_WINDOW_ROWS = 2 * ROW_GROUP_ROWS


@dataclass(frozen=True, slots=True)
class Synthetic:
    """The manifest of a finished OUT of ``augment generate``: all planned rows, failed ones too."""

    table: pa.Table
    root: StoragePath

    def __len__(self) -> int:
        return self.table.num_rows

    def strings(self, column: str) -> list[str]:
        """Return a text column as a list."""
        return self.table[column].to_pylist()

    def are_new(self) -> Bool[np.ndarray, " rows"]:
        """Return which rows show people who do not exist: they have no source."""
        return np.asarray(self.table["source_id"].is_null())

    def keypoints(self) -> Float[np.ndarray, "rows 18 2"]:
        """Return the joints of every row as ``Images.keypoints`` does."""
        return keypoint_array(self.table["keypoints"])

    def take(self, rows: Int[np.ndarray, " count"]) -> Synthetic:
        """Return the rows at these positions, in this order."""
        return replace(self, table=self.table.take(pa.array(rows, pa.int64())))

    def without_errors(self) -> Synthetic:
        """Return the rows that have an image."""
        return self.take(np.flatnonzero(np.asarray(self.table["error"].is_null())))

    def screened_out(self) -> Synthetic:
        """Return the rows whose image is there, but was dropped by ``reid screen``."""
        errors = self.strings("error")
        return self.take(
            np.flatnonzero([bool(one) and one.startswith(SCREENED_OUT) for one in errors])
        )

    def shard_file(self, shard: str) -> StoragePath:
        """Return the file of a shard; ``shard`` as the manifest names it.

        A bare name lies in the folder ``data``, a path starts at the root, and a URL is taken as it
        is: a manifest may point to the shards of another folder.
        """
        if "://" in shard:
            return storage_path(shard)
        return self.root / shard if "/" in shard else self.root / "data" / shard

    def read_bytes(self, rows: Int[np.ndarray, " count"]) -> Iterator[bytes]:
        """Give the encoded images of these rows, in this order.

        Memory stays below two windows of 4,096 images however many rows there are. Rows in
        the manifest's order cost one pass over the shards; a random order over many shards reads
        a row group for every window that touches it.

        Raises:
            UserError: If a row has no image (it failed), or a shard is missing or damaged.
        """
        for start in range(0, len(rows), _WINDOW_ROWS):
            yield from self._window(np.asarray(rows[start : start + _WINDOW_ROWS], np.int64))

    def _window(self, rows: Int[np.ndarray, " count"]) -> list[bytes]:
        locations = self.table.select(["shard", "shard_row"]).take(pa.array(rows))
        shards = np.asarray(locations["shard"].to_pylist(), dtype=object)
        shard_rows = locations["shard_row"].to_numpy()
        images: list[bytes | None] = [None] * len(rows)
        for shard in sorted(set(shards)):
            positions = np.flatnonzero(shards == shard)
            of_shard = _shard_bytes(self.shard_file(shard), shard_rows[positions])
            for position, image in zip(positions, of_shard, strict=True):
                images[position] = image
        for row, image in zip(rows, images, strict=True):
            if image is None:
                name = self.table["image_id"][int(row)].as_py()
                raise UserError(f"{self.root}: row '{name}' has no image; it failed when generated")
        return [image for image in images if image is not None]


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


def read_synthetic(out: StoragePath | str) -> Synthetic:
    """Read a finished OUT of ``augment generate``, a folder or a URL.

    Raises:
        UserError: If OUT is missing, not finished, or its manifest is not one.
    """
    out = storage_path(out)
    manifest = finished_manifest(out)
    what = "the manifest of 'augment generate'"
    table = read_table(manifest, MANIFEST, what, optional=(BACKGROUND_COLUMNS,))
    return Synthetic(table.replace_schema_metadata(None), out)


def _has_images(schema: pa.Schema) -> bool:
    kind = schema.field("image").type if schema.names.count("image") == 1 else pa.null()
    inner = kind.field("bytes").type if _has_bytes(kind) else pa.null()
    return pa.types.is_binary(inner) or pa.types.is_large_binary(inner)


def _has_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0


def _shard_bytes(path: StoragePath, shard_rows: Int[np.ndarray, " count"]) -> list[bytes | None]:
    images: list[bytes | None] = [None] * len(shard_rows)
    try:
        with parquet(path) as file:
            if not _has_images(file.schema_arrow):
                raise UserError(f"{path}: found no column 'image' with bytes, expected a shard")
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            ends = np.cumsum(sizes)
            if len(shard_rows) and (not sizes or shard_rows.max() >= ends[-1]):
                raise UserError(f"{path}: has {sum(sizes)} rows, the manifest names more")
            groups = np.searchsorted(ends, shard_rows, side="right")
            for group in np.unique(groups):
                column = file.read_row_group(int(group), columns=["image.bytes"])["image"]
                positions = np.flatnonzero(groups == group)
                group_rows = shard_rows[positions] - (ends[group] - sizes[group])
                of_group = column.flatten()[0].take(pa.array(group_rows, pa.int64())).to_pylist()
                for position, image in zip(positions, of_group, strict=True):
                    images[position] = image
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: missing or damaged shard ({error})") from error
    return images
