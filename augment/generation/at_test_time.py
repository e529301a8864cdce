"""The plan of images for test time: every query and gallery image in each canonical pose.

They serve ``reid score --centralise`` and nothing else: their rows carry the split of their source,
so that ``reid train`` refuses them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute
from jaxtyping import Int64

from augment.generation.choices import Choices
from augment.generation.plan import GenerationPlan, check_stems
from augment.generation.source_choice import SourcePicker
from augment.generation.target_poses import camera_numbers
from augment.interface.system import Need
from augment.pose.bank import joints_in
from augment.pose.canonical import canonical_bank
from manifests import keypoints
from manifests.io import Images
from manifests.runtime.console import UserError
from manifests.scenes import rows_with_street
from manifests.schema import JUNK

# pyarrow makes these functions at import time, where type checkers do not see them.
pc: Any = pyarrow.compute


@dataclass(frozen=True, slots=True)
class EveryPose:
    """All poses of the bank in its order, for everybody."""

    num_poses: int

    def drawn(
        self, person: int, label: str, per_id: int, left_out: int
    ) -> Int64[np.ndarray, "per_id candidates"]:
        """Return the rows of the bank, one after the other."""
        del person, label, per_id, left_out
        return np.arange(self.num_poses)[:, None]


def test_time_plan(
    images: Images,
    size: tuple[int, int],
    choices: Choices,
    seed: int,
    needs: frozenset[Need],
) -> GenerationPlan:
    """Return the plan for the query and gallery images of a table.

    Junk, which is never ranked, and images without shoulders and hips are left out, also those
    without a mask where the system needs it, and where people are shown before their own streets
    those whose mask leaves none.

    Args:
        images: A table in any row order.
        size: (width, height) of the generated images.
        choices: Whether poses are scaled to their source.
        seed: Of systems that draw something.
        needs: What the system needs of a source, and whether it shows a street.

    Raises:
        UserError: If no image is left, or two differ in their endings alone.
    """
    splits, people = (np.array(images.strings(name)) for name in ("split", "person_id"))
    ranked = images.take(np.flatnonzero((splits != "train") & (people != JUNK)))
    if not len(ranked):
        raise UserError(
            f"found no query or gallery rows in {len(images):,} images, expected some: --purpose "
            "test-time shows these in other poses"
        )
    joints = joints_in(ranked, size)
    usable = keypoints.has_torso(joints)
    mask = ""
    if "mask" in needs:
        usable &= np.asarray(ranked.table["mask"].is_valid())
        mask = " and a mask"
    if "background" in needs:
        usable &= rows_with_street(ranked, size)
        mask = " and a mask that leaves a street"
    if not usable.any():
        raise UserError(
            f"found none of {len(ranked):,} query and gallery images with shoulders, hips{mask}, "
            f"expected some; 'augment detect{' --masks' if mask else ''}' adds them"
        )
    rows = pc.sort_indices(
        ranked.table, sort_keys=[("person_id", "ascending"), ("image_id", "ascending")]
    ).to_numpy()
    rows = rows[usable[rows]]
    sources = ranked.take(rows)
    bank = canonical_bank(size)
    labels = np.array(sources.strings("person_id"))
    # How many sources of the same person come before each.
    begins = np.r_[True, labels[1:] != labels[:-1]] if len(labels) else np.empty(0, bool)
    place = np.arange(len(labels))
    within = place - np.maximum.accumulate(np.where(begins, place, 0))
    plan = GenerationPlan(
        sources=sources,
        people=tuple(labels.tolist()),
        first=np.arange(len(sources) + 1),
        bank=bank,
        targets=EveryPose(len(bank)),
        picker=SourcePicker(
            choices,
            bank,
            camera_numbers(bank.images),
            joints[rows],
            np.full(len(sources), -1),
            camera_numbers(sources),
        ),
        per_id=len(bank),
        seed=seed,
        num_without_torso=0,
        own_streets="background" in needs,
        size=size,
        first_k=within * len(bank),
        num_left_out=len(ranked) - len(sources),
        needs_mask="mask" in needs,
    )
    check_stems(plan)
    return plan
