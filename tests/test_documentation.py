"""Every code block of README and docs runs, or says at its top what it needs that a test has not.

A block that begins with ``# needs ...`` is not run: its command lines are parsed. All others run on
a few made-up people, with small numbers in the place of those in ``SMALL``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

import augment.cli
import reid.cli
from augment.generators import names as generator_names
from manifests import pixels
from manifests.io import read_images, write_images
from manifests.masks import encode_mask
from manifests.runtime.command_line import page_of
from manifests.runtime.console import Exit
from tests.test_foreign_layouts import LAYOUTS

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
PROGRAMS = {"augment": augment.cli.PROGRAM, "reid": reid.cli.PROGRAM}

LANGUAGES = {"": "shell", "python": "python", "yaml": "yaml", "text": "text"}
NEEDS = re.compile(
    r"# needs (.*(Market-1501|GPUs?|Slurm|Ray|Kubernetes|an S3 bucket|minutes|hours|days|"
    r"FiftyOne).*)"
)
MARKET = "Market-1501-v15.09.15"
NOT_RUN = ("torchrun", "python", "pip", "sbatch")
"""Commands that are written down and not run, beside those of scripts/."""
SMALL = {
    "--steps": "2",
    "--batch-size": "8",
    "--per-id": "2",
    "--people": "6",
    "--test-people": "4",
}
SPEAK_OF_OTHERS = {"README.md", "docs/python.md"}
"""Pages whose Python takes images, poses and labels for given."""
BEGIN_WITH_NOTHING = {"README.md", "docs/index.md"}
"""Pages whose own blocks make all that the later ones need."""


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str

    @property
    def needs(self) -> str | None:
        found = NEEDS.fullmatch(self.text.splitlines()[0])
        return found[1] if found else None


def blocks_of(page: str) -> list[Block]:
    """Return the fenced blocks of a page, whatever their language and their indent."""
    found: list[Block] = []
    fence, start, kept = "", 0, []
    for number, line in enumerate((ROOT / page).read_text("utf-8").splitlines(), 1):
        opened = re.match(r"\s*(`{3,}|~{3,})(.*)", line)
        if not fence and opened:
            fence, language, start, kept = opened[1], opened[2].strip(), number, []
        elif fence and line.strip() == fence:
            found.append(Block(page, start, language, "\n".join(kept)))
            fence = ""
        elif fence:
            kept.append(line)
    assert not fence, f"{page}:{start}: the block has no end"
    return found


ALL_BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def command_lines(block: Block, folder: Path) -> list[list[str]]:
    """Return the commands that a shell would start, its loops, variables and quotes resolved."""
    shims, record = folder / "shims", folder / "commands"
    if not shims.exists():
        shims.mkdir()
        (folder / "scripts").mkdir()
        scripts = [f"scripts/{path.name}" for path in (ROOT / "scripts").iterdir()]
        named = [*(f"shims/{name}" for name in (*PROGRAMS, *NOT_RUN)), *scripts]
        for name in [*named, ".venv/bin/python", ".venv/bin/activate"]:
            shim = folder / name
            shim.parent.mkdir(parents=True, exist_ok=True)
            shim.write_text(
                '#!/bin/bash\nline=$(printf \'%s\\x1f\' "$0" "$@")\n'
                f"printf '%s\\x1e' \"$line\" >>{record}\n"
            )
            shim.chmod(stat.S_IRWXU)
        (folder / ".venv/bin/activate").write_text("")
    record.write_text("")
    path = f"{shims}:/usr/bin:/bin"
    environ = {**os.environ, "PATH": path, "BASH_ENV": ""}
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        cwd=folder, env=environ, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    lines = [line.split("\x1f")[:-1] for line in record.read_text().split("\x1e")[:-1]]
    return [[line[0].removeprefix(f"{shims}/"), *line[1:]] for line in lines]


def check(command: list[str], settings_folder: Path) -> None:
    """Parse a command line without running it."""
    program, *arguments = command
    if program in PROGRAMS:
        # Weights that an earlier line would have made say nothing about flags.
        known = ["patn-sample" if one.endswith("weights.safetensors") else one for one in arguments]
        PROGRAMS[program].prepare(known)
    elif program == "torchrun":
        name = next(i for i, one in enumerate(arguments) if one in {"augment", "-m"})
        inner = arguments[name:]
        inner = [inner[1].removesuffix(".cli"), *inner[2:]] if inner[0] == "-m" else inner
        check(inner, settings_folder)
    elif program == "pip":
        project = (ROOT / "pyproject.toml").read_text("utf-8")
        for extra in re.findall(r"reid-augment\[(\w+)\]", " ".join(arguments)):
            assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra
    elif program != "sbatch" and command[:3] != ["python", "-m", "venv"]:
        check_script(command)


def check_script(command: list[str]) -> None:
    """Look for a script and for each of its flags in its text."""
    if command[0].endswith("python"):
        command = command[1:]
        if command[0] == "-m":
            module = command[1].replace(".", "/") + ".py"
            command = [module, *command[2:]] if command[1] != "pytest" else command[2:]
    script, *arguments = command
    text = (ROOT / script.removeprefix("./")).read_text("utf-8")
    if script.startswith("tests/"):
        return
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    for flag in (one for one in own if one.startswith("--")):
        told = f'"{flag}"' if script.endswith(".py") else rf"{flag}( \||\))"
        assert re.search(told, text), f"{script} has no {flag}"


def small(command: list[str]) -> list[str]:
    """Return a command line with small numbers, a training with two steps."""
    found = list(command)
    for place, one in enumerate(command[:-1]):
        # A share of the people, 0.5, is as small as it is.
        if not command[place + 1].startswith("0."):
            found[place + 1] = SMALL.get(one, found[place + 1])
    if command[:2] == ["reid", "train"]:
        for flag in ("--steps", "--batch-size"):
            found += [] if flag in command else [flag, SMALL[flag]]
    return found


def run(command: list[str]) -> None:
    program, *arguments = small(command)
    assert PROGRAMS[program].run([*arguments, "--quiet"]) is Exit.DONE, command


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Return a folder with made-up people under the names of Market-1501."""
    folder = tmp_path_factory.mktemp("documentation")
    where = str(folder / MARKET)
    run(["augment", "sample", "--out", where, "--people", "6", "--test-people", "4"])
    for split in ("train", "test"):
        shutil.copy(
            folder / MARKET / f"keypoints-{split}.csv", folder / f"market-annotation-{split}.csv"
        )
    build_crops(folder)
    return folder


@pytest.fixture(scope="session")
def stage(data: Path, tmp_path_factory) -> Path:
    """Return a folder of what pages take for made: tables, a generated set, two trainings."""
    folder = tmp_path_factory.mktemp("stage") / "page"
    shutil.copytree(data, folder)
    people = str(folder / MARKET)
    table, out = str(folder / "images.parquet"), str(folder / "synthetic-market")
    keypoints = [f"{people}/keypoints-{split}.csv" for split in ("train", "test")]
    run(["augment", "index", people, "--out", table, "--masks", f"{people}/masks",
         "--keypoints", *keypoints])  # fmt: skip
    write_boxes(folder / "images.parquet", folder / "masked.parquet")
    generate = ["augment", "generate", "--images", table, "--weights", "posewarp-sample"]
    run([*generate, "--per-id", "2", "--out", out])
    train = ["reid", "train", "--recipe", "short", "--images", table]
    run([*train, "--out", str(folder / "runs/real-0")])
    run([*train, "--synthetic", out, "--out", str(folder / "runs/generated-0")])
    for name, layout in DATA_SETS.items():
        LAYOUTS[layout][1](folder / name)
    (folder / "gan").mkdir()
    for source in sorted((folder / MARKET / "bounding_box_train").glob("*.jpg"))[:3]:
        shutil.copy(source, folder / "gan" / source.name)
    return folder


def write_boxes(images: Path, out: Path) -> None:
    """Give a box and joints to the images that have none: the queries."""
    known = read_images(images)
    box = np.zeros((128, 64), bool)
    box[10:120, 18:46] = True
    table = known.table
    joints = table["keypoints"].drop_null()[0].as_py()
    values = {"mask": encode_mask(box), "mask_source": "files", "keypoints": joints}
    for name, value in values.items():
        place, field = table.schema.get_field_index(name), table.schema.field(name)
        filled = [value if one is None else one for one in table[name].to_pylist()]
        table = table.set_column(place, field, pa.array(filled, field.type))
    write_images(replace(known, table=table), out)


DATA_SETS = {"DukeMTMC-reID": "dukemtmc", "MSMT17": "msmt17", "cuhk03-np/labeled": "cuhk03"}


PARTS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}


def build_crops(folder: Path) -> None:
    """Copy the made-up people under other names, with a split and without, with a people.csv."""
    lines = ["path,person_id,camera_id,split"]
    (folder / "CROPS").mkdir()
    for split, part in PARTS.items():
        for file in sorted((folder / MARKET / part).glob("*.jpg")):
            person, camera = re.match(r"(-?\d+)_c(\d)", file.name).groups()
            if person in {"0000", "-1"}:
                continue
            within = folder / "SPLIT" / split / person
            within.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, within / f"cam{camera}_{file.name}")
            path = f"{person}_cam{camera}_{len(lines):04d}.jpg"
            shutil.copy(file, folder / "CROPS" / path)
            lines.append(f"{path},{person},{camera},{split}")
    (folder / "people.csv").write_text("\n".join(lines) + "\n")
    rows = [line.split(",") for line in lines[1:]]
    mine = [f"{path},{person},gate-{camera}" for path, person, camera, _ in rows]
    (folder / "mine.csv").write_text("\n".join(["file,name,camera", *mine]) + "\n")


def values(table: Path) -> dict[str, Any]:
    """Return what the Python examples speak of and do not make."""
    images = read_images(table)
    found: dict[str, Any] = {
        f"{split}_{name}": images.only(split).table[f"{column}_id"].to_pylist()
        for split in ("query", "gallery")
        for name, column in (("people", "person"), ("cameras", "camera"))
    }
    for split in ("query", "gallery"):
        chosen = images.only(split)
        files = [chosen.file(row) for row in range(len(chosen))]
        found[f"{split}_images"] = [pixels.read(file) for file in files]
    train = images.only("train")
    poses = train.keypoints()
    return {
        **found, "image": pixels.read(train.file(0)), "pose": poses[0], "target_pose": poses[-1],
    }  # fmt: skip


def test_there_are_pages_and_blocks_to_look_at():
    assert len(PAGES) > 12
    assert len(ALL_BLOCKS) > 50


@pytest.mark.parametrize("block", ALL_BLOCKS, ids=lambda block: f"{block.page}:{block.line}")
def test_a_block_is_of_a_known_language_and_says_in_known_words_what_it_needs(block):
    assert block.language in LANGUAGES, "expected no word behind ```, or one of LANGUAGES"
    first = block.text.splitlines()[0]
    if first.startswith("# needs"):
        assert block.needs, f"{first}: expected words of NEEDS"


@pytest.mark.parametrize("page", PAGES)
def test_the_command_lines_of_a_page_have_flags_that_exist(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block in blocks_of(page):
        kind = LANGUAGES[block.language]
        if kind == "shell":
            for command in command_lines(block, tmp_path):
                check(command, tmp_path)
        elif kind == "python":
            compile(block.text, f"{page}:{block.line}", "exec")
        elif kind == "yaml":
            pod = yaml.safe_load(block.text)["spec"]["template"]["spec"]
            for container in pod["containers"]:
                check(container["command"], tmp_path)


@pytest.mark.parametrize("notebook", sorted((ROOT / "docs").glob("*.ipynb")), ids=str)
def test_a_notebook_holds_no_outputs_for_the_site_makes_them(notebook):
    cells = [cell for cell in json.loads(notebook.read_text("utf-8"))["cells"] if "outputs" in cell]
    assert cells
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    assert notebook.name in (ROOT / "mkdocs.yml").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page)])
def test_the_blocks_of_a_page_run_one_after_the_other(page, data, stage, tmp_path, monkeypatch):
    todo = [block for block in blocks_of(page) if block.needs is None]
    todo = [block for block in todo if LANGUAGES[block.language] in {"shell", "python"}]
    if any("augment detect" in block.text for block in todo) and not find_spec("mediapipe"):
        pytest.skip("mediapipe is not installed, of which BlazePose is read")
    folder = tmp_path / "page"
    shutil.copytree(data if page in BEGIN_WITH_NOTHING else stage, folder)
    (folder / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(folder)
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    for name in ("HF_HOME", "HF_DATASETS_CACHE"):
        monkeypatch.setenv(name, str(folder / "home"))
    known: dict[str, Any] = {}
    for block in todo:
        if LANGUAGES[block.language] == "shell":
            lines = command_lines(block, folder)
            assert lines, f"{page}:{block.line}: no command"
            for command in lines:
                assert command[0] in PROGRAMS, f"{page}:{block.line}: say what {command[0]} needs"
                run(command)
        else:
            known |= values(folder / "masked.parquet") if page in SPEAK_OF_OTHERS else {}
            exec(compile(block.text, f"{page}:{block.line}", "exec"), known)
    if page == "README.md":
        assert 0 < known["scores"].mean_average_precision <= 1
        assert known["made"].shape == known["image"].shape == (128, 64, 3)
        assert len(known["generated"]) == 2 * 5  # of ten people half are test people
    if page == "docs/format.md":
        assert known["mask"].shape == (known["height"], known["width"])
        assert 0 < np.mean(known["mask"]) < 1


def test_every_flag_that_a_page_speaks_of_exists():
    flags = {
        name
        for program in PROGRAMS.values()
        for page in program.all_pages().values()
        for flag in page
        for name in flag.names
    } | {"--config", "--help", "--version", "--completion"}
    train = PROGRAMS["augment"].commands["train"]
    for generator in generator_names():
        flags |= {
            name for flag in page_of(train, ["--generator", generator]) for name in flag.names
        }
    scripts = "".join(
        path.read_text("utf-8") for path in sorted((ROOT / "scripts").iterdir()) if path.is_file()
    )
    missing = {
        f"{page}: {flag}"
        for page in PAGES
        for code in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", (ROOT / page).read_text("utf-8"))
        for flag in re.findall(r"(?<![\w-])--[a-z][\w.-]*", code)
        if flag not in flags
        and flag not in scripts
        and flag not in FOREIGN
        and not (flag.endswith(".NAME") and any(one.startswith(flag[:-4]) for one in flags))
    }
    assert not missing


FOREIGN = {
    "--build-arg", "--gpus-per-task", "--no-deps", "--no-python", "--nproc-per-node", "--ntasks",
}  # fmt: skip
"""Flags of other programs."""
