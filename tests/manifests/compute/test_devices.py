"""Which device a name means."""

import pytest
import torch

from manifests.compute.devices import own_gpu, pick_device, upload
from manifests.runtime.console import UserError

TORCHRUN = {"LOCAL_RANK": "5", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize(
    ("name", "environ", "num_gpus", "own"),
    [
        ("auto", TORCHRUN, 8, "cuda:5"),
        ("cuda", TORCHRUN, 4, "cuda:1"),
        ("cuda", {"SLURM_LOCALID": "3"}, 4, "cuda:3"),
        # What was named, or the only one there is.
        ("cuda:0", TORCHRUN, 8, "cuda:0"),
        ("cpu", TORCHRUN, 8, "cpu"),
        ("auto", TORCHRUN, 1, "auto"),
        ("auto", TORCHRUN, 0, "auto"),
        ("cuda", {}, 8, "cuda"),
    ],
)
def test_each_process_of_a_machine_takes_the_gpu_of_its_local_rank(name, environ, num_gpus, own):
    assert own_gpu(name, environ, num_gpus) == own


@pytest.mark.parametrize("name", ["meta", "mps", "gpu", "cpu:x", "cuda:-1", ""])
def test_a_device_of_another_kind_is_refused(name):
    with pytest.raises(UserError, match=f"--device: found '{name}', expected auto, cpu, cuda or"):
        pick_device(name)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_tensor_of_the_host_or_of_the_device_comes_to_the_device():
    device = torch.device("cuda:0")
    for values in (torch.arange(3), torch.arange(3, device=device)):
        uploaded = upload(values, device)
        assert uploaded.device == device
        assert uploaded.tolist() == [0, 1, 2]
