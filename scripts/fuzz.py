#!/usr/bin/env python
"""Damaged inputs for every reader: each is read, or refused in one sentence.

Small valid files are made up, damaged (bits, blocks, text, entries of JSON, columns of Parquet) and
read in this process, from a seed: the same command makes the same inputs. An input that ends in
another error than a ``UserError``, in a warning, in more than a line, after ten seconds or with a
file written outside the folder is a fault; its files are kept. Blocks of inputs run in processes of
their own, so that a crash of the interpreter is one fault too. Exits with 1 if there is any.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from augment.checkpoints import store
from augment.generation import run_config, shards
from augment.generators.patn import Patn
from augment.quality.pairs import read_pairs
from manifests import io, masks, pixels, rules
from manifests.compute.external_weights import read_state_dict
from manifests.compute.training_log import TrainingLog
from manifests.compute.training_state import read_training_state, write_training_state
from manifests.datasets import folder, market1501, msmt17
from manifests.datasets.index import IndexSettings
from manifests.datasets.keypoint_files import KeypointOptions, keypoint_text, read_keypoint_files
from manifests.datasets.layouts import NO_OPTIONS
from manifests.keypoint_check import KeypointCheck
from manifests.keypoints import COCO_NAMES, JOINT_NAMES
from manifests.pages.training_page import read_log
from manifests.people.dataset import SampleSettings, draw_data_set
from manifests.runtime.command_line import parse
from manifests.runtime.console import UserError, one_line
from manifests.schema import MANIFEST, SHARD
from manifests.synthetic import read_synthetic
from reid.data.labels import Labels
from reid.evaluation.ranking import rank
from reid.evaluation.report import read_scored, write_report
from reid.models.run_folder import read_run

CPU_SECONDS: Final = 10
SECONDS: Final = 120
"""After which a reader hangs; the slowest takes a tenth of a second on an idle machine."""
_LONGEST: Final = 20_000
BLOCK: Final = 200
"""Inputs of one process."""

ACCEPTED: Final = "accepted"
REFUSED: Final = "refused"
FAULT: Final = "FAULT"


@dataclass(frozen=True, slots=True)
class Reader:
    """Some valid files, the one to damage, and how they are read."""

    name: str
    files: Mapping[str, bytes]
    read: Callable[[Path], object]
    """From the folder of the files."""
    damaged: str
    """The file to damage."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What went wrong with one input."""

    number: int
    reader: str
    text: str


class Hang(BaseException):
    """A reader took too long."""


# Valid files.


def made_up_readers(scratch: Path) -> list[Reader]:
    """Return the readers with valid files of made-up people."""
    draw_data_set(scratch / "people", SampleSettings(people=2, test_people=2))
    people = scratch / "people"
    points = [people / f"keypoints-{part}.csv" for part in ("train", "test")]
    images, _ = market1501.index(people, points)
    return [
        *_of_images(people, images),
        *_of_tables(scratch, images),
        *_of_text(people, images),
        *_of_weights(scratch),
        *_of_runs(scratch),
    ]


def _one(name: str, file: str, data: bytes, read: Callable[[Path], object]) -> Reader:
    return Reader(name, {file: data}, lambda here: read(here / file), file)


def _of_images(people: Path, images: io.Images) -> Iterator[Reader]:
    picture = pixels.read(images.file(0))
    name = images.strings("image_id")[0]
    mask = (people / "masks" / name).with_suffix(".png").read_bytes()
    yield _one("jpeg", "a.jpg", pixels.encode_jpeg(picture), pixels.read)
    yield _one("png", "a.png", pixels.encode_png(picture), pixels.read)
    yield _one("mask", "a.png", mask, lambda path: pixels.decode_mask(path.read_bytes(), "a.png"))


def _of_tables(scratch: Path, images: io.Images) -> Iterator[Reader]:
    def read_images(path: Path) -> None:
        found = io.read_images(path, scratch)
        rules.check_images(found, str(path))
        found.keypoints(), masks.mask_makers(found.provenance)
        masks.read_masks(found, (16, 32))
        for chunk in io.open_images(path, scratch).chunks(3):
            chunk.keypoints()

    few = images.only("train").take(np.arange(12))
    io.write_images(few, scratch / "images.parquet")
    yield _one("images", "i.parquet", (scratch / "images.parquet").read_bytes(), read_images)
    rows = [
        dict.fromkeys(SHARD.names)
        | {name: row[name] for name in few.table.column_names if name in SHARD.names}
        | {
            "image_id": f"made-{number}",
            "k": 0,
            "source_id": row["image_id"],
            "pose_id": row["image_id"],
            "seed": 1,
        }
        | {"image": {"bytes": few.file(number).read_bytes(), "path": "a.jpg"}}
        for number, row in enumerate(few.table.to_pylist())
    ]
    located = [{**row, "shard": "part-0.parquet", "shard_row": n} for n, row in enumerate(rows)]
    io.write_table(pa.Table.from_pylist(rows, SHARD), scratch / "shard.parquet", {})
    io.write_table(pa.Table.from_pylist(located, MANIFEST), scratch / "manifest.parquet", {})
    files = {
        "_SUCCESS": b"{}",
        "manifest.parquet": (scratch / "manifest.parquet").read_bytes(),
        "data/part-0.parquet": (scratch / "shard.parquet").read_bytes(),
    }

    def read_generated(out: Path) -> None:
        found = read_synthetic(out)
        found.keypoints()
        sound = found.without_errors()
        for data in sound.read_bytes(np.arange(len(sound))):
            pixels.size(data, str(out))
        rules.check_synthetic(few, found)

    yield Reader("manifest", files, read_generated, "manifest.parquet")
    yield Reader("shard", files, read_generated, "data/part-0.parquet")
    yield Reader("errors of a shard", files, _num_errors, "data/part-0.parquet")


def _num_errors(out: Path) -> int:
    return shards.num_errors(out / "data" / "part-0.parquet")


def _of_text(people: Path, images: io.Images) -> Iterator[Reader]:
    joints = images.keypoints()
    names = images.strings("image_id")
    seen = np.flatnonzero(~np.isnan(joints).any(axis=(1, 2)))[:6]
    sizes = np.array([[64.0, 128.0]])

    def read_keypoints(path: Path) -> None:
        found = read_keypoint_files(KeypointOptions((path,)))
        for name in found.poses:
            check = KeypointCheck()
            check.add(found.joints(name, (64, 128))[None], sizes)
            check.finish(str(path))
        found.provenance()

    text = keypoint_text([names[row] for row in seen.tolist()], joints[seen])
    flat = np.concatenate([joints[seen[0]], np.ones((18, 1))], axis=1).ravel()
    openpose = {"version": 1.3, "people": [{"pose_keypoints_2d": flat.tolist()}]}
    body = [flat.reshape(18, 3)[JOINT_NAMES.index(name)] for name in COCO_NAMES]
    coco = {
        "images": [{"id": 1, "file_name": names[0], "width": 64, "height": 128}],
        "annotations": [{"image_id": 1, "keypoints": np.concatenate(body).tolist(), "score": 0.5}],
    }
    yield _one("keypoint list", "k.csv", text.encode(), read_keypoints)
    yield _one("COCO's JSON", "k.json", json.dumps(coco).encode(), read_keypoints)
    file = f"{names[0]}_keypoints.json"
    yield Reader("OpenPose's JSON", {file: json.dumps(openpose).encode()}, read_keypoints, file)
    rows = [f"{images.table['path'][row].as_py()},p{row // 2},{row % 3},train" for row in range(4)]
    table = "\n".join(["path,person_id,camera_id,split", *rows]) + "\n"
    yield _one(
        "CSV of images", "t.csv", table.encode(),
        lambda path: folder.index_table(people, path, NO_OPTIONS),
    )  # fmt: skip
    pairs = "from,to\n" + "".join(f"{names[row]},{names[row + 1]}\n" for row in range(4))
    yield _one("pairs", "p.csv", pairs.encode(), lambda path: read_pairs(path, names, 10))
    jpeg = images.file(0).read_bytes()
    lists = {f"list_{part}.txt": b"" for part in ("train", "val", "query", "gallery")}
    lists["list_train.txt"] = b"0000/0000_000_01_0303morning_0015_0.jpg 0\n"
    lists |= {"train/0000/0000_000_01_0303morning_0015_0.jpg": jpeg, "test/.keep": b""}
    yield Reader("lists", lists, lambda here: msmt17.read(here, NO_OPTIONS), "list_train.txt")
    flags = "sample\0--out\0i.parquet\0--keypoint-scale\0unit\0--keypoints\0k.csv\0--masks\0m"
    yield _one("flags", "flags", flags.encode(), _parse)
    pattern = rb"(?P<person_id>\d{4})_c(?P<camera_id>\d)s\d_.*"
    yield _one("pattern", "pattern", pattern, lambda path: _pattern(people, path))


def _parse(path: Path) -> None:
    arguments = os.fsdecode(path.read_bytes()).split("\0")
    # Help exits, and is none of what is tried.
    parse(IndexSettings, "augment index", "", [a for a in arguments if a not in {"-h", "--help"}])


def _pattern(people: Path, path: Path) -> None:
    text = os.fsdecode(path.read_bytes())
    # Nested repeats take for ever in any program that takes expressions.
    if text.count("+") + text.count("*") < 6:
        folder.index_pattern(people / "query", text, NO_OPTIONS)


def _of_weights(scratch: Path) -> Iterator[Reader]:
    config = Patn.Config(base_width=1, num_blocks=1, discriminator_width=1, features="none")
    network = Patn(config)
    header = store.Header(generator="patn", config=config.model_dump(mode="json"), facts={"a": 1})
    store.save_weights(network.sampling_state(), scratch / "w.safetensors", header)
    yield _one("weights", "w.safetensors", (scratch / "w.safetensors").read_bytes(), store.load)
    tensors = {"conv.weight": torch.ones(2, 3), "module.b": torch.zeros(2)}
    checkpoint = {"state_dict": tensors, "epoch": 3, "rank1": np.float32(0.5)}
    torch.save(checkpoint, scratch / "c.pth")
    np.savez(scratch / "a.npz", **{name: value.numpy() for name, value in tensors.items()})
    for file in ("c.pth", "a.npz"):
        data = (scratch / file).read_bytes()
        yield _one(file[-3:], file, data, lambda path: read_state_dict(path, "--weights"))
    write_training_state({"step": 3, "network": tensors}, scratch / "last.pt")
    cpu = torch.device("cpu")
    data = (scratch / "last.pt").read_bytes()
    yield _one("state", "last.pt", data, lambda path: read_training_state(path, cpu))


def _of_runs(scratch: Path) -> Iterator[Reader]:
    run = run_config.RunConfig(content=_content(), rows_per_shard=4)
    run_config.begin(scratch / "out", run, {"images": "i.parquet"})
    record = {"run.json": (scratch / "out" / "run.json").read_bytes()}
    yield Reader("run.json of images", record, run_config.require_run_config, "run.json")
    success = shards.Success(
        content_key=run.content_key, layout_key=run.layout_key, rows=8, shards=2,
        manifest_sha256="0" * 64,
    )  # fmt: skip
    mark = {"_SUCCESS": success.to_json().encode()}
    yield Reader("_SUCCESS", mark, lambda out: shards.read_success(out, run), "_SUCCESS")
    facts = {
        "config": {"model": "osnet_x0_25", "width": 32, "height": 64, "val_people": 0, "seed": 0},
        "people": ["1", "2"],
    }
    record = {"run.json": json.dumps(facts).encode()}
    yield Reader("run.json of a training", record, _read_run, "run.json")
    lines = b"".join(b'{"step": %d, "loss": 0.5, "seconds": 2.5}\n' % step for step in range(4))
    yield _one("log", "log.jsonl", lines, read_log)
    yield _one("log to go on", "log.jsonl", lines, lambda path: TrainingLog(path, 2, 5).close())
    query = Labels(np.array(["1", "2"]), np.array([1, 1]), np.array(["a", "b"]))
    ranking = rank(np.array([[0.1, 0.2], [0.2, 0.1]], np.float32), query,
                   Labels(query.people, np.array([2, 2]), query.images))  # fmt: skip
    report = {"config": {"seed": 0}, "weights": "last", "protocol": {"query": {}, "gallery": {}}}
    write_report(scratch / "scored", report, ranking, query)
    files = {
        name: (scratch / "scored" / name).read_bytes()
        for name in ("report.json", "queries.parquet")
    }
    yield Reader("report.json", files, read_scored, "report.json")
    yield Reader("queries.parquet", files, read_scored, "queries.parquet")
    settings = {"sample.json": (scratch / "people" / "sample.json").read_bytes()}
    chosen = SampleSettings(people=2, test_people=2)
    yield Reader("sample.json", settings, lambda out: draw_data_set(out, chosen), "sample.json")


def _read_run(out: Path) -> None:
    run = read_run(out)
    _ = run.people, run.is_complete, run.default_weights


def _content() -> run_config.Content:
    sampling = run_config.Sampling(
        device="cpu", precision="float32", batch_size=2, threads=1, cpu=None, torch="2"
    )
    return run_config.Content(
        generator="patn", weights_sha256="0", images_sha256="0", poses_sha256="0", rows=8, per_id=2,
        seed=0, width=64, height=128, encoding=run_config.Encoding(), sampling=sampling,
    )  # fmt: skip


# Damage.

_VALUES: Final = (
    "1e39", "1e999", "-1", "0", "NaN", "-Infinity", "null", "true", '"x"', "[]", "{}", "[[1]]",
    "9" * 400, "9223372036854775808", "4294967296", "2147483648", "-2147483649", "1e-400", "0.5",
    "9" * 5000, "[" * 3000, '"\\ud800"', '"\\u0000"', '"../../x"', '""', "1000000000",
)  # fmt: skip
_BYTES: Final = (b"\xff", b"\x00", b"\n", b"\r", b'"', b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf")


def damaged(data: bytes, rng: random.Random, name: str) -> bytes:
    """Return a file damaged in one to three ways."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(_ways(data, name))(data, rng)
    return data


def _ways(data: bytes, name: str) -> Sequence[Callable[[bytes, random.Random], bytes]]:
    bytewise = (_flip, _flip, _cut, _zero, _insert, _remove, _repeat, _noise)
    if name.endswith((".json", "_SUCCESS")):
        return (*bytewise[2:], _value, _entry, _entry, _entry, _entry)
    if name.endswith((".csv", ".txt", ".jsonl", "flags", "pattern")):
        return (*bytewise, _value, _value, _value)
    if name.endswith(".parquet"):
        return (*bytewise, _column, _column, _column, _column)
    if name.endswith(".safetensors"):
        return (*bytewise, _header, _header, _header)
    return bytewise


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
    keys = content if isinstance(content, dict) else range(len(content))
    for key in list(keys) if isinstance(content, dict | list) else ():
        yield content, key
        if isinstance(content[key], dict | list):
            yield from _spots(content[key])


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
    except (pa.ArrowException, OSError):
        return _flip(data, rng)
    place = rng.randrange(table.num_columns)
    name = table.column_names[place]
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


# The run.


def outcome(reader: Reader, here: Path) -> tuple[str, str]:
    """Read files and return what came of it, with the words of a refusal or of a fault."""
    try:
        with _bounded():
            reader.read(here)
    except UserError as error:
        text = one_line(str(error))
        return (REFUSED, text) if 0 < len(text) < _LONGEST else (FAULT, f"of no length: {text}")
    except Hang:
        return FAULT, f"took more than {CPU_SECONDS} s of a core, or waited for {SECONDS} s"
    except BaseException:  # noqa: BLE001 - whatever it is, it is what is searched for
        return FAULT, traceback.format_exc()
    return ACCEPTED, ""


@contextmanager
def _bounded() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Hang

    timers = ((signal.SIGALRM, signal.ITIMER_REAL, SECONDS),
              (signal.SIGPROF, signal.ITIMER_PROF, CPU_SECONDS))  # fmt: skip
    for number, timer, seconds in timers:
        signal.signal(number, ring)
        signal.setitimer(timer, seconds)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    finally:
        for number, timer, _ in timers:
            signal.setitimer(timer, 0)
            signal.signal(number, signal.SIG_DFL)


def check_valid(reader: Reader, here: Path) -> None:
    """Check that a reader takes its files as they are: else it refused whatever comes.

    Raises:
        ValueError: If it does not.
    """
    write_files(reader.files, here)
    found, words = outcome(reader, here)
    shutil.rmtree(here)
    if found != ACCEPTED:
        raise ValueError(f"{reader.name} does not take valid files: {words}")


def write_files(files: Mapping[str, bytes], here: Path) -> None:
    """Write files into a new folder."""
    for name, data in files.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(data)


def try_one(
    readers: Sequence[Reader], number: int, seed: int, scratch: Path
) -> tuple[str, str, str]:
    """Make the input of a number, read it and return (reader, outcome, words)."""
    rng = random.Random(f"{seed}:{number}")
    reader = readers[number % len(readers)]
    here = scratch / f"input-{number}"
    data = damaged(reader.files[reader.damaged], rng, reader.damaged)
    write_files({**reader.files, reader.damaged: data}, here)
    before = set(scratch.iterdir())
    found, words = outcome(reader, here)
    strangers = set(scratch.iterdir()) - before
    if strangers or _WRITTEN:
        found, words = FAULT, f"wrote outside its folder: {strangers or _WRITTEN}"
        _WRITTEN.clear()
    if found != FAULT:
        shutil.rmtree(here, ignore_errors=True)
    return reader.name, found, words


_WRITTEN: Final[list[str]] = []
_ALLOWED: Final[list[str]] = []
_WRITES: Final = {"os.mkdir": 0, "os.rename": 1, "os.remove": 0, "os.rmdir": 0, "os.link": 1}


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Note files that Python opens for writing, makes, renames or removes elsewhere."""
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & 3
    if not _ALLOWED or not (writes or event in _WRITES):
        return
    path = arguments[_WRITES.get(event, 0)]
    if isinstance(path, int):
        return
    whole = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - a link stays one
    if not whole.startswith((*_ALLOWED, "/dev/")):
        _WRITTEN.append(f"{event} {whole}")


def run(count: int, seed: int, scratch: Path, *, first: int = 0, forks: bool = True):
    """Try inputs and return the counts by reader and outcome, and the faults."""
    torch.set_num_threads(1)
    readers = made_up_readers(scratch / "valid")
    for reader in readers:
        check_valid(reader, scratch / "input-valid")
    _ALLOWED[:] = [f"{scratch.resolve()}/"]
    counts: Counter[tuple[str, str]] = Counter()
    faults: list[Fault] = []
    try:
        for start in range(first, first + count, BLOCK):
            numbers = range(start, min(start + BLOCK, first + count))
            block = _in_a_process if forks else _here
            for number, (reader, found, words) in block(readers, numbers, seed, scratch):
                counts[reader, found] += 1
                if found == FAULT:
                    faults.append(Fault(number, reader, words))
    finally:
        _ALLOWED.clear()
    return counts, faults


def _here(readers: Sequence[Reader], numbers: range, seed: int, scratch: Path):
    for number in numbers:
        yield number, try_one(readers, number, seed, scratch)


def _in_a_process(readers: Sequence[Reader], numbers: range, seed: int, scratch: Path):
    """Try a block in a fork; what follows a crash of the interpreter goes on in another."""
    while numbers:
        taken, given = os.pipe()
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what codecs write
            with os.fdopen(given, "w", encoding="utf-8") as file:
                for result in _here(readers, numbers, seed, scratch):
                    file.write(json.dumps(result) + "\n")
                    file.flush()
            os._exit(0)
        os.close(given)
        with os.fdopen(taken, encoding="utf-8") as file:
            done = [json.loads(line) for line in file]
        _, status = os.waitpid(child, 0)
        yield from ((number, tuple(result)) for number, result in done)
        numbers = numbers[len(done) :]
        if numbers:
            words = f"the process ended with {os.waitstatus_to_exitcode(status)}"
            yield numbers[0], (readers[numbers[0] % len(readers)].name, FAULT, words)
            numbers = numbers[1:]


def table(counts: Counter[tuple[str, str]]) -> str:
    """Return the counts by reader and outcome as lines."""
    names = sorted({name for name, _ in counts})
    rows = [(name, *(counts[name, kind] for kind in (ACCEPTED, REFUSED, FAULT))) for name in names]
    totals = ("all", *(sum(column) for column in zip(*(row[1:] for row in rows), strict=True)))
    head = f"{'reader':24}{ACCEPTED:>10}{REFUSED:>10}{FAULT:>10}"
    return "\n".join([head, *(f"{n:24}{a:10,}{r:10,}{f:10,}" for n, a, r, f in [*rows, totals])])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=3000, help="inputs")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the inputs of faults")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        counts, faults = run(chosen.count, chosen.seed, Path(scratch), first=chosen.first)
        for fault in faults:
            sys.stdout.write(f"{fault.reader}, input {fault.number}: {fault.text}\n")
            if chosen.keep is not None:
                kept = chosen.keep / f"input-{fault.number}"
                shutil.copytree(Path(scratch) / kept.name, kept, dirs_exist_ok=True)
    sys.stdout.write(table(counts) + "\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
