"""Keypoint files of other tools: the published lists, OpenPose's JSON, COCO's JSON.

Convention: joints come out as (x, y) pixels of the stored image, pixel centres at integers, origin
top-left, in the order of ``keypoints.JOINT_NAMES``; a missing joint is NaN.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from jaxtyping import Float

from manifests.datasets.csv_table import read_csv
from manifests.datasets.skipped import BROKEN_KEYPOINTS, Leniency, Skipped, files_below
from manifests.io import sha256_file
from manifests.keypoints import COCO_NAMES, NUM_JOINTS, from_coco, from_openpose25, visible
from manifests.pixels import broken_images
from manifests.runtime.console import UserError
from manifests.runtime.json_files import is_whole, read_json

KeypointFormat = Literal["openpose18", "openpose25", "coco17"]
KeypointOrder = Literal["xy", "yx"]
MissingJoint = Literal["minus-one", "zero"]

COLUMNS: Final = ("name", "keypoints_y", "keypoints_x")
MISSING: Final = -1
_OPENPOSE_ENDING: Final = "_keypoints.json"
_SIZE: Final = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")


@dataclass(frozen=True, slots=True)
class _Format:
    num_joints: int
    to_ours: Callable[[np.ndarray], np.ndarray]


_FORMATS: Final[dict[KeypointFormat, _Format]] = {
    "openpose18": _Format(NUM_JOINTS, lambda joints: joints),
    "openpose25": _Format(25, from_openpose25),
    "coco17": _Format(len(COCO_NAMES), from_coco),
}


@dataclass(frozen=True, slots=True)
class KeypointOptions:
    """How keypoint files are read; the flags of ``augment index`` of the same names."""

    keypoints: tuple[Path, ...] = ()
    keypoint_format: KeypointFormat | None = None
    """Without it what a JSON file's number of values says, for lists openpose18."""
    keypoint_order: KeypointOrder = "xy"
    """yx: what the file calls x is y."""
    keypoint_scale: str = "pixels"
    """pixels, unit (shares of width and height) or WIDTHxHEIGHT of the image they were made for."""
    keypoint_missing: MissingJoint = "minus-one"
    """zero: 0,0 is a missing joint, as -1 in either coordinate always is."""


READING: Final = ("keypoint_format", "keypoint_order", "keypoint_scale", "keypoint_missing")
"""Fields of ``KeypointOptions`` that say how a file is read."""


@dataclass(frozen=True, slots=True)
class _Pose:
    """One pose as a file has it."""

    joints: Float[np.ndarray, "18 2"]
    made_for: tuple[int, int] | None = None
    """(width, height) of the image that the pose was found in, if the file says so."""


@dataclass(frozen=True, slots=True)
class FoundKeypoints:
    """The poses of some files by image name, in the units of the files."""

    options: KeypointOptions = KeypointOptions()
    poses: Mapping[str, _Pose] = field(default_factory=dict[str, _Pose])
    num_left_out: int = 0
    """Further people in images with several: a crop shows one."""

    def name_of(self, image_id: str, path: str) -> str | None:
        """Return under which name the files have an image: its id, path, file name or stem."""
        name = path.rsplit("/", 1)[-1]
        for known in (image_id, path, path.rsplit(".", 1)[0], name, name.rsplit(".", 1)[0]):
            if known in self.poses:
                return known
        return None

    def joints(self, name: str, size: tuple[int, int]) -> Float[np.ndarray, "18 2"]:
        """Return the joints of a name as pixels of an image of this (width, height)."""
        pose = self.poses[name]
        scale = self.options.keypoint_scale
        if scale == "unit":
            # Shares of the whole width: 0 is the outer edge of the first pixel.
            return pose.joints * np.asarray(size, np.float32) - np.float32(0.5)
        made_for = pose.made_for if scale == "pixels" else _size(scale)
        if made_for is None or made_for == size:
            return pose.joints
        return (pose.joints + 0.5) * (np.asarray(size) / np.asarray(made_for)) - 0.5

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that they were read from."""
        return self.options.keypoints

    def num_unknown(self, images: Iterable[tuple[str, str]]) -> int:
        """Return how many names of the files are none of these images' (``image_id``, path)."""
        return len(self.poses.keys() - {self.name_of(*image) for image in images})

    def provenance(self) -> dict[str, str]:
        """Return the digests of the files, and how they were read, for a table's footer."""
        digests = {
            f"keypoints_sha256_{number}": _digest(path) for number, path in enumerate(self.files)
        }
        default = KeypointOptions(self.files)
        reading = {
            name: str(getattr(self.options, name))
            for name in READING
            if getattr(self.options, name) != getattr(default, name)
        }
        return digests | reading


NO_KEYPOINTS: Final = FoundKeypoints()


def read_keypoint_files(
    options: KeypointOptions, leniency: Leniency | None = None
) -> FoundKeypoints:
    """Return the poses of files and of folders of JSON files; linked folders are followed.

    Raises:
        UserError: If one is missing, of another format than expected, has another number of
            joints (names the first such ones of a folder and counts them), or names an image that
            an earlier one has too.
    """
    if options.keypoint_scale not in {"pixels", "unit"} and not _SIZE.fullmatch(
        options.keypoint_scale
    ):
        raise UserError(
            f"--keypoint-scale: found '{options.keypoint_scale}', expected pixels, unit or "
            "WIDTHxHEIGHT such as 256x512"
        )
    poses: dict[str, _Pose] = {}
    leniency = leniency or Leniency()
    left_out = 0
    for path in options.keypoints:
        for name, pose, others in _read(path, options, leniency):
            if name in poses:
                raise UserError(f"{path}: found '{name}', which an earlier keypoint file has too")
            poses[name] = pose
            left_out += others
    return FoundKeypoints(options, poses, left_out)


def read_keypoints(
    path: Path, options: KeypointOptions = KeypointOptions()
) -> dict[str, np.ndarray]:
    """Return the joints per file name of one file in the format of the pose-transfer papers.

    Columns ``name:keypoints_y:keypoints_x``, the latter two lists of one number per joint; -1 in
    either makes the joint missing.

    Raises:
        UserError: If the file is missing, the separator or the columns are others, a list has not
            the format's number of finite numbers, or a name is repeated; names the file and the
            line.
    """
    frame = read_csv(path, ":")
    if tuple(frame.columns) != COLUMNS:
        raise UserError(
            f"{path}:1: found the header '{':'.join(map(str, frame.columns))}', "
            f"expected '{':'.join(COLUMNS)}'"
        )
    chosen = _FORMATS[options.keypoint_format or "openpose18"]
    joints: dict[str, np.ndarray] = {}
    cells = (frame.index, *(frame[column] for column in COLUMNS))
    for line, name, y, x in zip(*cells, strict=True):
        where = f"{path}:{line}"
        if name in joints:
            raise UserError(f"{where}: found a second row for '{name}', expected one")
        lists = [
            _numbers(cell, column, where, chosen.num_joints)
            for cell, column in ((x, "keypoints_x"), (y, "keypoints_y"))
        ]
        joints[name] = _ours(np.array(lists, np.float32).T, None, chosen, options)
    return joints


def keypoint_text(image_ids: Sequence[str], joints: Float[np.ndarray, "rows 18 2"]) -> str:
    r"""Return a keypoint file with one row per image.

    Convention: (x, y), pixels of the stored image; a joint at exactly -1 would read as missing.

    >>> keypoint_text(["a.jpg"], np.full((1, 18, 2), np.nan))[:40]
    'name:keypoints_y:keypoints_x\na.jpg: [-1,'
    """
    filled = np.where(visible(joints)[..., None], joints, MISSING)
    lines = [":".join(COLUMNS)]
    for name, pose in zip(image_ids, filled, strict=True):
        x, y = ([_short(value) for value in axis] for axis in pose.T.tolist())
        lines.append(f"{_quoted(name)}: {json.dumps(y)}: {json.dumps(x)}")
    return "\n".join(lines) + "\n"


def _quoted(name: str) -> str:
    """Return a name as a cell between colons, in quotes where it needs them.

    >>> _quoted("a.jpg"), _quoted('b:"1".jpg')
    ('a.jpg', '"b:""1"".jpg"')
    """
    return '"' + name.replace('"', '""') + '"' if set(name) & set(':"') else name


_Entry = tuple[str, _Pose, int]
"""An image's name, its pose, and how many further people were found there."""


def _read(path: Path, options: KeypointOptions, leniency: Leniency) -> Iterator[_Entry]:
    if path.is_dir():
        yield from _openpose_folder(path, options, leniency)
    elif path.suffix.lower() == ".json":
        yield from _coco(path, options)
    else:
        for name, joints in read_keypoints(path, options).items():
            yield name, _Pose(joints), 0


def _openpose_folder(
    folder: Path, options: KeypointOptions, leniency: Leniency
) -> Iterator[_Entry]:
    """Give the surest person of each ``IMAGE_keypoints.json``, as OpenPose's ``--write_json``."""
    skipped = Skipped()
    files = _openpose_files(folder, skipped)
    skipped.check(len(files), f"--keypoints {folder}", allowed=leniency.allow_skipped)
    if not files:
        raise UserError(f"{folder}: found no file named IMAGE{_OPENPOSE_ENDING}, expected some")
    errors: list[UserError] = []
    for file in files:
        name = file.relative_to(folder).as_posix().removesuffix(_OPENPOSE_ENDING)
        try:
            yield _openpose(file, name, options)
        except UserError as error:
            errors.append(error)
    if errors and not (leniency.skip_broken and len(errors) < len(files)):
        raise broken_images(errors, "--skip-broken leaves such files out", "keypoint files")
    for error in errors:
        skipped.add(BROKEN_KEYPOINTS, str(error))
    leniency.skipped.take(skipped)


def _openpose_files(folder: Path, skipped: Skipped) -> list[Path]:
    names = files_below(folder, skipped)
    return sorted(folder / name for name in names if name.endswith(_OPENPOSE_ENDING))


def _openpose(file: Path, name: str, options: KeypointOptions) -> _Entry:
    content = read_json(file, "JSON of OpenPose")
    people = content.get("people") if isinstance(content, dict) else None
    if not isinstance(people, list):
        raise UserError(f"{file}: found no list 'people', expected JSON of OpenPose")
    found = [
        _triplets(person.get("pose_keypoints_2d") if isinstance(person, dict) else None, file)
        for person in people
    ]
    return _surest(name, found, options, str(file), {18: "openpose18", 25: "openpose25"}, None)


def _coco(path: Path, options: KeypointOptions) -> Iterator[_Entry]:
    """Give the surest person of each image of a file in COCO's format, or of COCO results."""
    content = read_json(path, "JSON in COCO's format")
    rows = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and isinstance(row.get("image_id"), int | str) for row in rows
    ):
        raise UserError(
            f"{path}: found no list of annotations with image_id and keypoints, expected JSON in "
            "COCO's format, or a folder of OpenPose's JSON files"
        )
    listed = content.get("images", []) if isinstance(content, dict) else []
    named: dict[int | str, dict[str, Any]] = {}
    for row in _image_rows(listed, path):
        if named.setdefault(row["id"], row) is not row:
            raise UserError(f"{path}: found two images of the id {row['id']!r}, expected one")
    people: dict[str, list[np.ndarray]] = {}
    sizes: dict[str, tuple[int, int] | None] = {}
    for row in rows:
        image = named.get(row["image_id"])
        if image is None and not isinstance(row["image_id"], str):
            raise UserError(
                f"{path}: found image_id {row['image_id']}, which its list 'images' does not name"
            )
        name = str(row["image_id"] if image is None else image["file_name"])
        sizes[name] = None if image is None else _size_of(image)
        people.setdefault(name, []).append(_triplets(row.get("keypoints"), path))
    for name, found in people.items():
        yield _surest(name, found, options, f"{path}: {name}", {17: "coco17"}, sizes[name])


def _image_rows(listed: object, path: Path) -> Iterator[dict[str, Any]]:
    for row in listed if isinstance(listed, list) else [None]:
        if not isinstance(row, dict) or not isinstance(row.get("id"), int | str):
            raise UserError(f"{path}: found an entry of 'images' without an id, expected one")
        if not isinstance(row.get("file_name"), str):
            raise UserError(f"{path}: found an entry of 'images' without file_name, expected it")
        yield row


def _size_of(image: Mapping[str, Any]) -> tuple[int, int] | None:
    size = image.get("width"), image.get("height")
    whole = all(is_whole(side, 1, 99_999) for side in size)
    return (int(size[0] or 0), int(size[1] or 0)) if whole else None


def _triplets(values: object, where: Path) -> Float[np.ndarray, "joints 3"]:
    """Return x, y and confidence of each joint."""
    if not isinstance(values, list) or len(values) % 3 or not all(map(_is_number, values)):
        raise UserError(f"{where}: found no list of x, y, confidence for each joint, expected one")
    return np.array(values, np.float64).reshape(-1, 3)


def _surest(  # noqa: PLR0913, PLR0917 - what a file says of one image
    name: str,
    people: Sequence[np.ndarray],
    options: KeypointOptions,
    where: str,
    by_number: Mapping[int, KeypointFormat],
    made_for: tuple[int, int] | None,
) -> _Entry:
    """Return the pose with the most confidence, none of its joints if nobody was found."""
    if not people:
        return name, _Pose(np.full((NUM_JOINTS, 2), np.nan, np.float32)), 0
    surest = max(people, key=lambda person: float(person[:, 2].sum()))
    chosen = options.keypoint_format or by_number.get(len(surest))
    if chosen is None or len(surest) != _FORMATS[chosen].num_joints:
        wanted = sorted(by_number) if chosen is None else [_FORMATS[chosen].num_joints]
        raise UserError(
            f"{where}: found {len(surest)} joints, expected {' or '.join(map(str, wanted))}"
        )
    joints = surest[:, :2].astype(np.float32)
    ours = _ours(joints, surest[:, 2] > 0, _FORMATS[chosen], options)
    return name, _Pose(ours, made_for), len(people) - 1


def _ours(
    joints: Float[np.ndarray, "joints 2"],
    there: np.ndarray | None,
    chosen: _Format,
    options: KeypointOptions,
) -> Float[np.ndarray, "18 2"]:
    missing = (joints == MISSING).any(axis=1) if there is None else ~there
    if options.keypoint_missing == "zero":
        missing |= (joints == 0).all(axis=1)
    if options.keypoint_order == "yx":
        joints = joints[:, ::-1]
    joints = np.where(missing[:, None], np.float32(np.nan), joints)
    return chosen.to_ours(joints[None])[0]


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    # Neither a whole number of hundreds of digits nor 1e39 is a float32, and NaN is no number.
    return abs(value) < 1e9


def _numbers(cell: object, column: str, where: str, num_joints: int) -> list[float]:
    try:
        numbers = json.loads(str(cell))
    except (ValueError, RecursionError):
        numbers = None
    if not isinstance(numbers, list) or not all(map(_is_number, numbers)):
        raise UserError(f"{where}: {column} is '{str(cell)[:40]}', expected a list of numbers")
    if len(numbers) != num_joints:
        known = [name for name, form in _FORMATS.items() if form.num_joints == len(numbers)]
        hint = f"; --keypoint-format {known[0]} reads them" if known else ""
        raise UserError(f"{where}: {column} has {len(numbers)} joints, expected {num_joints}{hint}")
    return numbers


def _size(text: str) -> tuple[int, int] | None:
    match = _SIZE.fullmatch(text)
    return None if match is None else (int(match[1]), int(match[2]))


def _short(value: float) -> int | float:
    return int(value) if value == int(value) else value


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and digests of a folder's JSON files."""
    if not path.is_dir():
        return sha256_file(path)
    digest = hashlib.sha256()
    for file in _openpose_files(path, Skipped()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()
