"""Variables of TensorFlow in an .npz: taken over whole, or refused with names of both sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from augment.checkpoints import store
from augment.checkpoints.convert import convert_weights
from augment.cli import PROGRAM
from augment.generators import system
from manifests.runtime.console import Exit, UserError
from tests.helpers import tensorflow_golden as golden

SYSTEMS = ["dpig", "pg2"]

BOTH_NAMES = {
    "dpig": ("Encoder/G_encoder/Conv_19/biases", "encoder.background.down.0.0.bias"),
    "pg2": ("UAEnoFC/G/Conv_6/biases", "difference.down.1.0.bias"),
}
"""A variable's published name, and our tensor's."""


def _write(variables: dict[str, Tensor], path: Path) -> Path:
    np.savez(path, **{name: value.numpy() for name, value in variables.items()})
    return path


def _refused(name: str, variables: dict[str, Tensor], folder: Path) -> str:
    """Return why a file was refused, which changed nothing."""
    official, out = _write(variables, folder / "official.npz"), folder / "ours.safetensors"
    out.write_bytes(b"of an earlier conversion")
    with pytest.raises(UserError) as error:
        convert_weights(name, system(name).Config(), [official], out)
    assert out.read_bytes() == b"of an earlier conversion"
    return str(error.value)


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_variable_but_what_nothing_reads_is_a_tensor_of_ours_and_back(name):
    theirs = golden.empty_variables(name)
    ours = system(name).from_official(theirs)
    assert len(ours) == len(theirs) - len(golden.card(name)["not_trained"])
    with torch.device("meta"):
        expected = system(name)().state_dict()
    assert {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in expected.items()
    }
    back = {system(name).official_name(key) for key in ours}
    assert back == theirs.keys() - set(golden.card(name)["not_trained"])


def test_axes_come_in_our_order():
    theirs = golden.empty_variables("pg2")
    convolution = torch.randn(3, 3, 21, 128)
    matrix = torch.randn(64, 4096)
    ours = system("pg2").from_official(
        theirs
        | {
            "Pose_AE/G/Conv/weights": convolution,
            "Pose_AE/G/fully_connected_1/weights": matrix,
        }
    )
    assert ours["coarse.entry.0.weight"][5, 7, 0, 2] == convolution[0, 2, 7, 5]
    assert ours["coarse.from_code.weight"][5, 7] == matrix[7, 5]


def test_the_command_writes_weights_that_sample_and_names_their_terms(tmp_path):
    official, out = _write(golden.empty_variables("pg2"), tmp_path / "pg2.npz"), tmp_path / "w"
    command = ["convert", "--generator", "pg2", "--official", str(official), "--out", str(out)]
    assert PROGRAM.run([*command, "--quiet"]) == Exit.DONE
    sampling = store.load(out)
    assert [child for child, _ in sampling.named_children()] == list(sampling.sampling)
    assert store.read_header(out).facts["terms"] == "MIT"


def test_the_state_of_optimisers_is_left_aside(tmp_path):
    theirs = golden.empty_variables("pg2")
    state = {
        "Pose_AE/G/Conv/weights/Adam": torch.zeros(3, 3, 21, 128),
        "Pose_AE/G/Conv/weights/Adam_1": torch.zeros(3, 3, 21, 128),
        "beta1_power": torch.zeros(()),
        "beta2_power_2": torch.zeros(()),
    }
    assert (
        system("pg2").from_official(theirs | state).keys()
        == system("pg2")
        .from_official({f"{name}:0": value for name, value in theirs.items()})
        .keys()
    )


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_missing_variable_is_named_as_theirs_and_as_ours(name, tmp_path):
    theirs, ours = BOTH_NAMES[name]
    variables = golden.empty_variables(name)
    del variables[theirs]
    message = _refused(name, variables, tmp_path)
    assert f"tensors missing 1: {ours} (theirs: {theirs})" in message


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_variable_left_over_is_named_beside_what_was_expected(name, tmp_path):
    variables = golden.empty_variables(name)
    first = next(iter(variables))
    message = _refused(name, {**variables, "Pose_AE/G/Conv_77/biases": torch.ones(1)}, tmp_path)
    assert "found 1 tensors that this system does not have (Pose_AE/G/Conv_77/biases)" in message
    assert f"expected names that begin with {first}, " in message


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_variable_of_another_shape_is_refused(name, tmp_path):
    theirs, ours = BOTH_NAMES[name]
    variables = golden.empty_variables(name) | {theirs: torch.zeros(7)}
    assert f"of other shape 1: {ours} (theirs: {theirs}) (7,) for" in _refused(
        name, variables, tmp_path
    )


def test_a_file_of_another_network_is_refused_with_names_of_both(tmp_path):
    message = _refused("pg2", {"encoder.0.weight": torch.ones(2, 2)}, tmp_path)
    assert "(encoder.0.weight); expected names that begin with Pose_AE/G/Conv/weights" in message
    patn = _refused("patn", golden.empty_variables("pg2"), tmp_path)
    assert "Pose_AE/G/Conv/weights" in patn
    assert "expected names that begin with stream1_down." in patn


def test_each_of_the_two_networks_is_refused_as_the_other(tmp_path):
    for name, other in (("pg2", "dpig"), ("dpig", "pg2")):
        message = _refused(name, golden.empty_variables(other), tmp_path)
        first = {name: next(iter(golden.empty_variables(name))) for name in (name, other)}
        assert first[other] in message
        assert f"expected names that begin with {first[name]}, " in message


def test_a_discriminator_alone_is_refused(tmp_path):
    variables = {
        name: value
        for name, value in golden.empty_variables("pg2").items()
        if name.startswith("Discriminator")
    }
    assert "none of them of the generator" in _refused("pg2", variables, tmp_path)


@pytest.mark.parametrize("kind", ["objects", "damaged"])
def test_a_file_that_is_no_archive_of_numbers_is_refused(kind, tmp_path):
    path = tmp_path / "official.npz"
    if kind == "objects":
        np.savez(path, weights=np.array([{"a": 1}], object))
    else:
        path.write_bytes(b"PK\x03\x04 and nothing more")
    with pytest.raises(UserError, match=r"cannot be read as weights .*\.npz"):
        convert_weights("pg2", system("pg2").Config(), [path], tmp_path / "ours")
