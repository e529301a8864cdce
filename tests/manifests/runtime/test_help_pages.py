"""Help, version, completion."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import augment
import manifests
import reid
from augment import generators
from augment.cli import PROGRAM as AUGMENT
from manifests.runtime.command_line import page_of, parse
from manifests.runtime.console import Exit, UserError
from manifests.runtime.flags import read_files
from manifests.runtime.help_pages import Flag, common, read_pages, render
from reid.cli import PROGRAM as REID

PROGRAMS = pytest.mark.parametrize("program", [AUGMENT, REID], ids=["augment", "reid"])
COMMANDS = [(program, name) for program in (AUGMENT, REID) for name in program.commands]
EVERY = pytest.mark.parametrize(
    ("program", "name"), COMMANDS, ids=[f"{program.name}-{name}" for program, name in COMMANDS]
)


@PROGRAMS
def test_the_pages_that_lie_beside_a_program_are_those_of_its_settings(program):
    stored = read_pages(program.pages)
    made = program.all_pages(afresh=True)
    assert list(stored) == list(made)
    for name, page in made.items():
        assert stored[name] == page, f"{name}: run scripts/write_help"


@PROGRAMS
def test_every_flag_has_a_sentence(program):
    mute = [
        (name, flag.names)
        for name, page in read_pages(program.pages).items()
        for flag in page
        if not flag.about.rstrip().endswith(".") or flag.about[:1] in {"", "("}
    ]
    assert mute == []


@pytest.mark.parametrize("name", generators.names())
def test_every_setting_of_a_system_has_a_sentence(name):
    system = generators.system(name)
    for settings in (system.Config, system.Options):
        assert [key for key, one in settings.model_fields.items() if not one.description] == []


@EVERY
def test_a_page_shows_groups_and_an_example_and_no_word_for_nothing(program, name, capsys):
    assert program.run([name, "--help"]) is Exit.DONE
    text = capsys.readouterr().out
    assert text.startswith(f"usage: {program.name} {name} ")
    assert f"\n  {program.name} {program.commands[name].example}\n" in text
    assert "\nbasic:\n" in text
    assert "\nsystem (where" in text
    for nothing in ("None", "{}", "(default: )", "(default: False)"):
        assert nothing not in text


@EVERY
def test_an_example_is_a_command_line_that_can_be_typed(program, name):
    command = program.commands[name]
    first, *rest = shlex.split(command.example)
    assert first == name
    module = __import__(command.module, fromlist=[command.settings])
    settings = getattr(module, command.settings)
    parse(settings if isinstance(settings, type) else settings(rest), name, "", rest)
    known = {one for flag in read_pages(program.pages)[name] for one in flag.names}
    basic = [one for flag in read_pages(program.pages)[name] if flag.level == "basic"
             for one in flag.names]  # fmt: skip
    assert {one for one in rest if one.startswith("--")} <= set(basic) | {"--out"}
    assert {f"--{one}" for one in command.basic} <= known


def test_help_needs_no_module_of_a_command():
    code = (
        "import sys; from {0}.cli import PROGRAM; PROGRAM.run(['{1}', '--help']); "
        "print(sorted({{'torch', 'tyro', 'pydantic', 'numpy', 'pyarrow'}} & set(sys.modules)))"
    )
    for program, name in (("augment", "generate"), ("reid", "study")):
        done = subprocess.run(
            [sys.executable, "-c", code.format(program, name)],
            capture_output=True, text=True, check=True, cwd=Path(augment.__file__).parents[1],
        )  # fmt: skip
        assert done.stdout.splitlines()[-1] == "[]"


def test_help_beside_other_flags_shows_what_they_change(capsys):
    AUGMENT.run(["train", "--generator", "gfla", "--help"])
    assert "--config.flow-width" in capsys.readouterr().out
    REID.run(["train", "--recipe", "bot", "--help"])
    text = capsys.readouterr().out
    assert "(default: bot)" in text
    assert "by --recipe" not in text
    with pytest.raises(UserError, match="found --recipe 'bott'"):
        REID.run(["train", "--recipe", "bott", "--help"])


def test_what_two_pages_have_in_common_leaves_out_what_a_flag_decides():
    def page(default, switch, about):
        return [
            Flag(("--recipe",), "STR", f"Which.\n\n{about}", default, "basic"),
            Flag(("--steps",), "INT", "Steps.", default, "basic"),
            Flag((switch,), "", "Score.", "", "basic"),
            Flag(("--seed",), "INT", "Seed.", "0", "basic"),
        ]

    found = common([page("1", "--score", "A."), page("2", "--no-score", "B.")], "--recipe")
    assert [(flag.names, flag.about, flag.default) for flag in found] == [
        (("--recipe",), "Which.", ""),
        (("--steps",), "Steps.", "by --recipe"),
        (("--score", "--no-score"), "Score.", "by --recipe"),
        (("--seed",), "Seed.", "0"),
    ]


@pytest.mark.parametrize("width", ["40", "80", "300"])
def test_a_page_is_as_wide_as_the_terminal_but_no_wider_than_one_reads(width, monkeypatch):
    monkeypatch.setenv("COLUMNS", width)
    flags = read_pages(REID.pages)["train"]
    lines = render("reid train", "train", "reid train", flags).splitlines()
    assert max(map(len, lines)) <= min(int(width), 100)


def test_the_version_is_that_of_the_packages(capsys):
    for program in (AUGMENT, REID):
        assert program.run(["--version"]) is Exit.DONE
        assert capsys.readouterr().out == f"{program.name} {manifests.__version__}\n"
    assert augment.__version__ == reid.__version__ == manifests.__version__


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["augment", "gen"], ["generate"]),
        (["augment", "generate", "--per"], ["--per-id"]),
        (["augment", "generate", "--subsampling", ""], ["4:2:0", "4:4:4"]),
        (["augment", "generate", "--source", "near"], ["nearest"]),
        (["augment", "status", "script"], ["script.sh"]),
    ],
)
def test_bash_completes_commands_flags_and_values(line, expected, tmp_path, capsys):
    AUGMENT.run(["--completion", "bash"])
    (tmp_path / "script.sh").write_text(capsys.readouterr().out)
    quoted = " ".join(map(shlex.quote, line))
    code = (
        f"source script.sh; COMP_WORDS=({quoted}); COMP_CWORD={len(line) - 1}; _augment; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert (done.stdout.split(), done.stderr) == (expected, "")


def test_another_shell_is_refused():
    with pytest.raises(UserError, match="--completion: found 'fish', expected one of bash, zsh"):
        REID.run(["--completion", "fish"])
    assert page_of(REID.commands["report"], read_files([]).whole())
