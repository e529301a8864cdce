"""A system is one file: nothing else in the project knows its name."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from augment import generators
from augment.checkpoints import store
from augment.cli import PROGRAM
from manifests import io, pixels
from manifests.runtime.console import Exit, UserError
from manifests.synthetic import read_synthetic
from tests.helpers import trivial

SYSTEM = '''
"""Source and target image mixed, tinted by what was learned, and noise of a chosen scale."""

import torch
import torch.nn.functional as F
from torch import nn

from augment.interface.schedule import Adam, Phase, Stage
from augment.interface.system import PoseTransfer
from manifests.runtime.settings import Frozen


class Tinted(PoseTransfer):
    class Config(Frozen):
        share: float = 0.5
        steps: int = 3
        batch_size: int = 2

    class Options(Frozen):
        noise_scale: float = 0.25

    needs = frozenset({"target_image"})
    sampling = ("tint",)

    def __init__(self, config=Config()):
        super().__init__()
        self.config = config
        self.tint = nn.Conv2d(3, 3, 1)

    def stages(self):
        phase = Phase(name="tint", trains=("tint",), optimizer=Adam(learning_rate=0.01))
        config = self.config
        return (
            Stage(name="all", steps=config.steps, batch_size=config.batch_size, phases=(phase,)),
        )

    def _mixed(self, condition):
        share = self.config.share
        return torch.tanh(
            self.tint(share * condition.image + (1 - share) * condition.target_image)
        )

    def generate(self, condition, random, options):
        image = self._mixed(condition)
        noise = random.normal(*image.shape[1:])
        return (image + options.noise_scale * noise).clamp(-1, 1)

    def run(self, pair, stage):
        return {"fake": self._mixed(pair.condition)}

    def losses(self, phase, pair, outputs):
        return {"l1": F.l1_loss(outputs["fake"], pair.target)}

    @classmethod
    def from_official(cls, weights):
        return dict(weights)
'''


@pytest.fixture
def tinted(tmp_path, monkeypatch):
    """Put one file where the systems are."""
    folder = tmp_path / "systems"
    folder.mkdir()
    (folder / "tinted.py").write_text(SYSTEM)
    monkeypatch.setattr(generators, "__path__", [*generators.__path__, str(folder)])
    yield
    sys.modules.pop("augment.generators.tinted", None)
    vars(generators).pop("tinted", None)


@pytest.fixture
def people(tmp_path):
    return trivial.write_people(tmp_path / "people", num_people=3)


@pytest.fixture
def weights(tinted, people, tmp_path):
    arguments = ["--generator", "tinted", "--images", str(people), "--out", str(tmp_path / "run")]
    assert augment("train", *arguments, "--config.steps", "2", "--device", "cpu") == Exit.DONE
    return tmp_path / "run/weights.safetensors"


def augment(command: str, *arguments: object) -> Exit:
    return PROGRAM.run([command, *map(str, arguments), "--quiet"])


def generate(people: Path, weights: Path, out: Path, *arguments: object) -> list[np.ndarray]:
    command = ["--images", people, "--weights", weights, "--out", out, "--image-format", "png"]
    assert augment("generate", *command, "--per-id", 2, "--device", "cpu", *arguments) == Exit.DONE
    made = read_synthetic(out)
    return [pixels.decode(data, "row") for data in made.read_bytes(np.arange(len(made)))]


def test_one_file_is_a_system_that_trains_generates_is_previewed_and_evaluated(
    people, weights, tmp_path
):
    assert "tinted" in generators.names()
    header = store.read_header(weights)
    assert (header.generator, header.config["steps"]) == ("tinted", 2)
    assert (weights.parent / "samples/step-000002.png").is_file()

    assert len(generate(people, weights, tmp_path / "out", "--options.noise-scale", 0)) == 6

    sheet = tmp_path / "sheet.png"
    assert augment("preview", tmp_path / "out", "--rows", 2, "--out", sheet) == Exit.DONE
    # Two rows below the title: source, target pose and result at twice their size, with labels.
    assert pixels.read(sheet).shape == (24 + 2 * (256 + 16 + 6) + 6, 3 * 128 + 2 * 6 + 12, 3)

    pair = "0002_c1s1_000000_01.jpg,0002_c2s1_000001_01.jpg"
    (tmp_path / "pairs.csv").write_text(f"from,to\n{pair}\n")
    protocol = ["--pairs", tmp_path / "pairs.csv", "--split", "train", "--device", "cpu"]
    table = tmp_path / "table.json"
    command = ["--images", people, "--weights", weights, *protocol, "--out", table, "--json"]
    assert augment("evaluate", *command) == Exit.DONE
    assert json.loads(table.read_text())["num_pairs"] == 1


def test_an_option_of_the_command_line_makes_other_images_and_another_run(
    people, weights, tmp_path
):
    out = tmp_path / "out"
    quiet, noisy = (
        generate(people, weights, tmp_path / f"scale-{scale}", "--options.noise-scale", scale)
        for scale in (0, 0.5)
    )
    assert all(one.std() < other.std() for one, other in zip(quiet, noisy, strict=True))
    default = generate(people, weights, out)
    with pytest.raises(UserError, match=r"content\.options\.noise_scale: 0\.25, now 0\.5"):
        generate(people, weights, out, "--options.noise-scale", 0.5)
    assert np.array_equal(generate(people, weights, out), default)


def test_a_single_image_is_that_of_the_row_with_its_seed(people, weights, tmp_path):
    option = ("--options.noise-scale", 0.125)
    first, *_ = generate(people, weights, tmp_path / "out", *option)
    row = read_synthetic(tmp_path / "out").table.to_pylist()[0]
    images = io.read_images(people)
    assert {row["source_id"], row["pose_id"]} <= set(images.strings("image_id"))
    command = ["--pose", row["pose_id"], "--images", people, "--weights", weights, *option]

    made = {}
    for seed in (row["seed"], 1):
        path = tmp_path / f"{seed}.png"
        arguments = [row["source_id"], "--seed", seed, "--out", path, "--device", "cpu", *command]
        assert augment("transfer", *arguments) == Exit.DONE
        made[seed] = pixels.read(path).astype(int)

    # The batch's arithmetic may differ in the last bit, the noise by far more.
    assert np.abs(made[row["seed"]] - first).max() <= 1
    assert np.abs(made[1] - first).max() > 20
