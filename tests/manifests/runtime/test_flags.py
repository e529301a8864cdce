"""Settings from a file, and the file that a run leaves."""

import os
from pathlib import Path
from typing import Annotated

import pytest
from tyro.conf import OmitArgPrefixes, Positional, Suppress, arg

from augment.cli import PROGRAM
from manifests.runtime.command_line import parse
from manifests.runtime.console import UserError
from manifests.runtime.flags import RECORD, flags_of, positional_names, read_files, write_record
from manifests.runtime.settings import Frozen


class Inner(Frozen):
    rate: float = 0.5
    """A rate."""
    swaps: bool = True
    """Whether."""


class Outer(Frozen):
    source: Positional[Path]
    """Where from."""
    out: Path
    """Where to."""
    per_id: int = 10
    """How many."""
    root: Path | None = Path("here")
    """Root."""
    weights: str | None = None
    """Weights."""
    parts: tuple[float, ...] = ()
    """Parts."""
    as_json: Annotated[bool, arg(name="json")] = False
    """JSON."""
    hidden: Suppress[int] = 3
    """Not on the command line."""
    inner: Inner = Inner()
    flat: OmitArgPrefixes[Inner] = Inner()
    worker: str | None = None
    """Which."""


def parsed(arguments: list[str]) -> Outer:
    return parse(Outer, "outer", "", read_files(arguments).whole(positional_names(Outer)))[0]


CHOSEN = ["in", "--out", "o", "--per-id", "3", "--parts", "0.5", "1", "--json", "--inner.rate",
          "0.25", "--inner.no-swaps", "--worker", "1/2"]  # fmt: skip


def test_flags_are_named_as_they_are_typed():
    assert list(dict(flags_of(parsed(CHOSEN)))) == [
        "source", "out", "per-id", "root", "weights", "parts", "json", "inner.rate",
        "inner.swaps", "rate", "swaps", "worker",
    ]  # fmt: skip


def test_the_file_that_a_run_leaves_gives_the_same_settings(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    settings = parsed([*CHOSEN, "--out", str(out)])
    write_record(settings, "augment outer")
    text = (out / RECORD).read_text()
    assert text.startswith("# augment outer --config settings.yaml --out NEW ")
    assert "worker" not in text
    again = parsed(["--config", str(out / RECORD)])
    assert again == settings.model_copy(update={"worker": None})


def test_what_is_typed_wins_over_the_file(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("source: in\nout: o\nper_id: 3\nparts: [0.5, 1]\ninner: {rate: 0.25}\n")
    found = parsed(["else", f"--config={file}", "--per-id", "4", "--parts", "0.75"])
    assert (found.source, found.per_id, found.parts) == (Path("else"), 4, (0.75,))
    assert found.inner.rate == 0.25


def test_nothing_can_be_said_in_a_file(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("root: null\n")
    assert parsed(["in", "--out", "o", "--config", str(file)]).root is None


def test_a_file_of_a_run_is_left_alone_and_a_dry_run_leaves_none(tmp_path):
    write_record(parsed([*CHOSEN, "--out", str(tmp_path / "missing")]), "augment outer")
    assert not (tmp_path / "missing").exists()
    (tmp_path / RECORD).write_text("mine")
    write_record(parsed([*CHOSEN, "--out", str(tmp_path)]), "augment outer")
    assert (tmp_path / RECORD).read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            None,
            r"--config .*a\.yaml: cannot be read \(No such file or directory\); expected a YAML",
        ),
        (b"\xff\xfe\x00", r"a\.yaml: cannot be read \(no text\)"),
        (b"a: [1", r"a\.yaml: found no YAML \("),
        (b"a: 2024-99-99", r"a\.yaml: found no YAML \(month must be in 1\.\.12\)"),
        (b"- 1\n", r"a\.yaml: expected flags with their values"),
        (b"a: &x [1]\nb: *x\n", r"a\.yaml: found an alias \(\*NAME\), expected the values"),
        (b"a: &x {b: *x}\n", r"a\.yaml: found an alias \(\*NAME\), expected the values"),
        (b"peple: 3\n", r"found --peple=3, expected what 'augment sample --help' lists, perhaps "),
        (b"people: ten\n", r"--people: found 'ten', expected --people INT"),
    ],
)
def test_a_file_that_holds_no_settings_is_refused_in_one_sentence(tmp_path, text, said):
    if text is not None:
        (tmp_path / "a.yaml").write_bytes(text)
    with pytest.raises(UserError, match=said) as refused:
        PROGRAM.run(["sample", "--out", str(tmp_path / "x"), "--config", str(tmp_path / "a.yaml")])
    assert "\n" not in str(refused.value)


def test_a_pipe_of_the_shell_is_read_once():
    reader, writer = os.pipe()
    os.write(writer, b"per-id: 3\nout: o\nsource: in\n")
    os.close(writer)
    typed = read_files(["--config", f"/dev/fd/{reader}"])
    os.close(reader)
    assert typed.whole() == ["--per-id=3", "--out=o", "--source=in"]
    assert typed.whole(["source"]) == ["in", "--per-id=3", "--out=o"]
