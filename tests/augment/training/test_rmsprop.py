"""RMSProp is TensorFlow's, written out."""

import copy
import math

import pytest
import torch

from augment.training.rmsprop import TensorFlowRMSProp


def test_three_updates_equal_the_formula_written_out():
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = TensorFlowRMSProp([parameter], lr=0.5)
    expected, mean = [1.0, -2.0], [1.0, 1.0]
    for gradients in ([0.3, 1e-9], [-0.1, 4.0], [0.0, 2.0]):
        parameter.grad = torch.tensor(gradients, dtype=torch.float64)
        optimizer.step()
        for i, gradient in enumerate(gradients):
            mean[i] = 0.9 * mean[i] + 0.1 * gradient**2
            expected[i] -= 0.5 * gradient / math.sqrt(mean[i] + 1e-10)
        assert parameter.tolist() == pytest.approx(expected, rel=1e-14)


def test_the_first_update_grows_with_the_gradient_unlike_torchs():
    moved = []
    for gradient in (1e-6, 1e-3):
        parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
        parameter.grad = torch.full((1,), gradient, dtype=torch.float64)
        TensorFlowRMSProp([parameter], lr=2e-5).step()
        moved.append(-parameter.item())
    assert moved == pytest.approx([2e-5 * 1e-6 / 0.9**0.5, 2e-5 * 1e-3 / 0.9**0.5], rel=1e-6)


def test_a_parameter_without_gradient_stays():
    first, second = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    first.grad = torch.ones(1)
    TensorFlowRMSProp([first, second], lr=0.1).step()
    assert second.item() == 1
    assert first.item() < 1


def test_its_state_goes_on_where_it_was():
    def one(optimizer: TensorFlowRMSProp, parameter: torch.nn.Parameter) -> float:
        parameter.grad = torch.full((1,), 3.0)
        optimizer.step()
        return parameter.item()

    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = TensorFlowRMSProp([parameter], lr=0.1)
    one(optimizer, parameter)
    copied = torch.nn.Parameter(parameter.detach().clone())
    resumed = TensorFlowRMSProp([copied], lr=0.1)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert one(resumed, copied) == one(optimizer, parameter)
