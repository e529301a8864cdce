"""Names of people as data sets write them: nobody's names, and two spellings of one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

from manifests.runtime.console import UserError
from manifests.schema import DISTRACTOR, JUNK

PREFIX: Final = "person "
"""Of people whose name is nobody's in Market-1501."""
_NUMBER: Final = re.compile(r"([-+]?)0*(\d*?)(?:\.0*)?", re.ASCII)
_LEADING_ZEROS: Final = re.compile(r"(?<![\d.])0+(?=\d)", re.ASCII)


def person_label(person_id: str) -> str:
    """Return the name of a person of a data set without junk and distractors.

    Market-1501 alone calls junk ``-1`` and distractors ``0000``; a person of such a name elsewhere
    gets another one.

    >>> [person_label(text) for text in ("0000", "-1", "-1.0", "0", "anna")]
    ['person 0000', 'person -1', 'person -1.0', '0', 'anna']
    """
    return f"{PREFIX}{person_id}" if is_nobody(person_id) else person_id


def is_nobody(person_id: str) -> bool:
    """Return whether Market-1501 means nobody by a name, or by another spelling of it."""
    return person_id == DISTRACTOR or canonical(person_id) == JUNK


def canonical(person_id: str) -> str:
    r"""Return what all spellings of a name share.

    Case, spaces around it, leading zeros of its numbers, ``.0`` behind one, a plus before one and
    the form of its Unicode letters do not count.

    >>> [canonical(text) for text in ("1", "0001", "1.0", "-1.00", "Anna", "0000", "1.5")]
    ['1', '1', '1', '-1', 'anna', '0', '1.5']
    >>> [canonical(text) for text in (" p007_0", "P7_0", "1.05", "+2")]
    ['p7_0', 'p7_0', '1.05', '2']
    >>> canonical("e\u0301") == canonical("\xe9")
    True
    """
    text = unicodedata.normalize("NFKC", person_id).strip()
    match = _NUMBER.fullmatch(text)
    if match is None or not re.search(r"\d", text, re.ASCII):
        return _LEADING_ZEROS.sub("", text.casefold())
    return f"{match[1].strip('+')}{match[2] or '0'}"


def check_spellings(person_ids: Iterable[str], where: str) -> None:
    """Check that no two of these names are one name in two spellings.

    Raises:
        UserError: If some are, or one is another spelling of junk; names a pair and counts them.
    """
    names = sorted(set(person_ids))
    junk = [name for name in names if name != JUNK and canonical(name) == JUNK]
    if junk:
        raise UserError(
            f"{where}: found the person '{junk[0]}', expected '{JUNK}' for junk, which is never "
            "ranked"
        )
    doubtful = other_spellings(names, [])
    if doubtful:
        raise UserError(
            f"{where}: found {_pairs(doubtful)}, which differ in zeros, a decimal point, case or "
            "spaces alone; expected one spelling for each person"
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
