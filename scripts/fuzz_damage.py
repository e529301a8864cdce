"""Ways to damage a file, from a seeded generator: for ``fuzz.py``."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

_VALUES: Final = (
    "1e39", "1e999", "-1", "0", "NaN", "-Infinity", "null", "true", '"x"', "[]", "{}", "[[1]]",
    "9" * 400, "9223372036854775808", "4294967296", "2147483648", "-2147483649", "1e-400", "0.5",
    "9" * 5000, "[" * 3000, '"\\ud800"', '"\\u0000"', '"../../x"', '""', "1000000000",
)  # fmt: skip
_BYTES: Final = (
    b"&a ",
    b"*a",
    b"\xff",
    b"\x00",
    b"\n",
    b"\r",
    b'"',
    b"\xc3",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
)


def damaged(data: bytes, rng: random.Random, name: str) -> bytes:
    """Return a file damaged in one to three ways."""
    changed = data
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        changed = rng.choice(_ways(name))(changed, rng)
    return changed if changed != data else damaged(data, rng, name)


def _ways(name: str) -> Sequence[Callable[[bytes, random.Random], bytes]]:
    bytewise = (_flip, _flip, _cut, _zero, _insert, _remove, _repeat, _noise)
    if name.endswith((".json", "_SUCCESS")):
        return (*bytewise[2:], _value, _entry, _entry, _entry, _entry)
    if name.endswith((".csv", ".txt", ".jsonl", ".yaml", "flags", "pattern")):
        return (*bytewise, _value, _value, _value)
    if name.endswith(".parquet"):
        return (*bytewise, _column, _column, _column, _column)
    if name.endswith(".safetensors"):
        return (*bytewise, _header, _header, _header)
    return (*bytewise, _picture_header, _picture_header) if name.endswith(".png") else bytewise


def _span(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + int(rng.expovariate(1 / 16)) + 1)


def _flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 4, 32)) if data else 0):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _zero(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + bytes(end - start) + data[end:]


def _insert(data: bytes, rng: random.Random) -> bytes:
    start, _ = _span(data, rng)
    return data[:start] + rng.choice(_BYTES) * rng.choice((1, 3, 300)) + data[start:]


def _remove(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + data[end:]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:end] + data[start:end] * rng.choice((1, 2, 50)) + data[end:]


def _noise(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + rng.randbytes(end - start) + data[end:]


def _value(data: bytes, rng: random.Random) -> bytes:
    """Put a difficult value where a number stands, or anywhere."""
    numbers = [n for n, byte in enumerate(data) if 48 <= byte < 58]
    start = rng.choice(numbers) if numbers else rng.randrange(len(data) + 1)
    end = start
    while end < len(data) and data[end : end + 1] in b"0123456789.-":
        end += 1
    return data[:start] + rng.choice(_VALUES).encode() + data[end:]


def _entry(data: bytes, rng: random.Random) -> bytes:
    """Replace, remove or rename an entry of JSON."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return _value(data, rng)
    spots = list(_spots(content))
    if not spots:
        return rng.choice(_VALUES).encode()
    within, key = rng.choice(spots)
    way = rng.random()
    if way < 0.2:
        del within[key]
    elif way < 0.3 and isinstance(within, dict):
        within["renamed"] = within.pop(key)
    else:
        within[key] = "@@"
        text = json.dumps(content)
        return text.replace('"@@"', rng.choice(_VALUES)).encode()
    return json.dumps(content).encode()


def _spots(content: Any) -> Iterator[tuple[Any, Any]]:
    if not isinstance(content, dict | list):
        return
    for key in list(content) if isinstance(content, dict) else range(len(content)):
        yield content, key
        if isinstance(content[key], dict | list):
            yield from _spots(content[key])


def _picture_header(data: bytes, rng: random.Random) -> bytes:
    """Change size, depth or kind of a PNG, and its checksum with it."""
    place = rng.randrange(16, 29)
    head = data[12:place] + rng.choice((b"\0", b"\1", b"\x10", b"\xff")) + data[place + 1 : 29]
    return data[:12] + head + zlib.crc32(head).to_bytes(4, "big") + data[33:]


def _header(data: bytes, rng: random.Random) -> bytes:
    """Change an entry of the settings in a safetensors header."""
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        ours = header["__metadata__"]["augment"].encode()
        header["__metadata__"]["augment"] = _entry(ours, rng).decode()
    except (ValueError, KeyError, TypeError, AttributeError):
        return _flip(data, rng)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


_OTHERS: Final[Sequence[Callable[[int], pa.Array]]] = (
    pa.nulls,
    lambda rows: pa.array([None] * rows, pa.string()),
    lambda rows: pa.array(["x"] * rows, pa.large_string()),
    lambda rows: pa.array(["x", "../y", ""][:rows] + ["z"] * (rows - 3)).dictionary_encode(),
    lambda rows: pa.array([2**40] * rows, pa.int64()),
    lambda rows: pa.array([-5] * rows, pa.int32()),
    lambda rows: pa.array([float("nan")] * rows),
    lambda rows: pa.array([0.5] * rows),
    lambda rows: pa.array([b"\xff\x00"] * rows, pa.binary()),
    lambda rows: pa.array([[[1.0, None]] * 18] * rows),
    lambda rows: pa.array([[[1e300, 1.0]] * 18] * rows),
    lambda rows: pa.array([[[1.0, 2.0]] * 17] * rows),
    lambda rows: pa.array([[]] * rows, pa.list_(pa.list_(pa.float32()))),
    lambda rows: pa.array([{"bytes": b"x", "path": None}] * rows),
    lambda rows: pa.array([True] * rows),
)


def _column(data: bytes, rng: random.Random) -> bytes:
    """Replace, drop, repeat or move a column of a table."""
    try:
        table = pq.read_table(pa.BufferReader(data))
        names = table.column_names
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        return _flip(data, rng)
    place = rng.randrange(table.num_columns)
    name = names[place]
    way = rng.random()
    if way < 0.1:
        table = table.drop_columns([name])
    elif way < 0.2:
        table = table.append_column(rng.choice(("new", name)), table[name])
    elif way < 0.3:
        table = table.slice(0, rng.choice((0, 1)))
    else:
        table = table.set_column(place, name, rng.choice(_OTHERS)(len(table)))
    sink = pa.BufferOutputStream()
    try:
        pq.write_table(table, sink)
    except pa.ArrowException:
        return _flip(data, rng)
    return sink.getvalue().to_pybytes()
