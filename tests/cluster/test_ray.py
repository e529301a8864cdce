"""A Ray of a head and two nodes on this machine: actors, nodes and drivers that are lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from augment.generation.job import generate
from augment.generation.status import look
from manifests.runtime.console import Console, Exit
from tests.helpers import trivial
from tests.helpers.machine import processes

# Ray's warnings are for its own makers.
pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore")]

QUIET = Console(quiet=True)
NUM_SHARDS = 10
PATIENCE_S = 240


@pytest.fixture(scope="module")
def cluster(python_path):
    """Start a head that computes nothing and two nodes with one CPU each."""
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        # The nodes' processes inherit these.
        patch.setenv("PYTHONPATH", python_path)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_raylet_start_wait_time_s", "120")
        patch.setenv("OMP_NUM_THREADS", "1")
        started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        # Asked for now: a cluster that is shut down has neither, and nothing equals nothing.
        session, address = started.head_node.get_session_dir_path(), started.address
        assert session
        assert address
        for _ in range(2):
            started.add_node(num_cpus=1)
        yield started
        started.shutdown()
    for process, (command, environ) in processes().items():
        if session in command or environ.get("RAY_ADDRESS") == address:
            os.kill(process, signal.SIGKILL)


@pytest.fixture(scope="module")
def straight(people, tmp_path_factory):
    """The files of one process: 40 rows in 10 shards."""
    out = tmp_path_factory.mktemp("straight") / "out"
    settings = trivial.job_settings(people, out)
    assert generate(settings, QUIET, trivial.trivial_weights()) == Exit.DONE
    return trivial.files_of(out)


class Driver:
    """A driver in a process of its own, and what can be seen of its run."""

    def __init__(
        self, people, folder, address, *, num_workers=1, patience_s=PATIENCE_S, by_flag=True
    ):
        self.out = folder / "out"
        self.ids = folder / "ids"
        self.ids.mkdir(exist_ok=True)
        script = Path(__file__).resolve().parents[1] / "helpers" / "cluster_driver.py"
        flag = address if by_flag else ""
        arguments = [people, self.out, flag, self.ids, patience_s, num_workers]
        self.process = subprocess.Popen(
            [sys.executable, script, *map(str, arguments)],
            env=os.environ | ({} if by_flag else {"RAY_ADDRESS": address}),
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, num_shards):
        """Wait until so many shards are made."""
        until = time.monotonic() + PATIENCE_S
        while len(self.shards()) < num_shards:
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < until, "the run does not advance"
            time.sleep(0.01)
        assert len(self.shards()) < NUM_SHARDS - 1, "the run ended before it could be disturbed"

    def shards(self):
        return {path: path.stat().st_mtime_ns for path in self.out.glob("data/part-*.parquet")}

    def ended(self):
        """Wait for the end and return exit code and what was said."""
        said = self.process.communicate(timeout=PATIENCE_S)[1]
        return self.process.returncode, said


@pytest.fixture
def drive(cluster, people, tmp_path):
    """Return a starter of drivers; what still runs in the end is killed."""
    started = []

    def start(**changes):
        started.append(Driver(people, tmp_path, cluster.address, **changes))
        return started[-1]

    yield start
    for driver in started:
        driver.process.kill()
        driver.process.communicate()


def test_a_killed_actor_costs_nothing(drive, cluster, straight):
    # Where Ray is, is told by the environment here and by the flag in the other tests.
    driver = drive(by_flag=False)
    driver.wait_for(num_shards=1)
    os.kill(int(next(driver.ids.iterdir()).name), signal.SIGKILL)

    code, said = driver.ended()

    assert code == Exit.DONE, said
    assert f"Ray at {cluster.address}: " in said
    assert "a worker died with shard" in said
    assert "Traceback" not in said
    assert trivial.files_of(driver.out) == straight


def test_a_removed_node_costs_nothing(drive, cluster, straight):
    driver = drive(num_workers=2)
    driver.wait_for(num_shards=1)
    cluster.remove_node(min(cluster.worker_nodes, key=id), allow_graceful=False)

    code, said = driver.ended()
    cluster.add_node(num_cpus=1)

    assert code == Exit.DONE, said
    assert "a worker died with shard" in said
    assert trivial.files_of(driver.out) == straight


def test_a_killed_driver_run_again_goes_on(drive, straight):
    driver = drive()
    driver.wait_for(num_shards=2)
    driver.process.kill()
    assert driver.ended()[0] == -signal.SIGKILL
    made = driver.shards()
    assert not look(driver.out).finished

    code, said = drive().ended()

    assert code == Exit.DONE, said
    assert trivial.files_of(driver.out) == straight
    assert made.items() <= driver.shards().items()


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, Exit.STOPPED_EARLY), (signal.SIGINT, Exit.INTERRUPTED)],
)
def test_a_signal_ends_the_driver_with_its_code(drive, number, code):
    driver = drive()
    driver.wait_for(num_shards=1)

    driver.process.send_signal(number)

    found, said = driver.ended()
    assert found == code, said
    assert said.endswith("the same command goes on from here\n")
    assert f" of {4 * NUM_SHARDS} images are kept, the rest of a shard" in said
    assert not look(driver.out).finished


def test_a_driver_without_living_workers_gives_up(drive, cluster):
    driver = drive(patience_s=15)
    driver.wait_for(num_shards=1)
    for node in list(cluster.worker_nodes):
        cluster.remove_node(node, allow_graceful=False)

    code, said = driver.ended()
    for _ in range(2):
        cluster.add_node(num_cpus=1)

    assert code == Exit.STOPPED_EARLY, said
    assert "no worker has been alive for 15 s" in said
