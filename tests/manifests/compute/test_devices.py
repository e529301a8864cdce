"""Which device a name means."""

import pytest

from manifests.compute.devices import own_gpu, pick_device
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
