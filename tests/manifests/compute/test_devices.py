"""Where networks run."""

from __future__ import annotations

import pytest
import torch

from manifests.compute.devices import upload


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_tensor_of_the_host_or_of_the_device_comes_to_the_device():
    device = torch.device("cuda:0")
    for values in (torch.arange(3), torch.arange(3, device=device)):
        uploaded = upload(values, device)
        assert uploaded.device == device
        assert uploaded.tolist() == [0, 1, 2]
