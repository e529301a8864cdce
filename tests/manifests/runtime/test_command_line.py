"""From a command line to a function, and what a wrong one is told."""

import pytest

from augment.cli import PROGRAM


def refusal(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        PROGRAM.main(arguments)
    printed = capsys.readouterr()
    assert printed.out == ""
    return left.value.code, printed.err


LISTED = "expected what 'augment sample --help' lists"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["sample", "--peple", "3", "--out", "x"],
            f"found --peple, 3, {LISTED}, perhaps --people INT",
        ),
        (["sample", "--out", "x", "zzz"], f"found zzz, {LISTED}"),
        (["sample", "--out", "x", "y" * 200], f"found {'y' * 200}, {LISTED}"),
        (
            ["sample", "--people", "ten", "--out", "x"],
            "--people: found 'ten', expected --people INT",
        ),
        (
            ["sample", "--log-format", "yaml", "--out", "x"],
            "invalid choice 'yaml' for argument '--log-format', expected one of ('text', 'json')",
        ),
        (["sample", "--out"], "Missing value for argument '--out', expected 1 values"),
        (["index"], "expected PATH and --out PATH, found none"),
        (
            ["index", "x", "--oot"],
            f"expected --out PATH, found none; found --oot, {LISTED.replace('sample', 'index')}",
        ),
    ],
)
@pytest.mark.parametrize("coloured", [False, True])
def test_a_wrong_command_line_is_told_so_in_one_sentence(
    arguments, sentence, coloured, capsys, monkeypatch
):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout.isatty", lambda: coloured)

    assert refusal(arguments, capsys) == (2, f"error: {sentence}\n")


def test_an_unknown_command_is_told_the_known_ones(capsys):
    code, said = refusal(["generat"], capsys)

    assert code == 2
    assert said.startswith("error: found command 'generat', expected one of sample, index, ")


def test_help_is_no_refusal_and_as_wide_as_the_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")

    with pytest.raises(SystemExit) as left:
        PROGRAM.main(["sample", "--people", "3", "--help"])

    printed = capsys.readouterr()
    assert left.value.code == 0
    assert printed.err == ""
    assert "usage: augment sample" in printed.out
    assert 50 < max(map(len, printed.out.splitlines())) <= 60
