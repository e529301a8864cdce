"""What a user can do wrong: one sentence and an exit code, and nothing already written is lost."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from augment.checkpoints import store
from augment.cli import PROGRAM

ROOT = Path(__file__).resolve().parents[2]

TRAIN = [
    "train", "--images", "images.parquet", "--out", "run", "--config.base-width", "4",
    "--config.discriminator-width", "4", "--config.num-blocks", "1", "--config.pool-size", "2",
    "--config.features", "none", "--config.batch-size", "2", "--config.steps", "1",
]  # fmt: skip
GENERATE = [
    "generate", "--images", "images.parquet", "--out", "out", "--weights", "patn-sample",
    "--per-id", "1", "--batch-size", "2", "--device", "cpu", "--threads", "1",
]  # fmt: skip


def other_names():
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        Path("other", folder).mkdir(parents=True)
    Path("other/bounding_box_train/anna.jpg").write_bytes(b"")
    return ["index", "other", "--out", "new.parquet"]


def keypoints(pattern, new, count=0):
    text = Path("keypoints.csv").read_text()
    Path("wrong.csv").write_text(re.sub(pattern, new, text, count=count))
    return ["index", ".", "--keypoints", "wrong.csv", "--out", "new.parquet"]


def truncated(arguments):
    # The only image of its person, so that it is the source of a row.
    file = Path("bounding_box_train/0010_c2s1_000301_01.jpg")
    file.write_bytes(file.read_bytes()[:-100])
    return arguments


def other_system():
    header = store.Header(generator="gfla", config={}, facts={})
    store.save_weights({"flow_net.weight": torch.zeros(2)}, Path("gfla.safetensors"), header)
    return [*TRAIN, "--init", "gfla.safetensors"]


def another_run(arguments):
    with pytest.raises(SystemExit, match=r"^0$"):
        PROGRAM.main([*arguments, "--quiet"])
    return [*arguments, "--seed", "1"]


def damaged_state():
    after(TRAIN, TRAIN)
    Path("run/_SUCCESS").unlink()
    state = Path("run/state.pt")
    state.write_bytes(state.read_bytes()[:1000])
    return TRAIN


def in_a_folder_of(arguments, *names):
    Path("run").mkdir()
    for name in names:
        Path("run", name).write_text("{}")
    return arguments


def after(arguments, earlier):
    with pytest.raises(SystemExit, match=r"^0$"):
        PROGRAM.main([*earlier, "--quiet"])
    return arguments


CASES = {
    "a missing folder": (
        lambda: ["index", "gone", "--out", "new.parquet"],
        2,
        "gone: found nothing of this name, expected a folder",
    ),
    "names of another kind": (
        other_names,
        2,
        "other: found no file named like 0002_c1s1_000451_03.jpg in",
    ),
    "a wrong separator": (
        lambda: keypoints(":", ";"),
        2,
        "wrong.csv:1: found the header 'name;keypoints_y;keypoints_x'",
    ),
    "17 joints": (
        lambda: keypoints(r", -?\d+\]", "]", 1),
        2,
        "wrong.csv:2: keypoints_y has 17 joints, expected 18",
    ),
    "an image cut off, to train on": (
        lambda: truncated(TRAIN),
        2,
        "0010_c2s1_000301_01.jpg: the JPEG file is cut off",
    ),
    "an image cut off, among others": (
        lambda: truncated(GENERATE),
        3,
        "out: complete, 3 rows, 1 of them failed (the column 'error' says why)",
    ),
    "weights of another system": (
        other_system,
        2,
        "--init: gfla.safetensors holds weights of gfla, expected those of patn",
    ),
    "a misspelt setting": (
        lambda: [*TRAIN, "--config.base-widht", "8"],
        2,
        "'augment train --help' lists, perhaps --config.base-width INT",
    ),
    "a run of other settings, trained": (
        lambda: another_run(TRAIN),
        2,
        "seed: 0, now 1",
    ),
    "a run of other settings, generated": (
        lambda: another_run(GENERATE),
        2,
        "content.seed: 0, now 1",
    ),
    "somebody's files where a training shall be": (
        lambda: in_a_folder_of(TRAIN, "_SUCCESS", "log.jsonl"),
        2,
        "run: found '_SUCCESS' and no run.json; expected a new folder or a run of 'augment train'",
    ),
    "a training in a file's place": (
        lambda: [*TRAIN, "--out", "keypoints.csv"],
        2,
        "keypoints.csv/run.json: cannot be written (File exists)",
    ),
    "a training where images were generated": (
        lambda: after([*TRAIN, "--out", "out"], GENERATE),
        2,
        "out: found the run of another command, expected a new folder or a run of 'augment train'",
    ),
    "images where a training is": (
        lambda: after([*GENERATE, "--out", "run"], TRAIN),
        2,
        "run.json: found the run of another command, expected 'augment generate'",
    ),
    "the status of a training": (
        lambda: after(["status", "run"], TRAIN),
        2,
        "run.json: found the run of another command, expected 'augment generate'",
    ),
    "a later step without weights": (
        lambda: [*TRAIN, "--first-step", "1"],
        2,
        "--first-step 1: found no --init, expected weights to begin with",
    ),
    "a weight of what is not seen": (
        lambda: [*TRAIN, "--config.weight-identity", "2"],
        2,
        "--config.weight-identity 2: found no --config.identity",
    ),
    "a flow without features": (
        lambda: ["train", "--generator", "gfla", "--images", "images.parquet", "--out", "run",
                 "--config.features", "none", "--config.base-width", "4"],
        2,
        "gfla: found features 'none', expected 'vgg19'",
    ),
    "heads that do not divide": (
        lambda: ["train", "--generator", "dptn", "--images", "images.parquet", "--out", "run",
                 "--config.features", "none", "--config.base-width", "4",
                 "--config.num-heads", "3"],
        2,
        "--config.num-heads: found 3, expected a number that divides 16",
    ),
    **{
        f"{flag} {value}": (
            lambda flag=flag, value=value: [*TRAIN, flag, value],
            2,
            f"setting '{flag[2:].replace('-', '_')}': Input should be {expected}, found {value}",
        )
        for flag, value, expected in (
            ("--log-every", "0", "greater than 0"),
            ("--save-every", "0", "greater than 0"),
            ("--samples-every", "0", "greater than 0"),
            ("--config.steps", "0", "greater than 0"),
            ("--config.batch-size", "0", "greater than 0"),
            ("--config.dropout", "0.3", "a multiple of 0.00390625"),
        )
    },
    "a damaged training state": (
        damaged_state,
        2,
        "run/state.pt: found no readable training state, expected the file that this command wrote",
    ),
}  # fmt: skip


def files_below(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def here(tiny_images, tiny_root, monkeypatch):
    monkeypatch.chdir(tiny_root)
    return tiny_root


def check(said, code, expected, before, here):
    *earlier, last = said.splitlines()
    assert "Traceback" not in said
    assert expected in last
    assert last.startswith("error: ") == (code == 2)
    assert not [line for line in earlier if line.startswith("error:")]
    after = files_below(here)
    assert {path: after.get(path) for path in before} == before
    assert (after == before) == (code == 2)


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_ends_in_one_sentence_and_loses_nothing(case, here, capsys):
    prepare, code, expected = CASES[case]
    arguments = prepare()
    before = files_below(here)
    capsys.readouterr()

    with pytest.raises(SystemExit) as left:
        PROGRAM.main(arguments)

    assert left.value.code == code
    check(capsys.readouterr().err, code, expected, before, here)


@pytest.mark.parametrize("case", ["a missing folder", "an image cut off, among others"])
def test_the_process_ends_so_too(case, here):
    prepare, code, expected = CASES[case]
    arguments = prepare()
    before = files_below(here)

    done = subprocess.run(
        [sys.executable, "-m", "augment.cli", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False, capture_output=True, text=True,
    )  # fmt: skip

    assert done.returncode == code
    check(done.stderr, code, expected, before, here)
