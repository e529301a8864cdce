"""A data set of made-up people in Market-1501 layout, with exact keypoints and masks.

It replaces real data in the demo and in tests: folders, file names, junk, distractors and
keypoint files are those of Market-1501, the people are rendered (``manifests.people.renderer``).
Train people count up from 0001 and test people down from 9998, and all random numbers are keyed
by a person's label, so a larger data set holds the same images of the people that both have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import PIL.Image
from jaxtyping import Float, UInt8

from manifests.datasets.keypoint_files import keypoint_text
from manifests.keypoints import NUM_JOINTS
from manifests.masks import Mask
from manifests.people.body_shape import body_tubes
from manifests.people.cameras import CAMERAS, NUM_CAMERAS, apply_camera, background
from manifests.people.clothing import Person, sample_person
from manifests.people.pose_sampling import project_joints, sample_body_pose, skeleton
from manifests.people.renderer import HEIGHT, WIDTH, View, composite, render
from manifests.pixels import encode_jpeg
from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.files import read_file
from manifests.runtime.new_folder import new_folder
from manifests.runtime.random_numbers import KeyedRandom
from manifests.runtime.run_record import differences
from manifests.runtime.settings import Count, Frozen
from manifests.schema import DISTRACTOR, JUNK

MOST_PEOPLE: Final = 9_998
"""A person's label has four digits, 0000 means a distractor; 9999 stays free."""

FOLDERS: Final = ("bounding_box_train", "query", "bounding_box_test")
KEYPOINT_FILES: Final = {
    "bounding_box_train": "keypoints-train.csv",
    "bounding_box_test": "keypoints-test.csv",
}
MASKS: Final = "masks"
"""The folder of exact masks, for ``augment index --masks``."""
SETTINGS_FILE: Final = "sample.json"

Joints = Float[np.ndarray, "18 2"]
Image = UInt8[np.ndarray, "128 64 3"]


class SampleSettings(Frozen):
    """Which made-up people are drawn."""

    people: int = 24
    """Number of train people."""
    test_people: int = 12
    """Number of people in query and gallery; none of them is in train."""
    seed: Count = 0
    """Another seed gives other people, clothes and backgrounds."""


class SampleCommandSettings(SampleSettings):
    """Draw a data set of made-up people."""

    out: Path
    """Folder that the data set appears in."""


@dataclass(frozen=True, slots=True)
class SampleReport:
    """What lies in the folder, in images."""

    train: int
    query: int
    gallery: int
    """All of ``bounding_box_test``, junk and distractors included."""
    junk: int
    distractors: int
    already_complete: bool


@dataclass(frozen=True, slots=True)
class Shot:
    """One planned image."""

    folder: str
    label: str
    """The person id in the file name."""
    drawn_person: str
    """Label of the person who is drawn; empty for background alone."""
    camera: int
    """0-based."""
    sequence: int
    frame: int
    detection: int
    kind: str = "person"
    """``person``, ``junk`` (a badly framed person) or ``background``."""

    @property
    def name(self) -> str:
        """File name in Market-1501's grammar."""
        return (
            f"{self.label}_c{self.camera + 1}s{self.sequence}_{self.frame:06d}"
            f"_{self.detection:02d}.jpg"
        )


def sample(settings: SampleCommandSettings, console: Console) -> Exit:
    """Run the command ``augment sample``."""
    data_set = SampleSettings.model_validate(settings.model_dump(exclude={"out"}))
    report = draw_data_set(settings.out, data_set)
    if report.already_complete:
        console.say(f"{settings.out}: already complete")
    console.say(
        f"{settings.out}: {report.train:,} train, {report.query:,} query and {report.gallery:,} "
        f"gallery images ({report.junk:,} junk, {report.distractors:,} distractors)"
    )
    return Exit.DONE


def draw_data_set(out: Path, settings: SampleSettings) -> SampleReport:
    """Draw made-up people in Market-1501 layout into ``out``, whole or not at all.

    Raises:
        UserError: If the numbers of people make no data set, or ``out`` holds something else or
            cannot be written.
    """
    _check(settings)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        _check_same(out, settings)
        return _report(settings, already_complete=True)
    try:
        with new_folder(out) as draft:
            _draw_into(draft, settings)
    except UserError:
        if not out.is_dir() or not any(out.iterdir()):
            raise
        # Another process was faster.
        _check_same(out, settings)
        return _report(settings, already_complete=True)
    return _report(settings, already_complete=False)


def _check(settings: SampleSettings) -> None:
    if settings.people < 1 or settings.test_people < 0:
        raise UserError(
            f"found {settings.people} train and {settings.test_people} test people, expected at"
            " least 1 and 0"
        )
    total = settings.people + settings.test_people
    if total > MOST_PEOPLE:
        raise UserError(
            f"found {total:,} people, expected at most {MOST_PEOPLE:,}: Market-1501 file names"
            " have four digits"
        )


def _check_same(out: Path, settings: SampleSettings) -> None:
    """Refuse a folder that holds anything but this data set."""
    path = out / SETTINGS_FILE
    if not path.exists():
        raise UserError(f"{out} is not empty and holds no {SETTINGS_FILE}: expected a new folder")
    found = SampleSettings.from_json(read_file(path, "a sample's settings"), where=str(path))
    differing = differences(found.model_dump(), settings.model_dump())
    if differing:
        raise UserError(f"{out} holds another sample: {'; '.join(differing)}")


def _report(settings: SampleSettings, *, already_complete: bool) -> SampleReport:
    shots = list(plan(settings))
    gallery = [shot for shot in shots if shot.folder == "bounding_box_test"]
    return SampleReport(
        train=sum(shot.folder == "bounding_box_train" for shot in shots),
        query=sum(shot.folder == "query" for shot in shots),
        gallery=len(gallery),
        junk=sum(shot.label == JUNK for shot in gallery),
        distractors=sum(shot.label == DISTRACTOR for shot in gallery),
        already_complete=already_complete,
    )


def _draw_into(draft: Path, settings: SampleSettings) -> None:
    joints_of_folder: dict[str, dict[str, Joints]] = {folder: {} for folder in KEYPOINT_FILES}
    for folder in (*FOLDERS, MASKS):
        (draft / folder).mkdir()
    people: dict[str, Person] = {}
    for shot in plan(settings):
        # One person's images follow each other, so one person is kept.
        if shot.drawn_person and shot.drawn_person not in people:
            people = {shot.drawn_person: sample_person(settings.seed, shot.drawn_person)}
        image, joints, mask = draw_shot(shot, people.get(shot.drawn_person), settings.seed)
        (draft / shot.folder / shot.name).write_bytes(encode_jpeg(image))
        grey = np.where(mask, np.uint8(255), np.uint8(0))
        PIL.Image.fromarray(grey).save((draft / MASKS / shot.name).with_suffix(".png"))
        if shot.folder in joints_of_folder:
            joints_of_folder[shot.folder][shot.name] = joints
    for folder, name in KEYPOINT_FILES.items():
        joints_of_file = dict(sorted(joints_of_folder[folder].items()))
        # Whole pixels, as in the published files.
        whole = np.round(np.array(list(joints_of_file.values())).reshape(-1, NUM_JOINTS, 2))
        (draft / name).write_text(keypoint_text(list(joints_of_file), whole), encoding="ascii")
    (draft / SETTINGS_FILE).write_text(settings.to_json() + "\n", encoding="ascii")


def plan(settings: SampleSettings) -> Iterator[Shot]:
    """Return every image of the data set, one person after the other."""
    for number in range(1, settings.people + 1):
        yield from _person_shots(settings.seed, f"{number:04d}", "bounding_box_train")
    for number in range(MOST_PEOPLE, MOST_PEOPLE - settings.test_people, -1):
        label = f"{number:04d}"
        yield from _person_shots(settings.seed, label, "bounding_box_test")
        yield from _extra_gallery_shots(settings.seed, label)


def _person_shots(seed: int, label: str, folder: str) -> Iterator[Shot]:
    rng = KeyedRandom(seed, f"shots/{label}")
    cameras = sorted(rng.permutation(range(NUM_CAMERAS))[: rng.integer(3, 5)])
    target = rng.integer(8, 12) if folder == "bounding_box_train" else 2 * len(cameras)
    for row, camera in enumerate(cameras):
        count = target // len(cameras) + (row < target % len(cameras))
        sequence, frame = rng.integer(1, 3), rng.integer(1, 90_000)
        if folder == "bounding_box_test":
            yield Shot("query", label, label, camera, sequence, frame, 0)
            # The gallery has images of a person from every camera, as in Market-1501.
            count += rng.integer(0, 1)
        for _ in range(count):
            frame += rng.integer(20, 60)
            yield Shot(folder, label, label, camera, sequence, frame, rng.integer(1, 4))


def _extra_gallery_shots(seed: int, label: str) -> Iterator[Shot]:
    """Return the junk and distractors that come with a test person; frames keep names unique."""
    # The key is data: another one would draw other images.
    rng = KeyedRandom(seed, f"strays/{label}")
    frame = 10 * int(label)
    for row in range(3):
        camera, sequence = rng.integer(0, NUM_CAMERAS - 1), rng.integer(1, 3)
        yield Shot("bounding_box_test", JUNK, label, camera, sequence, frame + row,
                   rng.integer(1, 9), "junk")  # fmt: skip
    for row in range(3, 5):
        camera, sequence = rng.integer(0, NUM_CAMERAS - 1), rng.integer(1, 3)
        somebody = rng.bernoulli(0.5)
        yield Shot("bounding_box_test", DISTRACTOR, f"passer-by/{label}/{row}" if somebody else "",
                   camera, sequence, frame + row, rng.integer(1, 9),
                   "person" if somebody else "background")  # fmt: skip


def draw_shot(shot: Shot, person: Person | None, seed: int) -> tuple[Image, Joints, Mask]:
    """Return one image (RGB), its joints, and where the person is.

    Convention: (x, y) pixels of the image, pixel centres at integers; a missing joint is NaN.
    """
    rng = KeyedRandom(seed, f"shot/{shot.folder}/{shot.name}")
    optics = CAMERAS[shot.camera]
    scene = background(rng, seed, shot.camera, shot.sequence, rng.uniform(0.0, 1.0))
    if person is None:
        nobody = np.full((NUM_JOINTS, 2), np.nan), np.zeros((HEIGHT, WIDTH), bool)
        return apply_camera(rng, scene.astype(np.float32), shot.camera), *nobody
    pose = sample_body_pose(rng, person)
    points = skeleton(person, pose)
    view = view_of(rng, optics.pitch, junk=shot.kind == "junk")
    rendering = render(body_tubes(person, pose, points), view, optics.light)
    joints = project_joints(rng, points, pose, view, rendering)
    composed = composite(rendering, scene, optics.shadow, view)
    return apply_camera(rng, composed, shot.camera), joints, rendering.coverage >= 0.5


def view_of(rng: KeyedRandom, pitch: float, *, junk: bool) -> View:
    """Return how a detector's box frames a person; for junk it misses half of them."""
    around = rng.choice(
        (0.0, 0.5, 0.25, 0.75, 0.125, 0.375, 0.625, 0.875), (18, 18, 13, 13, 10, 9, 9, 10)
    )
    yaw = 2 * np.pi * around + rng.bounded_normal(0.22)
    height, stretch = rng.uniform(104.0, 117.0), rng.uniform(1.0, 1.24)
    x, y = WIDTH / 2 - 0.5 + rng.bounded_normal(3.0), HEIGHT - 7.0 + rng.bounded_normal(3.5)
    if junk:
        height *= rng.uniform(1.25, 1.9)
        x += rng.choice((-1, 1)) * rng.uniform(10.0, 26.0)
        y += rng.uniform(-20.0, 1.0) + rng.choice((0.0, 0.6)) * height
    return View(yaw, pitch + rng.bounded_normal(0.04), height, x, y, stretch)
