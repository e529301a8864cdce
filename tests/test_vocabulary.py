"""The project speaks the field's language: words that it gave up do not come back."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

EVERYWHERE = {
    "discriminator": r"judg(?:e|es|ed|ing)|critics?",
    "ray pool, actor": r"crews?|hir(?:e|es|ed|ing)",
    "unexpected files": r"strangers?",
    "tied weights": r"twins?",
    "skipped files": r"strays?",
    "identity similarity": r"likeness(?:es)?",
    "replacement sampler": r"stand[-_ ]?ins?",
    "random numbers": r"dice",
    "clothing": r"wardrobes?",
    "pose sampling": r"postures?",
    "leakage": r"integrity",
}
"""What is said now: what is said nowhere, as a word or as a part of a name."""

IN_CODE = {
    "storage": r"places|PlaceFlag|StorePath",
    "run record, config": r"claims?|asked",
    "executor, shard actor": r"Hands|hands|Member|_Hand",
    "is_primary": r"leads",
    "init_distributed": r"joined",
    "prefetch": r"ahead|Ahead|_Ahead",
    "output options, arguments": r"Talk|talk|words|words_of|who_am_i",
    "EMA": r"Average",
    "centroids": r"Centres|centres_of",
    "fp16": r"half",
    "generator loss": r"fooling",
    "renderer, body shape": r"bodies",
}
"""Names (whole) that no variable, function, class, argument or module has."""

SUFFIXES = {".py", ".md", ".toml", ".sh", ".yaml", ".cff", ""}
EXEMPT = {"tests/test_vocabulary.py", "constraints.txt", "LICENSE"}


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split("\n")  # fmt: skip
    return [
        ROOT / name
        for name in sorted(listed)
        if name and name not in EXEMPT and Path(name).suffix in SUFFIXES and (ROOT / name).is_file()
    ]


def lines_with(pattern: re.Pattern[str], path: Path) -> list[str]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError:
        return []
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for number, line in enumerate(lines, 1)
        if pattern.search(line)
    ]


@pytest.mark.parametrize("now", EVERYWHERE)
def test_words_given_up_stand_in_no_code_no_text_and_no_message(now: str) -> None:
    # Parts of names count: _pair_judge, CriticLoss, judgeNames. The key of a random stream,
    # "word/...", is data: another key would draw other people.
    pattern = re.compile(rf"(?:(?<![A-Za-z])|(?<=[a-z])(?=[A-Z]))(?i:{EVERYWHERE[now]})(?![a-z/])")
    found = [line for path in tracked() for line in lines_with(pattern, path)]
    assert not found, f"say {now}:\n" + "\n".join(found)


@pytest.mark.parametrize("now", IN_CODE)
def test_names_given_up_are_no_names_in_code(now: str) -> None:
    import io
    import tokenize

    whole = re.compile(IN_CODE[now])
    found = [
        f"{path.relative_to(ROOT)}:{token.start[0]}: {token.line.strip()[:100]}"
        for path in tracked()
        if path.suffix == ".py"
        for token in tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline)
        if token.type == tokenize.NAME and whole.fullmatch(token.string)
    ]
    assert not found, f"say {now}:\n" + "\n".join(found)
