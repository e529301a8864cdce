from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from reid.losses import NO_IDENTITY, smoothed_cross_entropy

# float32 sums in another order.
FLOAT32 = 1e-6


def batch(rows: int = 8, people: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, people, generator=generator, requires_grad=True)
    return logits, torch.randint(0, people, (rows,), generator=generator)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_loss_and_gradient_equal_torch_with_one_smoothing_for_all(smoothing):
    logits, labels = batch()
    ones = torch.ones(8)
    ours = smoothed_cross_entropy(logits, labels, smoothing * ones, ones)
    theirs = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    torch.testing.assert_close(ours, theirs, atol=FLOAT32, rtol=0)
    for gradients in zip(
        torch.autograd.grad(ours, logits), torch.autograd.grad(theirs, logits), strict=True
    ):
        torch.testing.assert_close(*gradients, atol=FLOAT32, rtol=0)


def test_a_row_without_identity_has_the_gradient_of_the_uniform_target():
    logits, labels = batch()
    nobody = torch.full_like(labels, NO_IDENTITY)
    ours = smoothed_cross_entropy(logits, nobody, torch.full((8,), 0.1), torch.ones(8))
    theirs = F.cross_entropy(logits, labels, label_smoothing=1.0)
    (one,) = torch.autograd.grad(ours, logits)
    (other,) = torch.autograd.grad(theirs, logits)
    torch.testing.assert_close(one, other, atol=FLOAT32, rtol=0)


def test_rows_of_weight_zero_do_not_change_the_gradient():
    logits, labels = batch()
    weight = torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 0])
    smoothing = torch.full((8,), 0.1)
    (one,) = torch.autograd.grad(smoothed_cross_entropy(logits, labels, smoothing, weight), logits)
    half = smoothed_cross_entropy(logits[:4], labels[:4], smoothing[:4], weight[:4])
    (other,) = torch.autograd.grad(half, logits)
    torch.testing.assert_close(one, other, atol=FLOAT32, rtol=0)


def test_logits_of_half_precision_give_a_float32_loss():
    logits, labels = batch()
    loss = smoothed_cross_entropy(logits.bfloat16(), labels, torch.zeros(8), torch.ones(8))
    assert loss.dtype == torch.float32
