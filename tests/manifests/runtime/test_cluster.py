"""Which worker a process is."""

from __future__ import annotations

import pytest

from manifests.runtime.cluster import (
    WorkerIndex,
    check_one_process,
    check_one_training,
    worker_index,
)
from manifests.runtime.console import UserError

ARRAY = {
    "SLURM_ARRAY_TASK_ID": "7",
    "SLURM_ARRAY_TASK_COUNT": "4",
    "SLURM_ARRAY_TASK_MIN": "5",
    "SLURM_ARRAY_TASK_MAX": "8",
}
TASKS = {"SLURM_PROCID": "1", "SLURM_NTASKS": "3", "SLURM_STEP_NUM_TASKS": "3"}
TORCHRUN = {"RANK": "4", "WORLD_SIZE": "6"}
KUBERNETES = {"JOB_COMPLETION_INDEX": "0"}


ALONE = {"GROUP_WORLD_SIZE": "1"}
SPANNING = {"RANK": "7", "WORLD_SIZE": "12", "GROUP_WORLD_SIZE": "3"}


@pytest.mark.parametrize(
    ("flag", "environ", "num_workers", "expected"),
    [
        ("0/2", ARRAY | TASKS | TORCHRUN | KUBERNETES, None, (0, 2)),
        ("0/1", ARRAY, None, (0, 1)),
        (None, ARRAY, None, (2, 4)),
        (None, TASKS, None, (1, 3)),
        (None, TORCHRUN, None, (4, 6)),
        (None, KUBERNETES, 5, (0, 5)),
        (None, {}, None, (0, 1)),
        (None, {}, 1, (0, 1)),
        (None, ARRAY, 4, (2, 4)),
        # Launchers within launchers.
        (None, ARRAY | TASKS, None, (7, 12)),
        (None, ARRAY | TASKS | SPANNING, None, (31, 48)),
        (None, TASKS | TORCHRUN | ALONE, None, (10, 18)),
        (None, TASKS | SPANNING, None, (7, 12)),
        (None, TASKS | {"RANK": "1", "WORLD_SIZE": "3"}, None, (1, 3)),
        (None, ARRAY | TORCHRUN | ALONE, None, (16, 24)),
        (None, {"JOB_COMPLETION_INDEX": "1"} | TORCHRUN | ALONE, 2, (10, 12)),
        (None, ARRAY | {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, None, (2, 4)),
        (None, TORCHRUN | {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, None, (4, 6)),
    ],
)
def test_flag_and_launchers_say_which_worker_it_is(flag, environ, num_workers, expected):
    worker = worker_index(flag, environ, num_workers)
    assert (worker.index, worker.count) == expected


def test_all_processes_of_two_tasks_with_a_torchrun_of_four_each_are_eight_workers():
    found = [
        worker_index(
            None,
            {"SLURM_PROCID": str(task), "SLURM_STEP_NUM_TASKS": "2"}
            | {"RANK": str(rank), "WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "1"},
            None,
        )
        for task in range(2)
        for rank in range(4)
    ]
    assert [(worker.index, worker.count) for worker in found] == [(i, 8) for i in range(8)]


def test_a_torchrun_that_fits_no_step_is_refused():
    with pytest.raises(UserError, match=r"expected one torchrun over all 3 or one in each of them"):
        worker_index(None, TASKS | TORCHRUN | {"GROUP_WORLD_SIZE": "2"}, None)
    with pytest.raises(UserError, match=r"worker 1 of 3 .* and worker 4 of 6"):
        worker_index(None, TASKS | TORCHRUN, None)


def test_the_first_line_of_one_of_many_names_the_flag_that_makes_everything():
    told = worker_index(None, ARRAY, None).introduction
    assert told == (
        "worker 2 of 4 (from the Slurm array, SLURM_ARRAY_TASK_ID); --worker 0/1 makes everything "
        "here"
    )
    assert "--worker 0/1" not in worker_index("1/4", ARRAY, None).introduction


def test_a_worker_says_who_it_is_and_why():
    assert str(worker_index(None, TORCHRUN, None)) == "worker 4 of 6 (from RANK and WORLD_SIZE)"


def test_every_task_of_an_array_is_another_worker():
    found = [worker_index(None, ARRAY | {"SLURM_ARRAY_TASK_ID": str(i)}, None) for i in range(5, 9)]
    assert [worker.index for worker in found] == [0, 1, 2, 3]


@pytest.mark.parametrize("tasks", [{}, {"SLURM_NTASKS": "4"}])
def test_a_batch_script_without_srun_is_the_only_worker(tasks):
    assert worker_index(None, {"SLURM_PROCID": "0"} | tasks, None).count == 1


@pytest.mark.parametrize("flag", ["4/4", "1", "-1/2", "a/b", "1/0", "", "1/2/3", "0/2 "])
def test_a_wrong_flag_is_refused(flag):
    with pytest.raises(UserError, match=f"--worker: found '{flag}', expected i/N"):
        worker_index(flag, {}, None)


def test_an_array_with_gaps_asks_for_the_flag():
    gaps = ARRAY | {"SLURM_ARRAY_TASK_MAX": "11"}
    with pytest.raises(UserError, match=r"found 4 tasks with indices from 5 to 11.*--worker i/N"):
        worker_index(None, gaps, None)
    assert worker_index("3/4", gaps, None) == WorkerIndex(3, 4, "--worker")


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"SLURM_ARRAY_TASK_ID": "1"}, "SLURM_ARRAY_TASK_COUNT: found ''"),
        (TORCHRUN | {"RANK": "x"}, "RANK: found 'x', expected a whole number"),
        (TORCHRUN | {"RANK": "6"}, "found worker 6 of 6, expected an index from 0 to 5"),
        (ARRAY | {"SLURM_ARRAY_TASK_ID": "9"}, "found worker 4 of 4"),
        (KUBERNETES, "no number of workers; expected --num-workers"),
    ],
)
def test_an_environment_that_does_not_fit_is_refused(environ, message):
    with pytest.raises(UserError, match=message):
        worker_index(None, environ, None)


@pytest.mark.parametrize("environ", [{}, TORCHRUN])
def test_a_number_of_workers_that_contradicts_the_rest_is_refused(environ):
    with pytest.raises(UserError, match="expected 5"):
        worker_index(None, environ, 5)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        TORCHRUN,
        ARRAY,
        TASKS | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        # A batch script without srun.
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "3"},
        # One torchrun over all tasks, or a script that names the ranks after them.
        TASKS | SPANNING,
        TASKS | {"RANK": "1", "WORLD_SIZE": "3"},
    ],
)
def test_one_training_by_one_torchrun_is_fine(environ):
    check_one_training(environ)


@pytest.mark.parametrize(
    "environ",
    [
        TASKS,
        TASKS | TORCHRUN | ALONE,
        TASKS | {"RANK": "0", "WORLD_SIZE": "1", "GROUP_WORLD_SIZE": "1"},
        ARRAY | TASKS,
    ],
)
def test_tasks_that_would_each_train_the_same_run_are_refused(environ):
    with pytest.raises(
        UserError, match=r"worker 1 of 3 \(from SLURM_PROCID .*each would train the same run.*srun"
    ):
        check_one_training(environ)


@pytest.mark.parametrize("environ", [TASKS, TORCHRUN, ARRAY | TASKS])
def test_processes_that_would_each_do_all_of_the_work_are_refused(environ):
    with pytest.raises(UserError, match=r"each would do all of the work; expected one process"):
        check_one_process(environ)


@pytest.mark.parametrize("environ", [{}, ARRAY, {"SLURM_PROCID": "0", "SLURM_NTASKS": "3"}])
def test_one_process_may_do_all_of_the_work(environ):
    check_one_process(environ)
