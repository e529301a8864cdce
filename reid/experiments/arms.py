"""Arms of a study that are flags of ``reid train``: ``--arms scenes='--scene-added 16'``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

from tyro.conf import Suppress

from manifests.runtime.command_line import HELP, OutputOptions, parse
from manifests.runtime.console import UserError
from manifests.runtime.storage import StoragePathFlag
from reid.data.controls import Control
from reid.evaluation.ranking import Protocol
from reid.training.settings import TrainSettings, with_defaults


class ArmTraining(TrainSettings):
    """Settings of 'reid train' that an arm may change; what the grid decides is hidden."""

    images: Suppress[Path] = Path()
    out: Suppress[Path] = Path()
    root: Suppress[Path | None] = None
    synthetic: StoragePathFlag | None = None
    """Folder of a synthetic set, with {fraction} where it depends on it."""
    real_fraction: Suppress[float] = 1.0
    seed: Suppress[int] = 0
    score: Suppress[bool] = False
    protocol: Suppress[Protocol] = "market1501"
    flip_test: Suppress[bool] = False


class CellTraining(ArmTraining):
    """Settings of 'reid train' that all runs share; what tells the arms apart is hidden too."""

    synthetic: Suppress[StoragePathFlag | None] = None
    control: Suppress[Control] = "none"


_ELSEWHERE: Final[Mapping[str, str]] = {
    "images": "--images",
    "out": "--out",
    "root": "--root",
    "synthetic-share": "--train.synthetic-share",
    "synthetic-mix": "--train.synthetic-mix",
    "real-fraction": "--fractions",
    "data-seed": "--train.data-seed",
    "val-people": "--train.val-people",
    "seed": "--seeds",
    "recipe": "--train.recipe",
    "steps": "--train.steps or --epochs",
    "score": "--score.NAME",
    "protocol": "--score.protocol",
    "flip-test": "--score.flip-test",
}
"""Flags of 'reid train' that no arm has, and what says the same for all arms of a study."""


def named_part(flag: str, text: str, what: str) -> tuple[str, str]:
    """Return the two sides of ``NAME=WHAT``.

    >>> named_part("--arms", "scenes=--scene-added 16", "'FLAGS'")
    ('scenes', '--scene-added 16')

    Raises:
        UserError: If there is no such name, or nothing after it.
    """
    name, _, rest = text.partition("=")
    if not rest.strip() or not name.replace("-", "").replace("_", "").isalnum():
        raise UserError(
            f"{flag}: found '{text}', expected NAME={what} with a name of letters, digits, '-' "
            "and '_'"
        )
    return name, rest


def arm_training(name: str, flags: str, common: CellTraining) -> ArmTraining:
    """Return the settings that all arms share, changed by the flags of one.

    Args:
        name: Of the arm, for messages.
        flags: As they are typed after 'reid train'.
        common: What the arm has where it says nothing.

    Raises:
        UserError: If there is no such flag (names the nearest), a value is none of it, the grid
            decides it, or it is a control in the place of a synthetic set.
    """
    return _parsed(f"--arms {name}", flags, common.to_json())


@cache
def _parsed(where: str, flags: str, common: str) -> ArmTraining:
    """Return the settings of an arm; each cell asks for them, and parsing takes its time."""
    try:
        arguments = shlex.split(flags)
    except ValueError as error:
        raise UserError(
            f"{where}: found '{flags}' ({error}), expected flags of 'reid train'"
        ) from error
    for argument in arguments:
        _check_is_an_arms(argument, where)
    shared = dict(CellTraining.from_json(common))
    try:
        training, output = parse(
            with_defaults(ArmTraining, shared), "reid train", "", tuple(arguments)
        )
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    if output != OutputOptions():
        raise UserError(f"{where}: found flags of output, expected them after 'reid study'")
    if training.control not in {"none", "added-real"}:
        raise UserError(
            f"{where}: found --control {training.control}, which replaces synthetic images; "
            f"expected --controls {training.control}, beside --synthetic-sets"
        )
    return training


def _check_is_an_arms(argument: str, where: str) -> None:
    flag = argument.partition("=")[0]
    setting = flag.removeprefix("--").removeprefix("no-").replace("_", "-")
    if flag.startswith("--") and setting in _ELSEWHERE:
        raise UserError(
            f"{where}: found {flag}, which is the same for all arms; expected "
            f"{_ELSEWHERE[setting]} of 'reid study'"
        )
    if argument in HELP:
        raise UserError(f"{where}: found {argument}, expected flags that 'reid train --help' lists")
