"""What lies at a path, and the files of commands that find a pipe there."""

from __future__ import annotations

import os

import pytest
import torch

from augment.generation.reading import ImageReader
from manifests import io
from manifests.compute.external_weights import read_state_dict
from manifests.compute.training_log import TrainingLog
from manifests.compute.training_state import read_training_state
from manifests.runtime.console import UserError
from manifests.runtime.files import found_at, read_file
from manifests.runtime.json_files import read_json
from tests.helpers import trivial


def test_what_lies_at_a_path_is_said_in_words_whatever_the_name(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    found = {
        name: found_at(tmp_path / name)
        for name in ("file", "", "pipe", "gone", "x" * 300, "file/below", "a\0b", "loop")
    }
    nothing = "nothing of this name"
    assert found == {
        "file": None,
        "": "a folder",
        "pipe": "no regular file",
        "gone": nothing,
        "x" * 300: "nothing that can be looked at (File name too long)",
        "file/below": nothing,
        "a\0b": nothing,
        "loop": nothing,
    }


def test_a_file_above_the_bound_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 11)
    assert read_file(tmp_path / "file", "a list", most_bytes=11) == b"x" * 11
    with pytest.raises(UserError, match="file: found more than 0 MiB, expected a list"):
        read_file(tmp_path / "file", "a list", most_bytes=10)


def _parquet(path):
    with io.parquet(path):
        pass


@pytest.mark.parametrize(
    "read",
    [
        _parquet,
        io.read_images,
        io.sha256_file,
        lambda path: read_json(path, "JSON"),
        lambda path: read_state_dict(path, "--weights"),
        lambda path: read_training_state(path, torch.device("cpu")),
        lambda path: TrainingLog(path, 2, 5),
    ],
)
def test_whoever_finds_a_pipe_does_not_wait(read, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"found no regular file( at .*pipe)?, expected "):
        read(tmp_path / "pipe")


def test_an_image_that_is_a_pipe_is_an_error_of_its_row(tmp_path):
    images = trivial.made_up(1, 1, root=tmp_path)
    os.mkfifo(images.file(0))
    name = images.strings("image_id")[0]
    said = f"{name}: found no regular file, expected an image"
    assert ImageReader(images, (64, 128)).read(0) == said
