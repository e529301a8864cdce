"""Columns of tables that other tools saved: read as ours, where that loses nothing.

pandas forgets which columns have a value in every row, and saves text as ``large_string`` or a
dictionary, whole numbers with gaps as ``double``, and columns without any value as ``null``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute

from manifests.runtime.console import UserError

# pyarrow makes these functions at import time, where type checkers do not see them.
pc: Any = pyarrow.compute


def difference(found: pa.Schema, expected: pa.Schema) -> str:
    """Return how the columns of a table differ from what is expected; empty if they can be read.

    >>> difference(pa.schema({"name": pa.large_string()}), pa.schema({"name": pa.string()}))
    ''
    >>> difference(pa.schema({"name": pa.int8()}), pa.schema({"name": pa.string()}))
    "column 'name' is int8, not string"
    """
    missing = [name for name in expected.names if name not in found.names]
    if missing:
        return f"column '{missing[0]}' is missing"
    unknown = [name for name in found.names if name not in expected.names]
    if unknown:
        return f"column '{unknown[0]}' is not known"
    if len(found.names) > len(expected.names):
        return "a column is there twice"
    for field in expected:
        kind = found.field(field.name).type
        if not _is_readable(kind, field.type):
            return f"column '{field.name}' is {kind}, not {field.type}"
    return "" if found.names == expected.names else "the columns are in another order"


def conformed(table: pa.Table, fields: Sequence[pa.Field], where: str) -> pa.Table:
    """Return a table with exactly these columns; those that it does not have are null.

    Args:
        table: Without a ``difference`` in the columns that it has.
        fields: What is expected.
        where: For messages.

    Raises:
        UserError: If a value does not fit, or is missing in a column that has one in every row.
    """
    columns = [_column(table, field, where) for field in fields]
    return pa.Table.from_arrays(columns, schema=pa.schema(fields, table.schema.metadata))


def _is_readable(found: pa.DataType, expected: pa.DataType) -> bool:
    if found.equals(expected) or pa.types.is_null(found):
        return True
    if pa.types.is_dictionary(found):
        return _is_readable(found.value_type, expected)
    if _is_list(expected):
        return _is_list(found) and _is_readable(found.value_type, expected.value_type)
    return _kind(found) is not None and (_kind(found), _kind(expected)) in _READABLE


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _kind(kind: pa.DataType) -> str | None:
    types = pa.types
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "text"
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind):
        return "bytes"
    if types.is_integer(kind):
        return "whole"
    return "real" if types.is_floating(kind) else None


_READABLE = {
    ("text", "text"), ("bytes", "bytes"), ("whole", "whole"), ("real", "real"), ("real", "whole"),
}  # fmt: skip


def _column(table: pa.Table, field: pa.Field, where: str) -> pa.Array | pa.ChunkedArray:
    if field.name not in table.column_names:
        return pa.nulls(len(table), field.type)
    column = table[field.name]
    try:
        column = _cast(column, field.type)
        if pa.types.is_string(field.type):
            # Else bytes that are no text fail at whoever looks at them.
            column.validate(full=True)
    except pa.ArrowException as error:
        text = str(error).splitlines()[0]
        raise UserError(
            f"{where}: column '{field.name}' does not fit into {field.type} ({text})"
        ) from error
    if column.null_count and not field.nullable:
        raise UserError(
            f"{where}: column '{field.name}' has no value in {column.null_count:,} rows, expected "
            "one in each"
        )
    return column


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if column.type.equals(kind):
        return column
    if pa.types.is_floating(column.type) and pa.types.is_integer(kind):
        # pandas writes NaN for a whole number that is missing.
        column = pc.if_else(pc.is_nan(column), None, column)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.cast(kind)
