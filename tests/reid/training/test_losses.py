from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from reid.data.labels import NO_IDENTITY
from reid.models import torchreid_adapter
from reid.training.losses import batch_hard_triplet, centre_loss, smoothed_cross_entropy

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
    first = smoothed_cross_entropy(logits[:4], labels[:4], smoothing[:4], weight[:4])
    (other,) = torch.autograd.grad(first, logits)
    torch.testing.assert_close(one, other, atol=FLOAT32, rtol=0)


def test_a_batch_of_weight_zero_has_loss_and_gradient_zero():
    logits, labels = batch()
    loss = smoothed_cross_entropy(logits, labels, torch.zeros(8), torch.zeros(8))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss == 0
    assert not gradient.any()


def test_logits_of_half_precision_give_a_float32_loss():
    logits, labels = batch()
    loss = smoothed_cross_entropy(logits.bfloat16(), labels, torch.zeros(8), torch.ones(8))
    assert loss.dtype == torch.float32


def features(rows: int = 12, width: int = 5, people: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randn(rows, width, generator=generator, requires_grad=True)
    return drawn, torch.arange(rows) % people


def test_batch_hard_triplet_and_its_gradient_equal_torchreids():
    drawn, labels = features()
    ours = batch_hard_triplet(drawn, labels, torch.ones(12), 0.3)
    theirs = torchreid_adapter.triplet_loss(drawn, labels, 0.3)
    # torchreid takes distances by a product of matrices.
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    (one,) = torch.autograd.grad(ours, drawn)
    (other,) = torch.autograd.grad(theirs, drawn)
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    assert ours > 0


def test_triplets_of_loss_zero_count_in_the_mean():
    # Anchors at 0, 1 and 2, 10: by hand 0.3 + 1 - 2, 0.3 + 1 - 1, 0.3 + 8 - 1 and 0.3 + 8 - 9.
    line = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    loss = batch_hard_triplet(line, torch.tensor([0, 0, 1, 1]), torch.ones(4), 0.3)
    assert float(loss) == pytest.approx((0 + 0.3 + 7.3 + 0) / 4)


def test_rows_without_identity_are_neither_anchor_nor_pair_nor_near_a_centre():
    drawn, labels = features()
    centres = torch.randn(4, 5, generator=torch.Generator().manual_seed(2))
    mixed = labels.clone()
    mixed[8:] = NO_IDENTITY
    weight = torch.ones(12)
    pairs = (
        (
            batch_hard_triplet(drawn, mixed, weight, 0.3),
            batch_hard_triplet(drawn[:8], labels[:8], weight[:8], 0.3),
        ),
        (
            centre_loss(drawn, mixed, weight, centres),
            centre_loss(drawn[:8], labels[:8], weight[:8], centres),
        ),
    )
    for loss, expected in pairs:
        (one,) = torch.autograd.grad(loss, drawn)
        (other,) = torch.autograd.grad(expected, drawn)
        torch.testing.assert_close(loss, expected, atol=FLOAT32, rtol=0)
        torch.testing.assert_close(one, other, atol=FLOAT32, rtol=0)
        assert not one[8:].any()


def test_an_anchor_of_weight_zero_counts_for_nothing_but_may_be_anothers_pair():
    line = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    weight = torch.tensor([1.0, 1.0, 0.0, 0.0])
    loss = batch_hard_triplet(line, torch.tensor([0, 0, 1, 1]), weight, 0.3)
    assert float(loss) == pytest.approx(0.3 / 2)


@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 1, 2, 3], [NO_IDENTITY] * 4])
def test_a_batch_without_a_triplet_has_loss_and_gradient_zero(labels):
    drawn = torch.ones(4, 2, requires_grad=True)
    loss = batch_hard_triplet(drawn, torch.tensor(labels), torch.ones(4), 0.3)
    (gradient,) = torch.autograd.grad(loss, drawn)
    assert loss == 0
    assert not gradient.any()


def test_the_centre_loss_is_the_weighted_mean_of_squared_distances():
    drawn = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    centres = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    loss = centre_loss(drawn, torch.tensor([0, 1]), torch.tensor([1.0, 3.0]), centres)
    assert loss == (1 * 1 + 3 * 25) / 4


def test_features_of_half_precision_give_float32_losses():
    drawn, labels = features()
    bf16, centres = drawn.bfloat16(), torch.zeros(4, 5)
    assert batch_hard_triplet(bf16, labels, torch.ones(12), 0.3).dtype == torch.float32
    assert centre_loss(bf16, labels, torch.ones(12), centres).dtype == torch.float32
