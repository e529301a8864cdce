"""Layers and losses that several systems share."""

import pytest
import torch

from augment.nets.dropout import Dropout
from augment.nets.padding import ReflectionPad, SameConv2d
from augment.objectives.adversarial import ImagePool, cross_entropy, least_squares
from augment.pose.maps import gaussians
from augment.pose.pose import Pose


@pytest.mark.parametrize("pixels", [1, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_reflection_padding_and_its_gradient_equal_torchs(pixels, layout):
    image = torch.randn(2, 5, 8, 6, dtype=torch.float64).to(memory_format=layout)
    image.requires_grad_()
    ours, theirs = ReflectionPad(pixels)(image), torch.nn.ReflectionPad2d(pixels)(image)
    weights = torch.randn_like(theirs)
    assert torch.equal(ours, theirs)
    (our_gradient,) = torch.autograd.grad(ours, image, weights)
    (their_gradient,) = torch.autograd.grad(theirs, image, weights)
    # Sums of up to four numbers in another order.
    torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kernel", "before", "after"), [(3, 0, 1), (5, 1, 2)])
def test_same_padding_of_a_stride_of_two_is_larger_below_and_to_the_right(kernel, before, after):
    layer = SameConv2d(2, 3, kernel, stride=2).double()
    image = torch.randn(1, 2, 8, 6, dtype=torch.float64)
    padded = torch.zeros(1, 2, 8 + before + after, 6 + before + after, dtype=torch.float64)
    padded[..., before : before + 8, before : before + 6] = image
    found = layer(image)
    assert found.shape == (1, 3, 4, 3)
    for row in range(4):
        for column in range(3):
            part = padded[0, :, 2 * row : 2 * row + kernel, 2 * column : 2 * column + kernel]
            expected = (layer.weight * part).sum(dim=(1, 2, 3)) + layer.bias
            torch.testing.assert_close(found[0, :, row, column], expected)


def test_same_padding_of_an_odd_size_is_symmetric():
    layer = SameConv2d(2, 3, 3, stride=2)
    image = torch.randn(1, 2, 9, 7)
    expected = torch.nn.functional.conv2d(image, layer.weight, layer.bias, stride=2, padding=1)
    assert torch.equal(layer(image), expected)


def test_dropout_drops_half_and_doubles_the_rest():
    torch.manual_seed(0)
    kept = Dropout(0.5)(torch.ones(1_000, 1_001))
    assert kept.unique().tolist() == [0.0, 2.0]
    # A million coin flips: five standard deviations are 0.0025 of the mean of 1.
    assert abs(kept.mean().item() - 1.0) < 0.005


def test_dropout_bits_of_one_draw_are_independent_of_each_other():
    torch.manual_seed(0)
    kept = (Dropout(0.5)(torch.ones(200_000, 8)) > 0).float()
    correlations = torch.corrcoef(kept.T) - torch.eye(8)
    assert correlations.abs().max() < 0.015  # six standard deviations of 1/sqrt(200,000)


def test_dropout_leaves_evaluation_and_the_layout_alone():
    features = torch.randn(2, 4, 3, 3).to(memory_format=torch.channels_last)
    assert torch.equal(Dropout(0.5).eval()(features), features)
    dropped = Dropout(0.25)(features)
    assert dropped.is_contiguous(memory_format=torch.channels_last)


def test_a_dropout_that_bytes_cannot_give_is_refused():
    with pytest.raises(ValueError, match="multiple of 1/256"):
        Dropout(0.3)


def test_the_pool_keeps_and_returns_the_first_images():
    pool = ImagePool(4, 1, 1, 1)
    first = torch.arange(3.0).view(3, 1, 1, 1)
    assert torch.equal(pool(first), first)
    assert pool.images.flatten().tolist() == [0.0, 1.0, 2.0, 0.0]
    assert int(pool.num_stored) == 3


def test_the_full_pool_exchanges_about_half_and_loses_no_image():
    torch.manual_seed(1)
    pool = ImagePool(50, 1, 1, 1)
    pool(torch.arange(50.0).view(-1, 1, 1, 1))
    new = torch.arange(50.0, 1050.0).view(20, 50, 1, 1, 1)
    returned = torch.cat([pool(batch) for batch in new]).flatten()
    older = (returned != new.flatten()).float().mean().item()
    assert 0.45 < older < 0.55
    everything = torch.cat([returned, pool.images.flatten()])
    assert sorted(everything.tolist()) == [float(number) for number in range(1050)]


def test_a_pool_of_none_returns_what_it_gets():
    fakes = torch.randn(3, 2, 4, 4)
    assert torch.equal(ImagePool(0, 2, 4, 4)(fakes), fakes)


def test_cross_entropy_is_that_of_the_sigmoid():
    logits = torch.tensor([-1.5, 0.0, 2.0])
    for real in (True, False):
        expected = torch.nn.functional.binary_cross_entropy(
            torch.sigmoid(logits), torch.full((3,), float(real))
        )
        torch.testing.assert_close(cross_entropy(logits, real=real), expected)


def test_least_squares_measures_the_distance_to_one_or_zero():
    scores = torch.tensor([0.0, 1.0, 3.0])
    assert least_squares(scores, real=True).item() == pytest.approx(5 / 3)
    assert least_squares(scores, real=False).item() == pytest.approx(10 / 3)


def test_convention_a_map_peaks_at_column_x_and_row_y():
    joints = torch.full((1, 18, 2), float("nan"))
    joints[0, 4] = torch.tensor([20.0, 90.0])
    maps = gaussians(Pose(joints), 128, 64)
    assert maps[0, 4, 90, 20] == 1.0
    assert maps[0, 4, 90, 26] == pytest.approx(float(torch.exp(torch.tensor(-0.5))))
    assert maps[0, :4].abs().max() == 0.0


def test_convention_mirroring_twice_is_nothing_and_exchanges_left_and_right():
    joints = torch.rand(3, 18, 2) * 60
    pose = Pose(joints)
    torch.testing.assert_close(pose.mirror(64).mirror(64).joints, joints)
    torch.testing.assert_close(pose.mirror(64).joints[:, 2, 0], 63 - joints[:, 5, 0])


def test_convention_an_affine_map_moves_x_and_y():
    joints = torch.tensor([[[1.0, 2.0]]]).expand(1, 18, 2)
    matrix = torch.tensor([[[1.0, 0.0, 10.0], [0.0, 2.0, 0.0]]])
    assert Pose(joints).affine(matrix).joints[0, 0].tolist() == [11.0, 4.0]
