"""The plan: which source image is shown in which pose, as arithmetic and never as stored state.

Rows are people in sorted label order times k in 0 .. per_id - 1. Everything random about a row
follows from (seed, person label, k) and the two input tables:

- The target poses of a person are the beginning of a shuffle of the bank, which takes one random
  number each: distinct, the same first ten for 10 and for 20 images per person, and never the
  price of a look at the whole bank, which grows with the number of people. Other choices draw from
  the cameras, viewpoints or like poses that the person lacks (``target_poses``).
- With several candidate poses to a row, the row's own stretch of that shuffle, the nearest to its
  source is taken: the less a person has to move, the more of the source's pixels can be kept.
- The source is chosen by one random number per (person, k) among the person's train rows with
  shoulders and hips, the row that shows the target pose itself left out; or, if asked for, it is
  the row of these whose pose is nearest to one of the row's candidates, one of those with most
  joints, the most central one, of each camera in turn, or of another camera than the target's.
- A person with a single such row has it as the source of every k, so that row's pose is left out
  of the bank instead; both rules depend on nothing but the person and k.

Images for test time are planned image by image and not person by person (``at_test_time``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from jaxtyping import Float32, Int64, UInt64

from augment.generation.choices import Choices
from augment.generation.source_choice import SourcePicker
from augment.generation.target_poses import RealImages, TargetPoses, camera_numbers, target_poses
from augment.pose.bank import PoseBank, joints_in
from augment.pose.same_scale import at_scale_of
from manifests import keypoints
from manifests.centrality import centrality_of
from manifests.io import Images
from manifests.runtime.console import UserError
from manifests.runtime.random_numbers import random_bits
from manifests.scenes import rows_with_street

# pyarrow makes these functions at import time, where type checkers do not see them.
pc: Any = pyarrow.compute


@dataclass(frozen=True, slots=True)
class PlannedRows:
    """Some consecutive rows of the plan."""

    people: tuple[str, ...]
    k: Int64[np.ndarray, " rows"]
    source: Int64[np.ndarray, " rows"]
    """Rows of ``GenerationPlan.sources``; -1 where people are new."""
    pose: Int64[np.ndarray, " rows"]
    """Rows of ``GenerationPlan.bank``."""
    seed: UInt64[np.ndarray, " rows"]
    """Seed of the row's ``RowRandom``."""

    def __len__(self) -> int:
        return len(self.k)

    def __getitem__(self, part: slice) -> PlannedRows:
        return PlannedRows(
            self.people[part], self.k[part], self.source[part], self.pose[part], self.seed[part]
        )


@dataclass(frozen=True, slots=True)
class GenerationPlan:
    """All rows of a run, computed on demand; a part costs no more than its own people."""

    sources: Images
    """The train rows that may be sources, people in sorted order."""
    people: tuple[str, ...]
    """In sorted order; at test time one for each source, who then comes as often."""
    first: Int64[np.ndarray, " people_and_end"]
    """Person ``i`` owns the sources ``first[i] : first[i + 1]``."""
    bank: PoseBank
    targets: TargetPoses
    picker: SourcePicker
    per_id: int
    seed: int
    num_without_torso: int
    """People without any usable row; their best annotated rows serve."""
    num_without_mask: int = 0
    """People left out: the system needs masks, and no image of theirs has one; or it moves what is
    inside, and none of these images has shoulders and hips to move it by."""
    keeps_pose: bool = False
    """Whether a row shows its source's own pose, and of ``pose`` only what is behind it."""
    own_streets: bool = False
    """Whether people are shown before the streets of their sources: nobody saw the poses."""
    size: tuple[int, int] = (64, 128)
    """(width, height) of the generated images."""
    first_k: Int64[np.ndarray, " people"] | None = None
    """At test time, the ``k`` of each source's first row: its person may have several sources."""
    num_left_out: int = 0
    """Test images that have not what the system needs of a source."""
    needs_mask: bool = False
    """Whether every source has a mask."""

    @property
    def at_test_time(self) -> bool:
        """Whether the images are made of query and gallery images, for test time alone."""
        return self.first_k is not None

    are_new: bool = False
    """Whether the people do not exist (``new_people``): rows have no source."""

    @property
    def source_joints(self) -> Float32[np.ndarray, "sources 18 2"]:
        """In pixels of the generated image, as the network sees the source."""
        return self.picker.joints

    def target_joints(self, rows: PlannedRows) -> Float32[np.ndarray, "rows 18 2"]:
        """Return the target pose of every row, in pixels of the generated image."""
        joints = self.bank.joints[rows.pose]
        if not self.picker.choices.same_scale:
            return joints
        return at_scale_of(self.source_joints[rows.source], joints, self.size)

    @property
    def shown(self) -> Int64[np.ndarray, " sources"]:
        """The row of ``bank`` that a source shows itself, -1 for none."""
        return self.picker.shown

    @property
    def left_out_for(self) -> str:
        """What the people left out have no image with."""
        if self.own_streets:
            return "shoulders, hips and a mask that leaves a street"
        if self.keeps_pose:
            return "a mask"
        return "a mask, shoulders and hips" if self.needs_mask else "shoulders and hips"

    def __len__(self) -> int:
        return len(self.people) * self.per_id

    def rows(self, start: int, stop: int) -> PlannedRows:
        """Return the rows ``start <= row < stop``."""
        parts = list(self._parts(start, stop))
        return PlannedRows(
            tuple(person for people, *_ in parts for person in people),
            *(
                np.concatenate([part[field] for part in parts])
                if parts
                else np.empty(0, np.uint64 if field == 4 else np.int64)
                for field in (1, 2, 3, 4)
            ),
        )

    def _parts(
        self, start: int, stop: int
    ) -> Iterator[tuple[list[str], np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        while start < stop:
            person, first_k = divmod(start, self.per_id)
            end_k = min(self.per_id, first_k + stop - start)
            k = np.arange(first_k, end_k)
            poses = self.targets.drawn(person, self.people[person], self.per_id, self._own(person))
            sources, shown, seeds = self._chosen(person, k, poses[first_k:end_k])
            numbers = k if self.first_k is None else k + self.first_k[person]
            yield [self.people[person]] * len(k), numbers, sources, shown, seeds
            start += len(k)

    def _own(self, person: int) -> int:
        """Return the pose of a person's only source, which the person is not shown in; else -1."""
        first, end = self.first[person : person + 2].tolist()
        return int(self.shown[first]) if end - first == 1 else -1

    def _chosen(
        self,
        person: int,
        k: Int64[np.ndarray, " rows"],
        drawn: Int64[np.ndarray, "rows candidates"],
    ) -> tuple[Int64[np.ndarray, " rows"], Int64[np.ndarray, " rows"], UInt64[np.ndarray, " rows"]]:
        """Return source, pose and seed of some rows of a person."""
        if self.are_new:
            seeds = [random_bits(self.seed, self.people[person], 2, counter=row)[1] for row in k]
            return np.full(len(k), -1), drawn[:, 0], np.array(seeds, np.uint64)
        images = range(*self.first[person : person + 2].tolist())
        pools = self.picker.pools(images)
        first_k = 0 if self.first_k is None else int(self.first_k[person])
        sources, poses = np.empty(len(k), np.int64), np.empty(len(k), np.int64)
        seeds = np.empty(len(k), np.uint64)
        for row, (number, candidates) in enumerate(zip(k.tolist(), drawn.tolist(), strict=True)):
            counter = first_k + number
            bits, seeds[row] = random_bits(self.seed, self.people[person], 2, counter=counter)
            pool = pools[number % len(pools)]
            sources[row], poses[row] = self.picker.pick(images, pool, candidates, int(bits))
        return sources, poses, seeds


def make_plan(  # noqa: PLR0913 - a run's choices, one by one
    images: Images,
    bank: PoseBank,
    per_id: int,
    seed: int,
    size: tuple[int, int],
    *,
    masked: bool = False,
    keeps_pose: bool = False,
    own_streets: bool = False,
    choices: Choices | None = None,
) -> GenerationPlan:
    """Return the plan for the train people of a table.

    Args:
        images: A table in any row order; query and gallery rows are not looked at.
        bank: The target poses.
        per_id: Images per person.
        seed: Another seed gives other sources and poses.
        size: (width, height) of the generated images.
        masked: Take only sources with a mask, for systems that need it, and if their images show
            another pose than the sources, with shoulders and hips.
        keeps_pose: Images will show their sources' own poses.
        own_streets: Take only sources whose mask leaves a street, before which they will be shown.
        choices: How sources, poses and backgrounds are chosen; none: by uniform draws.

    Raises:
        UserError: If there are no train rows, none with a mask where one is needed, ``per_id`` or
            the number of candidate poses is below 1, or the bank has fewer poses than one person
            needs.
    """
    choices = choices or Choices()
    for flag, number in (("--per-id", per_id), ("--candidate-poses", choices.candidate_poses)):
        if number < 1:
            raise UserError(f"{flag}: found {number}, expected at least 1")
    real = images.only("train")
    if not len(real):
        raise UserError(f"found no train rows in {len(images):,} images, expected some people")
    joints = joints_in(real, size)
    usable = _usable(real, joints, masked=masked, keeps_pose=keeps_pose)
    if own_streets:
        usable = usable[rows_with_street(real.take(usable), size)]
        if not len(usable):
            raise UserError(
                "found no mask of a train image that leaves a street beside the person, expected "
                "some: canonical poses are shown before the source's own street"
            )
    people, person = _people(real.take(usable))
    candidates, num_without_torso = _candidates(real.take(usable), joints[usable], person)
    sources = real.take(usable[candidates])
    labels = pa.chunked_array([pa.array(people, pa.string())])
    everybody = _positions(real.table["person_id"], labels)
    plan = GenerationPlan(
        sources=sources,
        people=people,
        first=np.searchsorted(person[candidates], np.arange(len(people) + 1)).astype(np.int64),
        bank=bank,
        targets=target_poses(choices, seed, bank, RealImages(real, joints, everybody)),
        picker=SourcePicker(
            choices,
            bank,
            camera_numbers(bank.images),
            joints[usable[candidates]],
            _positions(sources.table["image_id"], bank.pose_ids),
            camera_numbers(sources),
            centrality_of(sources),
        ),
        per_id=per_id,
        needs_mask=masked,
        seed=seed,
        num_without_torso=num_without_torso,
        num_without_mask=pc.count_distinct(real.table["person_id"]).as_py() - len(people),
        keeps_pose=keeps_pose,
        own_streets=own_streets,
        size=size,
    )
    check_bank_size(plan)
    check_stems(plan)
    return plan


def synthetic_id(source_id: str, k: int, ending: str) -> str:
    """Return the ``image_id`` of a generated image, after its source or its new person.

    >>> synthetic_id("0002_c1s1_000451_03.jpg", 7, ".jpg")
    '0002_c1s1_000451_03_aug00007.jpg'
    """
    return f"{stem(source_id)}_aug{k:05d}{ending}"


def stem(image_id: str) -> str:
    """Return an ``image_id`` without its endings; 24 of Market-1501 have two.

    >>> stem("1489_c6s3_105967_02.jpg.jpg")
    '1489_c6s3_105967_02'
    """
    while image_id.lower().endswith((".jpg", ".jpeg", ".png")):
        image_id = image_id.rpartition(".")[0]
    return image_id


def _usable(
    train: Images, joints: Float32[np.ndarray, "rows 18 2"], *, masked: bool, keeps_pose: bool
) -> Int64[np.ndarray, " usable"]:
    """Return the rows that a system could be given as a source."""
    if not masked:
        return np.arange(len(train))
    rows = np.flatnonzero(np.asarray(train.table["mask"].is_valid()))
    if not len(rows):
        raise UserError(
            "found no train image with a mask, which these weights need; 'augment detect "
            "--masks' adds them"
        )
    if keeps_pose:
        return rows
    posed = rows[keypoints.has_torso(joints[rows])]
    if not len(posed):
        raise UserError(
            f"found no shoulders and hips in {len(rows):,} train images with a mask, which "
            "these weights need; 'augment detect' adds keypoints"
        )
    return posed


def _people(train: Images) -> tuple[tuple[str, ...], Int64[np.ndarray, " rows"]]:
    """Return the sorted labels, and the position of each row's person among them."""
    coded = train.table["person_id"].combine_chunks().dictionary_encode()
    labels = coded.dictionary.to_pylist()
    position = np.argsort(np.argsort(np.asarray(labels, object), kind="stable"))
    return tuple(sorted(labels)), position[coded.indices.to_numpy()]


def _candidates(
    train: Images,
    joints: Float32[np.ndarray, "rows 18 2"],
    person: Int64[np.ndarray, " rows"],
) -> tuple[Int64[np.ndarray, " candidates"], int]:
    """Return the rows that may be sources, by (person, image), and how many people lack a torso."""
    torso = keypoints.has_torso(joints)
    num_joints = keypoints.visible(joints).sum(axis=-1)
    # With the torso every row is as good as the next; without, the most joints win.
    rank = np.where(torso, keypoints.NUM_JOINTS + 1, num_joints)
    best = np.full(person.max() + 1, -1)
    np.maximum.at(best, person, rank)
    by_image = pc.sort_indices(train.table["image_id"]).to_numpy().astype(np.int64)
    by_image = by_image[(rank == best[person])[by_image]]
    ordered = by_image[np.argsort(person[by_image], kind="stable")]
    return ordered, int((best <= keypoints.NUM_JOINTS).sum())


def _positions(names: pa.ChunkedArray, among: pa.ChunkedArray) -> Int64[np.ndarray, " names"]:
    """Return where each name stands, -1 where it does not."""
    positions = pc.index_in(names, value_set=among)
    return positions.fill_null(-1).to_numpy().astype(np.int64)


def check_bank_size(plan: GenerationPlan) -> None:
    """Refuse a bank with fewer poses than a person needs.

    Raises:
        UserError: If it has.
    """
    single = plan.first[:-1][np.diff(plan.first) == 1]
    available = len(plan.bank) - bool((plan.shown[single] >= 0).any())
    each = plan.picker.choices.candidate_poses
    needed = plan.per_id * each
    if available < needed:
        flags = "--per-id" if each == 1 else "--per-id times --candidate-poses"
        cure = (
            f"canonical poses are {len(plan.bank)}, lower it"
            if plan.bank.canonical
            else "lower it or name a larger table with --poses"
        )
        raise UserError(
            f"found {available:,} target poses for every person, expected at least "
            f"{needed:,} ({flags}); {cure}"
        )


def check_stems(plan: GenerationPlan) -> None:
    """Refuse sources whose generated images would share a name."""
    names = plan.sources.table["image_id"]
    stems = pc.replace_substring_regex(names, r"(?i)(\.(jpg|jpeg|png))+$", "")
    if pc.count_distinct(stems).as_py() == len(stems):
        return
    owner: dict[str, str] = {}
    people = plan.sources.strings("person_id")
    for source, person in zip(names.to_pylist(), people, strict=True):
        if owner.setdefault(stem(source), person) != person:
            raise UserError(
                f"images: '{source}' of person {person} differs from an image of person "
                f"{owner[stem(source)]} by its ending only; expected different names"
            )
