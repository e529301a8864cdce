"""Weights of others: what is read, what is refused."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from manifests.compute.external_weights import download_weights, read_state_dict
from manifests.runtime.console import UserError

WEIGHTS = {"a.weight": torch.arange(3.0), "b": torch.ones(2, 2)}


class Harmful:
    """Pickles as a call of ``print``."""

    def __reduce__(self):
        return print, ("executed",)


def test_a_checkpoint_gives_its_state_dict_without_the_prefix_of_data_parallel(tmp_path):
    wrapped = {f"module.{name}": value for name, value in WEIGHTS.items()}
    # As torchreid stores it, with its rank-1 as a NumPy scalar.
    checkpoint = {"state_dict": wrapped, "epoch": 3, "rank1": np.float32(0.5)}
    torch.save(checkpoint, tmp_path / "checkpoint.pth")
    torch.save(WEIGHTS, tmp_path / "plain.pth")
    save_file(WEIGHTS, tmp_path / "plain.safetensors")
    for name in ("checkpoint.pth", "plain.pth", "plain.safetensors"):
        found = read_state_dict(tmp_path / name, "--weights")
        assert found.keys() == WEIGHTS.keys()
        assert all(torch.equal(found[key], value) for key, value in WEIGHTS.items())


@pytest.mark.parametrize("holder", ["state_dict", "model", "model_state_dict", "net"])
def test_a_checkpoint_gives_what_it_holds_whatever_it_is_called(holder, tmp_path):
    torch.save({holder: WEIGHTS, "optimizer": {"lr": 0.1}, "iteration": 3}, tmp_path / "c.pth")
    assert read_state_dict(tmp_path / "c.pth", "--weights").keys() == WEIGHTS.keys()


def test_a_checkpoint_with_scalars_of_numpy_1_is_read(tmp_path):
    """As torchreid wrote them in 2022: NumPy 2 has moved the function that makes a scalar."""
    for number, scalar in enumerate((np.float32(0.5), np.float64(0.5), np.int64(3))):
        torch.save({"state_dict": WEIGHTS, "rank1": scalar}, tmp_path / "new.pth")
        old = tmp_path / f"old-{number}.pth"
        with ZipFile(tmp_path / "new.pth") as new, ZipFile(old, "w") as file:
            for name in new.namelist():
                data = new.read(name)
                if name.endswith("data.pkl"):
                    assert b"numpy._core.multiarray" in data
                    data = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
                file.writestr(name, data)
        assert read_state_dict(old, "--weights").keys() == WEIGHTS.keys()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({1: torch.ones(1)}, "holds an entry under '1', a int and no name, expected a state dict"),
        ({"a": torch.ones(2).to_sparse()}, "holds a sparse, quantised or empty tensor as 'a'"),
        ([1, 2], "holds a list, expected a state dict"),
        ({"a": torch.ones(1), "epoch": 3}, "holds a int as 'epoch', expected a state dict"),
        (Harmful(), r"cannot be read as weights \(UnpicklingError\), expected a state dict"),
    ],
)
def test_a_file_that_holds_no_tensors_under_names_is_refused_and_not_run(
    content, message, tmp_path, capsys
):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(UserError, match=rf"^--weights: .*file\.pth {message}"):
        read_state_dict(tmp_path / "file.pth", "--weights")
    assert capsys.readouterr().out == ""


def test_a_damaged_or_missing_file_is_refused(tmp_path):
    (tmp_path / "file.safetensors").write_bytes(b"hello")
    with pytest.raises(UserError, match=r"file\.safetensors cannot be read as weights"):
        read_state_dict(tmp_path / "file.safetensors", "--weights")
    with pytest.raises(UserError, match=r"^--weights: found nothing of this name at .*nowhere"):
        read_state_dict(tmp_path / "nowhere.pth", "--weights")
    with pytest.raises(UserError, match=r"^--weights: found a folder at"):
        read_state_dict(tmp_path, "--weights")


def test_a_download_is_checked_against_its_name_and_kept(tmp_path, monkeypatch):
    requests = []

    def download(url, path, hash_prefix, progress):
        requests.append((url, hash_prefix))
        Path(path).write_bytes(b"weights")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    url = "https://example.org/net-0123abcd.pth"
    for _ in range(2):
        path = download_weights(url, "--net download", "give a file instead")
        assert path.read_bytes() == b"weights"
    assert requests == [(url, "0123abcd")]


def test_a_folder_that_no_download_can_be_put_into_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file" / "below"))
    with pytest.raises(UserError, match=r"cannot be downloaded to .*below/hub.* see TORCH_HOME"):
        download_weights("https://example.org/net-0123abcd.pth", "--net download", "give a file")


def test_a_download_that_fails_says_what_to_do(tmp_path, monkeypatch):
    def offline(*arguments, **named):
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UserError, match=r"^--net download: .*no route to host.*; give a file"):
        download_weights("https://example.org/net-0123abcd.pth", "--net download", "give a file")
