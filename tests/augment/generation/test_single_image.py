"""One image from one image, from the command line and from Python."""

import numpy as np
import pytest
import torch

import augment
from augment.checkpoints import store
from augment.cli import PROGRAM
from augment.generators.patn import Patn
from manifests import pixels
from manifests.runtime.console import UserError
from tests.helpers.estimators import last_column

TINY = Patn.Config(base_width=2, discriminator_width=2, num_blocks=1, features="none")


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "tiny.safetensors"
    header = store.Header(generator="patn", config=TINY.model_dump(mode="json"), facts={})
    store.save_weights(Patn(TINY).sampling_state(), path, header)
    return path


def test_one_image_is_made_from_two_rows_of_a_table(weights, tiny_images, tiny_root, tmp_path):
    first, second = tiny_images.only("train").strings("image_id")[:2]
    table = tiny_root / "images.parquet"
    arguments = ["transfer", first, "--pose", second, "--out", str(tmp_path / "made.png")]
    code = PROGRAM.run([*arguments, "--images", str(table), "--weights", str(weights), "--quiet"])
    assert code == 0
    network = augment.load(weights)
    rows = tiny_images.strings("image_id")
    joints = tiny_images.keypoints()
    made = network.transfer(
        pixels.read(tiny_images.file(rows.index(first))),
        joints[rows.index(first)],
        joints[rows.index(second)],
    )
    assert np.array_equal(pixels.read(tmp_path / "made.png"), made)
    assert made.shape == (128, 64, 3)


def test_an_image_of_another_size_is_stretched_with_its_pose(weights):
    network = augment.load(weights)
    small = np.random.default_rng(0).integers(0, 256, (64, 32, 3), dtype=np.uint8)
    joints = last_column(30, 60)
    large = pixels.resize(small, (64, 128))
    made = network.transfer(small, joints, joints)
    assert np.array_equal(made, network.transfer(large, joints * 2 + 0.5, joints * 2 + 0.5))


def test_a_row_that_is_not_there_is_named(weights, tiny_images, tiny_root, tmp_path):
    arguments = [
        "transfer",
        "nobody.jpg",
        "--pose",
        "nobody.jpg",
        "--out",
        str(tmp_path / "made.png"),
    ]
    with pytest.raises(UserError, match=r"no image_id 'nobody\.jpg'"):
        PROGRAM.run([*arguments, "--images", str(tiny_root / "images.parquet")])


def test_two_sources_of_poses_are_refused(tiny_images, tiny_root, tmp_path):
    arguments = ["transfer", "a.jpg", "--pose", "b.jpg", "--out", str(tmp_path / "made.png")]
    arguments += ["--images", str(tiny_root / "images.parquet"), "--estimator", "keypointrcnn"]
    with pytest.raises(UserError, match="found --images and --estimator, expected one of them"):
        PROGRAM.run(arguments)


def test_a_row_without_a_pose_is_refused(tiny_images, tiny_root, tmp_path):
    name = tiny_images.only("query").strings("image_id")[0]
    arguments = ["transfer", name, "--pose", name, "--out", str(tmp_path / "made.png")]
    with pytest.raises(UserError, match=f"found no joint in '{name}', expected a pose"):
        PROGRAM.run([*arguments, "--images", str(tiny_root / "images.parquet")])


def test_without_a_source_of_poses_the_command_says_what_it_needs(tmp_path):
    with pytest.raises(UserError, match="neither --images nor --estimator"):
        PROGRAM.run(["transfer", "a.jpg", "--pose", "b.jpg", "--out", str(tmp_path / "made.png")])
