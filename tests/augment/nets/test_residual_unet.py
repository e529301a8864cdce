"""The U-Net of PG2 and DPIG."""

import pytest
import torch

from augment.nets.residual_unet import ResidualUNet

SIZE = (48, 32)
SAME_SUM = 1e-5


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_numbers_that_every_pixel_has_need_not_be_spread_over_the_pixels(memory_format):
    torch.manual_seed(0)
    network = ResidualUNet(7, 4, 5, SIZE).to(memory_format=memory_format)
    torch.nn.init.normal_(network.entry[0].bias)
    codes, maps = torch.randn(2, 4), torch.randn(2, 3, *SIZE)
    both = codes.clone().requires_grad_()
    spread = codes.clone().requires_grad_()
    everywhere = spread[:, :, None, None].expand(-1, -1, *SIZE)
    expected = network(torch.cat([everywhere, maps], dim=1))
    found = network(maps, both)
    torch.testing.assert_close(found, expected, atol=SAME_SUM, rtol=SAME_SUM)
    for result in (expected, found):
        result.square().sum().backward()
    torch.testing.assert_close(both.grad, spread.grad, rtol=1e-4, atol=1e-4)
