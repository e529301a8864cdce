"""The state of a training on disk."""

from __future__ import annotations

import torch

from manifests.compute.training_state import read_training_state, write_training_state

CPU = torch.device("cpu")


def test_equal_states_have_equal_bytes_however_they_came_about(tmp_path):
    name = "stage one"
    shared = {"stage": name, "optimizers": {"a": {"stage": name, "values": [torch.ones(2), name]}}}
    write_training_state(shared, tmp_path / "first.pt")
    read = read_training_state(tmp_path / "first.pt", CPU)
    read["optimizers"]["a"]["stage"] = str(b"stage one", "ascii")
    write_training_state(read, tmp_path / "second.pt")
    first, second = (tmp_path / f"{name}.pt" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
