"""Two ranks on one machine: the same as one process, killed, stopped, refused."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from augment.interface.schedule import Stage
from augment.training.parallel import check_batches_divide
from manifests.compute.distributed import SINGLE_PROCESS, ProcessGroup
from manifests.runtime.console import UserError
from tests.helpers import two_ranks
from tests.helpers.training import TRAIN, equal_states

ROOT = Path(__file__).resolve().parents[3]

ROUNDING = {"rtol": 1e-12, "atol": 1e-12}
"""float64 sums in another order."""

LOSSES = {"rel": 1e-4}
"""float32 sums in another order, after updates in which Adam makes the rounding larger."""

GRADIENTS = 1e-4
"""Of a phase's largest: float32 sums in another order."""

WEIGHTS = 0.02
"""Of the way they went: where a gradient is rounding alone, Adam makes a whole update of it."""


def environment(rank: int, port: int) -> dict[str, str]:
    """Return what torchrun sets for one of two processes."""
    here = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return os.environ | here | there


def start(command: list[str]) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        subprocess.Popen(command, env=environment(rank, port), cwd=ROOT, stderr=subprocess.PIPE)
        for rank in range(2)
    ]


def finish(ranks: list[subprocess.Popen]) -> list[int]:
    errors = [rank.communicate(timeout=1200)[1].decode() for rank in ranks]
    codes = [rank.returncode for rank in ranks]
    assert all(code in (0, 75) for code in codes), errors
    return codes


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Return what two ranks computed."""
    out = tmp_path_factory.mktemp("ranks")
    assert finish(start([sys.executable, "-m", "tests.helpers.two_ranks", str(out)])) == [0, 0]
    return [torch.load(out / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]


def test_batch_statistics_are_those_of_the_whole_batch(found):
    whole = two_ranks.normalised(SINGLE_PROCESS)
    for name in ("outputs", "input gradients", "applied"):
        both = torch.cat([rank["normalised"][name] for rank in found])
        torch.testing.assert_close(both, whole[name], **ROUNDING)
    for name in ("0.running_mean", "0.running_var", "0.num_batches_tracked"):
        for rank in found:
            torch.testing.assert_close(rank["normalised"][name], whole[name], **ROUNDING)
    for name in ("gradient 0.weight", "gradient 0.bias"):
        for rank in found:  # a sum over the whole batch here, the mean of two sums there
            torch.testing.assert_close(2 * rank["normalised"][name], whole[name], **ROUNDING)


def test_without_running_statistics_those_of_the_whole_batch_hold_after_training_too(found):
    whole = two_ranks.normalised(SINGLE_PROCESS, tracks=False)
    for name in ("outputs", "input gradients", "applied"):
        both = torch.cat([rank["normalised at once"][name] for rank in found])
        torch.testing.assert_close(both, whole[name], **ROUNDING)
    for rank in found:
        assert rank["normalised at once"].keys() == whole.keys()


def test_gradients_are_averaged_in_place_of_their_layout(found):
    for rank in found:
        first, second = rank["averaged"]
        assert torch.equal(first, torch.arange(24.0).reshape(2, 3, 2, 2) + 0.5)
        assert first.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(second, torch.full((3,), 5.0))


@pytest.fixture(scope="module")
def alone() -> dict:
    """Return what one process computes with the whole batch."""
    return two_ranks.exact(SINGLE_PROCESS)


def test_two_ranks_have_the_losses_of_one_process_with_the_whole_batch(found, alone):
    assert len(alone["losses"]) == 4
    for rank in found:
        for there, here in zip(rank["exact"]["losses"], alone["losses"], strict=True):
            assert there == pytest.approx(here, **LOSSES)


def test_two_ranks_have_the_gradients_of_one_process_with_the_whole_batch(found, alone):
    assert set(alone["gradients"]) == {"generator", "appearance", "shape"}
    for phase, here in alone["gradients"].items():
        for rank in found:
            difference = (rank["exact"]["gradients"][phase] - here).abs().max()
            assert difference <= GRADIENTS * here.abs().max(), phase


def test_two_ranks_have_the_weights_of_one_process_with_the_whole_batch(found, alone):
    for rank in found:
        difference = (rank["exact"]["moved"] - alone["moved"]).norm()
        assert difference <= WEIGHTS * alone["moved"].norm()


def test_both_ranks_hold_the_same_weights(found):
    first, second = (rank["resumed"][0] for rank in found)
    for name, value in first["ema"].items():
        assert torch.equal(value, second["ema"][name]), name


def test_two_ranks_stopped_and_resumed_equal_a_straight_run(found):
    for rank in found:
        straight, again, _ = rank["resumed"]
        assert straight["step"] == 5
        assert equal_states(straight, again)


def test_each_rank_goes_on_with_its_own_pools(found):
    first, second = (rank["resumed"][2]["pools"][0] for rank in found)
    assert int(first["num_stored"]) == 4
    assert not torch.equal(first["images"], second["images"])


def test_one_rank_that_asks_stops_all(found):
    assert [rank["any"] for rank in found] == [[True, False], [True, False]]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists threads by name")
def test_no_thread_of_the_group_outlives_it(found):
    for rank in found:
        assert not [name for name in rank["threads"] if name.startswith("pt_")]


def test_a_batch_that_the_ranks_cannot_split_evenly_is_refused():
    stage = Stage(name="transfer", steps=1, batch_size=32, phases=())
    check_batches_divide([stage], ProcessGroup(0, 4))
    with pytest.raises(UserError, match=r"'transfer' has batches of 32, which 3 processes"):
        check_batches_divide([stage], ProcessGroup(0, 3))


@pytest.mark.slow
def test_two_ranks_killed_and_stopped_end_in_the_bytes_of_a_straight_run(
    tiny_images, tiny_root, tmp_path
):
    images = str(tiny_root / "images.parquet")

    def command(out):
        # Long enough that no moment is past the end.
        longer = ["--config.steps", "40", "--save-every", "1", "--images", images]
        return [*TRAIN, *longer, "--out", str(tmp_path / out)]

    assert finish(start(command("straight"))) == [0, 0]
    state = tmp_path / "killed" / "state.pt"
    moments = random.Random(0)
    for sort, victim in ((signal.SIGKILL, 1), (signal.SIGKILL, 0), (signal.SIGTERM, 1)):
        before = state.stat().st_mtime_ns if state.exists() else None
        ranks = start(command("killed"))
        deadline = time.monotonic() + 1200
        while (state.stat().st_mtime_ns if state.exists() else None) == before:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.1))
        ranks[victim].send_signal(sort)
        if sort == signal.SIGTERM:
            assert finish(ranks) == [75, 75]
        else:  # the other one cannot go on
            codes = [rank.wait(1200) for rank in ranks]
            assert codes[victim] == -signal.SIGKILL
            assert codes[1 - victim] != 0
            for rank in ranks:
                rank.communicate()
        assert not (tmp_path / "killed" / "_SUCCESS").exists()
    assert finish(start(command("killed"))) == [0, 0]
    files = sorted(path.name for path in (tmp_path / "killed").iterdir())
    assert files == ["_SUCCESS", "log.jsonl", "run.json", "samples", "settings.yaml",
                     "state.pt", "weights.safetensors"]  # fmt: skip
    state = torch.load(tmp_path / "straight" / "state.pt", weights_only=True)
    assert state["step"] == 40
    for name in ("state.pt", "weights.safetensors", "samples/step-000036.png"):
        assert (tmp_path / "killed" / name).read_bytes() == (
            tmp_path / "straight" / name
        ).read_bytes(), name
    config = json.loads((tmp_path / "killed" / "run.json").read_text())["config"]
    assert config["processes"] == 2
    alone = subprocess.run(command("killed"), check=False, capture_output=True)
    assert alone.returncode == 2
    assert b"processes: 2, now None" in alone.stderr
