"""Folders of an older version: refused in one sentence by every command, and left as they are."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

import augment.cli
import reid.cli

IMAGES = ["--images", "IMAGES"]

GENERATED = {
    "asked": {"content": {"generator": "patn", "rows": 4}, "rows_per_shard": 4},
    "content_key": "0" * 64,
    "layout_key": "0" * 64,
    "settings": {"weights": "patn-sample"},
    "versions": {},
}
TRAINED = {
    "asked": {"model": "osnet_x0_25", "seed": 0, "val_people": 0},
    "people": ["0002", "0007"],
    "validation_people": [],
}

COMMANDS = {
    "augment generate": (
        GENERATED,
        [*IMAGES, "--out", "RUN", "--weights", "patn-sample", "--per-id", "1", "--device", "cpu"],
    ),
    "augment status": (GENERATED, ["RUN"]),
    "augment verify": (GENERATED, ["RUN"]),
    "reid train": (TRAINED, [*IMAGES, "--out", "RUN", "--steps", "1", "--device", "cpu"]),
    "reid score": (TRAINED, ["RUN", *IMAGES, "--device", "cpu"]),
}


def files_of(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_a_run_of_an_older_version_is_refused_in_one_sentence(
    command, tiny_images, tmp_path, capsys
):
    record, arguments = COMMANDS[command]
    program, name = command.split()
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text(json.dumps(record))
    before = files_of(tmp_path)
    paths = {"RUN": str(run), "IMAGES": str(tiny_images.root / "images.parquet")}
    main = {"augment": augment.cli.PROGRAM, "reid": reid.cli.PROGRAM}[program].main

    with pytest.raises(SystemExit) as left:
        main([name, *(paths.get(argument, argument) for argument in arguments)])

    assert left.value.code == 2
    said = capsys.readouterr().err.splitlines()
    (refused,) = [line for line in said if not line.startswith("weights ")]
    assert refused == (
        f"error: {run / 'run.json'}: found a run.json of an older version with entry 'asked', "
        "expected 'config'; finish the run with that version or choose another --out"
    )
    assert files_of(tmp_path) == before
