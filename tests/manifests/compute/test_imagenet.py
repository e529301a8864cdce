from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from manifests.compute import imagenet
from manifests.compute.imagenet import PACKAGED, imagenet_file, imagenet_model
from manifests.runtime.console import UserError

NAME = "timm/tf_efficientnet_lite0"


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file of a package with weights that must not be imported."""
    folder = tmp_path / "carrier"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    file = folder / "models" / "net.pth"
    file.write_bytes(b"weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    carrier = replace(
        PACKAGED[NAME],
        package="carrier",
        file="models/net.pth",
        sha256=hashlib.sha256(b"weights").hexdigest(),
    )
    monkeypatch.setitem(imagenet.PACKAGED, NAME, carrier)
    return file


def test_the_file_of_an_installed_package_is_found_and_the_package_not_imported(packaged: Path):
    assert imagenet_file(NAME) == packaged
    assert "carrier" not in sys.modules


def test_without_the_package_the_install_command_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(imagenet.PACKAGED, NAME, replace(PACKAGED[NAME], package="not_installed"))
    with pytest.raises(UserError, match=r"pip install .reid-augment\[imagenet\]."):
        imagenet_file(NAME)


def test_a_package_without_its_file_or_with_another_is_refused(packaged: Path):
    packaged.write_bytes(b"others")
    with pytest.raises(UserError, match=r"net\.pth has the SHA-256 .*, expected"):
        imagenet_file(NAME)
    packaged.unlink()
    with pytest.raises(UserError, match=r"found no net\.pth in the package carrier"):
        imagenet_file(NAME)


def test_a_network_that_no_package_has_is_refused_with_those_that_have_one():
    with pytest.raises(UserError, match="found --model resnet50, expected one of timm/tf_eff"):
        imagenet_file("resnet50")


def test_imagenet_asks_for_the_first_network_that_can_be_built_and_filled(
    packaged: Path, monkeypatch
):
    find = imagenet.importlib.util.find_spec
    assert imagenet_model("imagenet", "--imagenet") == NAME
    assert imagenet_model("torchvision/mobilenet_v2", "--imagenet") == "torchvision/mobilenet_v2"
    mobilenet = replace(PACKAGED[NAME], package="carrier")
    monkeypatch.setitem(imagenet.PACKAGED, "torchvision/mobilenet_v2", mobilenet)
    monkeypatch.setattr(
        imagenet.importlib.util, "find_spec", lambda name: None if name == "timm" else find(name)
    )
    assert imagenet_model("imagenet", "--imagenet") == "torchvision/mobilenet_v2"


def test_a_network_that_is_misspelt_is_refused_with_those_there_are():
    with pytest.raises(
        UserError, match="--imagenet: found 'vgg', expected imagenet or one of timm/"
    ):
        imagenet_model("vgg", "--imagenet")
