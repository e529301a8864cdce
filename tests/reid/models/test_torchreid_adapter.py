from __future__ import annotations

import sys
from pathlib import Path

import pytest
from torch import nn

from manifests.runtime.console import UserError
from reid.models import torchreid_adapter


@pytest.fixture
def forgotten(monkeypatch):
    """Forget torchreid for the time of a test, as in a fresh process."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchreid"]:
        monkeypatch.delitem(sys.modules, name)
    torchreid_adapter._torchreid.cache_clear()
    yield monkeypatch
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchreid"]:
        sys.modules.pop(name)
    torchreid_adapter._torchreid.cache_clear()


def write_package(folder: Path, version: str, inner: str | None) -> None:
    """Write a torchreid that does next to nothing, in the layout of PyPI if it has an inside."""
    package = folder / "torchreid"
    place = package if inner is None else package / "reid"
    (place / "models").mkdir(parents=True)
    (place / "models" / "__init__.py").write_text(
        "__model_factory = {'tiny': None}\n"
        "def build_model(name, **settings):\n"
        "    return name, settings['loss']\n"
    )
    (place / "engine").mkdir()
    (place / "engine" / "__init__.py").write_text(
        "class Engine:\n"
        "    def __init__(self, datamanager, use_gpu):\n"
        "        self.train_loader = datamanager.train_loader\n"
        "    def register_model(self, *parts):\n"
        "        pass\n"
        "    def train(self, print_freq):\n"
        "        for data in self.train_loader:\n"
        "            self.forward_backward(data)\n"
    )
    (place / "__init__.py").write_text(f"__version__ = '{inner or version}'\n")
    if inner is not None:
        (package / "__init__.py").write_text(
            f"from torchreid import reid\n__version__ = '{version}'\n"
        )


@pytest.mark.parametrize(("version", "inner"), [("0.2.5", "1.4.0"), ("1.4.0", None)])
def test_either_layout_of_torchreid_serves(version, inner, forgotten, tmp_path):
    write_package(tmp_path, version, inner)
    forgotten.syspath_prepend(tmp_path)
    assert torchreid_adapter.version() == "1.4.0"
    assert torchreid_adapter.model_names() == ["tiny"]
    assert torchreid_adapter.build_model("tiny", 3, "triplet") == ("tiny", "triplet")
    steps: list[str] = []
    torchreid_adapter.train(nn.Identity(), ["one", "two"], steps.append)
    assert steps == ["one", "two"]


@pytest.mark.parametrize(("version", "inner"), [("0.2.4", "1.4.0"), ("1.3.0", None)])
def test_another_version_of_torchreid_is_refused(version, inner, forgotten, tmp_path):
    write_package(tmp_path, version, inner)
    forgotten.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=rf"torchreid {version} .* expected 0\.2\.5"):
        torchreid_adapter.version()


def test_without_torchreid_one_sentence_says_what_to_install(forgotten):
    forgotten.setitem(sys.modules, "torchreid", None)
    with pytest.raises(UserError, match=r"cannot be imported .* pip install torchreid==0\.2\.5"):
        torchreid_adapter.model_names()


@pytest.mark.parametrize(
    ("module", "package"),
    [
        ("scipy", "scipy"),
        ("cv2", "opencv-python-headless"),
        ("gdown", "gdown"),
        ("tensorboard", "tensorboard"),
    ],
)
def test_without_a_module_that_torchreid_forgets_to_ask_for_the_sentence_names_it(
    module, package, forgotten, tmp_path
):
    write_package(tmp_path, "0.2.5", "1.4.0")
    (tmp_path / "torchreid" / "__init__.py").write_text(f"import {module}\n")
    forgotten.syspath_prepend(tmp_path)
    forgotten.setitem(sys.modules, module, None)
    with pytest.raises(UserError) as refused:
        torchreid_adapter.model_names()
    before, after = str(refused.value).split("pip install ")
    assert f"import of {module} halted" in before
    assert package in after.split()


def test_an_unknown_network_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"no network 'osnet'; it has .*osnet_x0_25"):
        torchreid_adapter.build_model("osnet", 3)
