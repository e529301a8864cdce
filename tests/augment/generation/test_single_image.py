"""One image from one image, from the command line and from Python."""

import numpy as np
import pytest
import torch

import augment
from augment.checkpoints import store
from augment.cli import PROGRAM
from augment.generators.dpig import Dpig
from augment.generators.patn import Patn
from augment.interface.factors import PosedImage, interpolated, swapped
from manifests import pixels
from manifests.runtime.console import UserError
from tests.helpers.estimators import last_column

TINY = Patn.Config(base_width=2, discriminator_width=2, num_blocks=1, features="none")

WITH_FACTORS = Dpig.Config(
    base_width=4, code_width=8, part_size=16, hidden_width=16, discriminator_width=4
)


@pytest.fixture
def dpig(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "dpig.safetensors"
    config = WITH_FACTORS.model_dump(mode="json")
    header = store.Header(generator="dpig", config=config, facts={})
    store.save_weights(Dpig(WITH_FACTORS).sampling_state(), path, header)
    return path


def run(tiny_root, weights, out, *arguments):
    table = str(tiny_root / "images.parquet")
    command = ["transfer", *arguments, "--out", str(out), "--images", table]
    return PROGRAM.run([*command, "--weights", str(weights), "--quiet"])


def posed(images, name):
    row = images.strings("image_id").index(name)
    return PosedImage(pixels.read(images.file(row)), images.keypoints()[row])


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


def test_a_person_before_anothers_background_in_the_pose_of_a_third(
    dpig, tiny_images, tiny_root, tmp_path
):
    names = tiny_images.only("train").strings("image_id")[:3]
    out = tmp_path / "made.png"
    assert run(tiny_root, dpig, out, names[0], "--background", names[1], "--pose", names[2]) == 0
    network = augment.load(dpig)
    person, background, pose = (posed(tiny_images, name) for name in names)
    made = swapped(network, person, background, pose)
    assert np.array_equal(pixels.read(out), made)
    assert made.shape == (128, 64, 3)
    # Each of the three images counts, and the person's own background does not.
    for others in ((background, background, pose), (person, pose, pose)):
        assert not np.array_equal(swapped(network, *others), made)
    assert not np.array_equal(swapped(network, person, background, person), made)


def test_a_background_of_its_own_is_plain_pose_transfer(dpig, tiny_images):
    network = augment.load(dpig)
    person, pose = (
        posed(tiny_images, name) for name in tiny_images.only("train").strings("image_id")[:2]
    )
    made = network.transfer(person.image, person.joints, pose.joints)
    assert np.array_equal(swapped(network, person, person, pose), made)


def test_a_strip_leads_from_one_image_to_the_other(dpig, tiny_images, tiny_root, tmp_path):
    first, last = tiny_images.only("train").strings("image_id")[:2]
    out = tmp_path / "strip.png"
    assert run(tiny_root, dpig, out, first, "--towards", last, "--steps", "5") == 0
    network = augment.load(dpig)
    ends = [posed(tiny_images, name) for name in (first, last)]
    made = interpolated(network, *ends, 5)
    assert made.shape == (5, 128, 64, 3)
    assert np.array_equal(pixels.read(out), np.concatenate(list(made), axis=1))
    back = interpolated(network, *ends[::-1], 5)
    # The same codes in another batch, from the other side.
    assert abs(made.astype(int) - back[::-1]).max() <= 1
    assert not np.array_equal(made[0], made[4])


def test_factors_of_a_system_without_any_are_refused(weights, tiny_images, tiny_root, tmp_path):
    names = tiny_images.only("train").strings("image_id")[:2]
    for arguments in (["--pose", names[1], "--background", names[1]], ["--towards", names[1]]):
        with pytest.raises(UserError, match="Patn: does not take images apart, expected weights"):
            run(tiny_root, weights, tmp_path / "made.png", names[0], *arguments)
    assert not (tmp_path / "made.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "neither --pose nor --towards"),
        (["--towards", "b.jpg", "--pose", "c.jpg"], "found --towards beside --pose"),
        (["--towards", "b.jpg", "--background", "c.jpg"], "found --towards beside --pose"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments, message, dpig, tiny_root, tmp_path):
    with pytest.raises(UserError, match=message):
        run(tiny_root, dpig, tmp_path / "made.png", "a.jpg", *arguments)


def test_random_factors_beside_given_ones_are_refused(dpig, tiny_images, tiny_root, tmp_path):
    first, last = tiny_images.only("train").strings("image_id")[:2]
    arguments = [first, "--towards", last, "--options.sample-foreground"]
    with pytest.raises(UserError, match="found --options beside --background or --towards"):
        run(tiny_root, dpig, tmp_path / "strip.png", *arguments)
