"""The plan of people who do not exist.

A person is one draw of the generator's foreground (Ma et al., CVPR 2018); every image has a pose
of the bank and a background of its own. Labels begin with ``n`` and rows have no source, so that
nobody takes them for people of a table.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt64

from augment.generation.choices import MOST_NEW_PEOPLE, Choices, NewPeople
from augment.generation.plan import GenerationPlan, check_bank_size
from augment.generation.source_choice import SourcePicker
from augment.generation.target_poses import UniformPoses, camera_numbers
from augment.interface.system import PoseTransfer
from augment.pose.bank import PoseBank
from manifests.io import Images
from manifests.keypoints import NUM_JOINTS
from manifests.runtime.console import UserError
from manifests.runtime.random_numbers import random_bits


def seeds_of(seed: int, people: tuple[str, ...]) -> UInt64[np.ndarray, " rows"]:
    """Return the seed of each row's person: rows of one person have one."""
    drawn = {label: random_bits(seed, f"new person/{label}")[0] for label in dict.fromkeys(people)}
    return np.array([drawn[label] for label in people], np.uint64)


def check_new_people(
    people: NewPeople, system: type[PoseTransfer], choices: Choices, images: Images
) -> None:
    """Refuse what cannot be drawn, or could be taken for somebody real.

    Raises:
        UserError: If the system draws nobody, numbers go too far, a choice of sources, poses or
            backgrounds would choose nothing, or a label is that of a person of the table.
    """
    flag = f"--new-people {people.new_people}"
    if not system.draws_people:
        raise UserError(
            f"{flag}: found weights of {system.__name__}, which shows people of images; expected "
            "weights of a system that draws people (dpig)"
        )
    if people.first_person + people.new_people - 1 > MOST_NEW_PEOPLE:
        raise UserError(
            f"{flag} from --first-person {people.first_person} on goes beyond "
            f"{MOST_NEW_PEOPLE:,}; expected lower numbers"
        )
    for name, choice in Choices.model_fields.items():
        value = getattr(choices, name)
        if value != choice.default:
            raise UserError(
                f"--{name.replace('_', '-')} {value}: chooses by images of a person, and new "
                f"people have none; expected {choice.default} with --new-people"
            )
    taken = set(people.labels) & set(images.strings("person_id"))
    if taken:
        raise UserError(
            f"{flag}: '{min(taken)}' is a person of the images table; expected other numbers "
            "(--first-person)"
        )


def new_people_plan(
    images: Images, bank: PoseBank, people: NewPeople, per_id: int, seed: int
) -> GenerationPlan:
    """Return the plan of people who do not exist.

    Args:
        images: A table, of which no row becomes a source.
        bank: The target poses.
        people: Who they are.
        per_id: Images per person.
        seed: Another seed draws other people in other poses.

    Raises:
        UserError: If ``per_id`` is below 1 or the bank has fewer poses than that.
    """
    if per_id < 1:
        raise UserError(f"--per-id: found {per_id}, expected at least 1")
    nobody = images.take(np.empty(0, np.int64))
    nothing = np.empty(0, np.int64)
    joints = np.empty((0, NUM_JOINTS, 2), np.float32)
    picker = SourcePicker(
        Choices(), bank, camera_numbers(bank.images), joints, nothing, camera_numbers(nobody)
    )
    plan = GenerationPlan(
        sources=nobody,
        people=people.labels,
        first=np.zeros(people.new_people + 1, np.int64),
        bank=bank,
        targets=UniformPoses(seed, len(bank), 1),
        picker=picker,
        per_id=per_id,
        seed=seed,
        num_without_torso=0,
        are_new=True,
    )
    check_bank_size(plan)
    return plan
