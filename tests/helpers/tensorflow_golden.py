"""What the authors' TensorFlow networks computed on made-up inputs: ``tests/golden/noise_*``."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from augment.interface.condition import Condition, Pair
from augment.interface.system import PoseTransfer
from augment.pose.pose import Pose
from tests.golden.fill import reference_inputs, reference_tf_variable

HERE = Path(__file__).resolve().parents[1] / "golden"


@cache
def card(name: str) -> dict:
    """Return what the json file of a system says."""
    return json.loads((HERE / f"noise_{name}.json").read_text())


@cache
def arrays(name: str) -> dict[str, Tensor]:
    """Return the authors' outputs and intermediate results."""
    with np.load(HERE / f"noise_{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def variables(name: str) -> dict[str, Tensor]:
    """Return the variables that gave these outputs, in TensorFlow's layout."""
    return {
        variable: torch.from_numpy(reference_tf_variable(variable, tuple(shape), 0))
        for variable, shape in card(name)["variables"].items()
    }


def empty_variables(name: str) -> dict[str, Tensor]:
    """Return tensors of the published names and shapes that take no memory."""
    shapes = card(name)["variables"]
    return {variable: torch.zeros(()).expand(shape) for variable, shape in shapes.items()}


def filled(name: str, system: type[PoseTransfer]) -> PoseTransfer:
    """Return a network of the published size with these variables, every tensor set."""
    with torch.device("meta"):
        network = system()
    network.load_state_dict(system.from_official(variables(name)), strict=True, assign=True)
    return network.eval()


def pair(source_keypoints: Tensor | None = None) -> Pair:
    """Return the inputs, and the images that the losses compare with.

    Args:
        source_keypoints: Where the sources' joints are, if not where they were drawn.
    """
    images, source, target = reference_inputs(2, 0)
    others, _, _ = reference_inputs(2, 100)
    poses = [Pose(torch.from_numpy(joints).float()) for joints in (source, target)]
    if source_keypoints is not None:
        poses[0] = Pose(source_keypoints)
    return Pair(Condition(torch.from_numpy(images), *poses), torch.from_numpy(others))


class Recorder:
    """Input and output of a module at its last call."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.input: Tensor
        self.output: Tensor
        module.register_forward_hook(self._keep)

    def _keep(self, _module: object, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.input, self.output = inputs[0], output
