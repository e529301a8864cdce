"""Which poses of the bank a person is shown in: a random order, or what the person lacks first.

Whatever the choice, the poses of a person follow from (seed, person label) and the two tables, are
distinct, and the first ten are the same for 10 and for 20 images per person.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from jaxtyping import Float32, Float64, Int64

from augment.generation.choices import Choices
from augment.pose.bank import PoseBank
from augment.pose.clusters import pose_clusters, pose_medoids
from augment.pose.viewpoint import viewpoints
from manifests.io import Images
from manifests.runtime.random_numbers import bounded, random_bits

POSE_STREAM: Final = 1
"""Which Philox stream draws poses; stream 0 gives the source and the seed of a row."""
CLASS_STREAM: Final = 2
"""Which breaks ties between classes of poses."""

_UNITS: Final = (2.0**28, 2.0**14, 1.0)
"""What an image more of a camera, a viewpoint and a group counts: nobody has 2^14 images, so that a
camera weighs more than all viewpoints, and sums and ranks between them are exact."""


class Shuffle:
    """The beginning of a random order (Durstenfeld 1964); only what was moved is kept.

    >>> order = Shuffle(3)
    >>> [order.draw(bits) for bits in (2**63, 2**63, 0)]
    [1, 2, 0]
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._drawn = 0
        self._moved: dict[int, int] = {}

    def draw(self, bits: int) -> int:
        """Return the next place, by 64 random bits."""
        position = self._drawn
        other = position + bounded(bits, self._size - position)
        drawn = self._moved.get(other, other)
        self._moved[other] = self._moved.get(position, position)
        self._drawn += 1
        return drawn

    def __len__(self) -> int:
        """How many are left."""
        return self._size - self._drawn


class TargetPoses(Protocol):
    """An order of the bank's poses for every person."""

    def drawn(
        self, person: int, label: str, per_id: int, left_out: int
    ) -> Int64[np.ndarray, "per_id candidates"]:
        """Return the poses drawn for each row of a person, distinct rows of the bank.

        Args:
            person: Position of the person among all.
            label: The ``person_id``.
            per_id: Rows of the person.
            left_out: A row of the bank that is not drawn, -1 for none.
        """
        ...


@dataclass(frozen=True, slots=True)
class UniformPoses:
    """A shuffle of the whole bank, never at the price of a look at the whole bank."""

    seed: int
    num_poses: int
    candidates: int

    def drawn(
        self, person: int, label: str, per_id: int, left_out: int
    ) -> Int64[np.ndarray, "per_id candidates"]:
        """Return the beginning of the person's shuffle."""
        del person
        numbers = random_bits(self.seed, label, per_id * self.candidates, stream=POSE_STREAM)
        order = Shuffle(self.num_poses - (left_out >= 0))
        poses = np.array([order.draw(bits) for bits in numbers.tolist()], np.int64)
        poses = poses.reshape(per_id, self.candidates)
        return poses + (poses >= left_out) if left_out >= 0 else poses


@dataclass(frozen=True, slots=True)
class LackingPoses:
    """What a person has least of first: camera before viewpoint before group of like poses.

    Each row takes the class with the fewest images, real ones and rows before it counted together;
    equal ones in an order drawn per person, in which a camera that sees more comes sooner.
    """

    seed: int
    candidates: int
    members: tuple[Int64[np.ndarray, " poses"], ...]
    """Rows of the bank by class: those of one camera, viewpoint and group."""
    values: Int64[np.ndarray, "3 classes"]
    """Camera, viewpoint and group of every class; all 0 where it does not count."""
    seen: tuple[Int64[np.ndarray, "people values"], ...]
    """Real images of a person by camera, by viewpoint and by group."""
    growth: Float64[np.ndarray, "classes classes"]
    """What one image of a class (row) adds to what a person has of each class."""
    rests: Float64[np.ndarray, " classes"]
    """How late a class comes among equals, in the mean."""

    def drawn(
        self, person: int, label: str, per_id: int, left_out: int
    ) -> Int64[np.ndarray, "per_id candidates"]:
        """Return the poses of the classes that the person lacks most, row by row."""
        # One number more, should the pose that is left out be drawn.
        numbers = random_bits(self.seed, label, per_id * self.candidates + 1, stream=POSE_STREAM)
        bits = iter(numbers.tolist())
        has = self._at_first(person, label)
        orders: dict[int, Shuffle] = {}
        poses: list[int] = []
        for _ in range(per_id):
            wanted = len(poses) + self.candidates
            while len(poses) < wanted:
                place = int(has.argmin())
                members = self.members[place]
                if place not in orders:
                    orders[place] = Shuffle(len(members))
                order, before = orders[place], len(poses)
                while len(order) and len(poses) < wanted:
                    pose = int(members[order.draw(next(bits))])
                    if pose != left_out:
                        poses.append(pose)
                if len(poses) > before:
                    has += self.growth[place]
                if not len(order):
                    has[place] = np.inf
        return np.array(poses, np.int64).reshape(per_id, self.candidates)

    def _at_first(self, person: int, label: str) -> Float64[np.ndarray, " classes"]:
        """Return what a person has of each class, and a number in [0, 1) that orders equals."""
        bits = random_bits(self.seed, label, len(self.members), stream=CLASS_STREAM)
        # Exponential times, of which the smallest comes first (Efraimidis and Spirakis 2006).
        times = -np.log((bits + 1.0) * 2.0**-64) * self.rests
        has = times / (1 + times)
        for of, values, unit in zip(self.seen, self.values, _UNITS, strict=True):
            if of.shape[1] > 1:
                has += unit * of[person, values]
        return has


@dataclass(frozen=True, slots=True)
class RealImages:
    """What a person has been seen in, of which some kinds may be lacking."""

    images: Images
    """The train rows."""
    joints: Float32[np.ndarray, "images 18 2"]
    """In pixels of the generated image."""
    person: Int64[np.ndarray, " images"]
    """Whom each shows, -1 for people without rows in the plan."""

    def counted(
        self, values: Int64[np.ndarray, " images"], count: int
    ) -> Int64[np.ndarray, "people values"]:
        """Return how many images of each value every person has; those below 0 do not count."""
        known = (self.person >= 0) & (values >= 0)
        counts = np.zeros((int(self.person.max()) + 1, count), np.int64)
        np.add.at(counts, (self.person[known], values[known]), 1)
        return counts


def target_poses(choices: Choices, seed: int, bank: PoseBank, real: RealImages) -> TargetPoses:
    """Return the order of poses that the choices ask for; another seed gives another one."""
    lacks_cameras = choices.backgrounds == "lacking"
    if choices.pose_choice in {"uniform", "canonical"} and not lacks_cameras:
        return UniformPoses(seed, len(bank), choices.candidate_poses)
    bank_values = [np.zeros(len(bank), np.int64)] * 3
    real_values = [np.full(len(real.images), -1)] * 3
    if lacks_cameras:
        cameras, bank_values[0] = np.unique(camera_numbers(bank.images), return_inverse=True)
        seen_by = camera_numbers(real.images)
        place = np.searchsorted(cameras, seen_by).clip(max=len(cameras) - 1)
        real_values[0] = np.where(cameras[place] == seen_by, place, -1)
    if choices.pose_choice != "uniform":
        medoids = bank.joints[pose_medoids(bank.joints)]
        bank_values[2] = pose_clusters(bank.joints, medoids)
        if choices.pose_choice == "complementary":
            bank_values[1] = viewpoints(bank.joints)
            real_values[1:] = viewpoints(real.joints), pose_clusters(real.joints, medoids)
    values, classes = np.unique(np.stack(bank_values), axis=1, return_inverse=True)
    order = np.argsort(classes, kind="stable")
    ends = np.cumsum(np.bincount(classes))
    equal = values[:, :, None] == values[:, None]
    return LackingPoses(
        seed,
        choices.candidate_poses,
        tuple(np.split(order, ends[:-1])),
        values,
        tuple(
            real.counted(of_real, int(of_bank.max()) + 1)
            for of_real, of_bank in zip(real_values, bank_values, strict=True)
        ),
        np.tensordot(_UNITS, equal, axes=1),
        len(bank) / np.bincount(bank_values[0])[values[0]],
    )


def camera_numbers(images: Images) -> Int64[np.ndarray, " images"]:
    """Return the camera of every row; those that are not known are one camera."""
    return np.asarray(images.table["camera_id"]).astype(np.int64)
