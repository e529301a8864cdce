"""The log that all trainings write."""

from __future__ import annotations

import json

import pytest
import torch

from manifests.compute.distributed import ProcessGroup
from manifests.compute.training_log import TrainingLog
from manifests.runtime.console import UserError


def test_a_resumed_log_drops_later_lines_and_one_that_was_never_finished(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "mAP": 0.5}\n{"step": 3}\n{"step": 1, "lo')
    TrainingLog(path, 2, 4).write(3, {"loss": 2.5})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"step": 1}, {"step": 2, "mAP": 0.5}, {"step": 3, "loss": 2.5}]


def test_progress_is_the_mean_of_the_steps_since_the_last_one(tmp_path):
    log = TrainingLog(tmp_path / "log.jsonl", 5, 100)
    for loss in (1.0, 2.0, 6.0):
        log.add({"loss": torch.tensor(loss)}, 8)
    first = log.progress(8)
    assert first.losses == {"loss": 3.0}
    # 24 images in so many seconds, so 92 steps of 8 images take so long.
    assert first.seconds_left * first.images_per_second == pytest.approx(92 * 8)
    log.add({"loss": torch.tensor(4.0)}, 8)
    assert log.progress(9).losses == {"loss": 4.0}


def test_a_log_that_cannot_be_written_is_told_in_one_sentence(tmp_path):
    log = TrainingLog(tmp_path / "log.jsonl", 0, 3)
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"log\.jsonl: cannot be written \(No space left"):
        log.write(1, {"loss": 2.0})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run_at_its_step_and_keeps_the_log_of_before(
    bad, tmp_path
):
    path = tmp_path / "log.jsonl"
    log = TrainingLog(path, 5, 100)
    for loss in (1.0, 3.0):
        log.add({"l1": torch.tensor(0.5), "loss": torch.tensor(loss)}, 8)
    with pytest.raises(UserError, match=rf"^step 8 of 100: the loss became {bad}, expected finite"):
        log.add({"l1": torch.tensor(0.5), "loss": torch.tensor(bad)}, 8)
    assert json.loads(path.read_text()) == {"step": 7, "l1": 0.5, "loss": 2.0}


def test_all_processes_end_at_the_step_where_one_has_a_loss_that_is_not_finite(tmp_path):
    class Group(ProcessGroup):
        def any(self, flag):
            return True

        def mean(self, values):
            return dict(values)

    log = TrainingLog(tmp_path / "log.jsonl", 0, 3, group=Group(1, 2))
    with pytest.raises(UserError, match="step 1 of 3: the losses of another process became no"):
        log.add({"loss": torch.tensor(1.0)}, 8)
    assert not (tmp_path / "log.jsonl").exists()
