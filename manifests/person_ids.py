"""Names of people as data sets write them: nobody's names, and two spellings of one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from manifests.runtime.console import UserError
from manifests.schema import DISTRACTOR, JUNK

_NUMBER: Final = re.compile(r"(-?)0*(\d*?)(?:\.0*)?", re.ASCII)


def person_label(person_id: str) -> str:
    """Return the name of a person of a data set without junk and distractors.

    Market-1501 alone calls junk ``-1`` and distractors ``0000``; a person of such a name elsewhere
    gets another one.

    >>> [person_label(text) for text in ("0000", "-1", "0", "anna")]
    ['person 0000', 'person -1', '0', 'anna']
    """
    return f"person {person_id}" if person_id in {JUNK, DISTRACTOR} else person_id


def canonical(person_id: str) -> str:
    """Return what all spellings of a name share: case, leading zeros and ``.0`` do not count.

    >>> [canonical(text) for text in ("1", "0001", "1.0", "-1.00", "Anna", "0000", "1.5")]
    ['1', '1', '1', '-1', 'anna', '0', '1.5']
    """
    match = _NUMBER.fullmatch(person_id)
    if match is None or person_id in {"", "-", "."}:
        return person_id.casefold()
    return f"{match[1]}{match[2] or '0'}"


def check_spellings(person_ids: Iterable[str], where: str) -> None:
    """Check that no two of these names are one name in two spellings.

    Raises:
        UserError: If some are; names a pair and counts them.
    """
    doubtful = other_spellings(sorted(set(person_ids)), [])
    if doubtful:
        raise UserError(
            f"{where}: found {_pairs(doubtful)}, which differ in zeros, a decimal point or case "
            "alone; expected one spelling for each person"
        )


def other_spellings(left: Sequence[str], right: Sequence[str]) -> list[tuple[str, str]]:
    """Return pairs of names that are not equal but have one canonical spelling.

    Args:
        left: Distinct names.
        right: Further ones; pairs are looked for within both.
    """
    first: dict[str, str] = {}
    pairs: list[tuple[str, str]] = []
    for name in (*left, *right):
        other = first.setdefault(canonical(name), name)
        if other != name:
            pairs.append((other, name))
    return pairs


def _pairs(pairs: Sequence[tuple[str, str]]) -> str:
    more = f" and {len(pairs) - 1:,} more such pairs" if len(pairs) > 1 else ""
    return f"the people '{pairs[0][0]}' and '{pairs[0][1]}'{more}"
