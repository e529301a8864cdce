"""Who a process is among several, and which device it has; what they exchange is tested by use."""

from __future__ import annotations

import pytest
import torch

from manifests.compute.distributed import init_distributed, rank_device
from manifests.runtime.console import UserError

TORCHRUN = {
    "RANK": "1",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "1",
}


def test_every_rank_has_a_gpu_of_its_own():
    assert rank_device("cuda", TORCHRUN) == "cuda:1"
    assert rank_device("cpu", TORCHRUN) == "cpu"
    assert rank_device("cuda:3", {}) == "cuda:3"
    with pytest.raises(UserError, match="2 processes for one GPU"):
        rank_device("cuda:0", TORCHRUN)
    with pytest.raises(UserError, match="no RANK, LOCAL_RANK"):
        rank_device("cpu", {"WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"})


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert rank_device("auto", TORCHRUN | {"LOCAL_RANK": "0"}) == "cuda:0"
    with pytest.raises(UserError, match=r"found process 2 on a machine of 1 .* or --device cpu"):
        rank_device("auto", TORCHRUN)


def test_a_process_that_nobody_started_as_one_of_several_is_the_only_one():
    with init_distributed(torch.device("cpu"), {}) as group:
        assert (group.rank, group.size, group.is_primary) == (0, 1, True)
        values = torch.arange(3.0)
        assert group.all_gather(values) == [values]
        assert group.mean({"loss": values[2]}) == {"loss": values[2]}
        assert not torch.distributed.is_initialized()


def test_a_training_refuses_tasks_of_srun_that_no_torchrun_spans():
    tasks = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}
    with pytest.raises(UserError, match="each would train the same run"):
        rank_device("cpu", tasks)
    assert rank_device("cpu", tasks | TORCHRUN) == "cpu"
