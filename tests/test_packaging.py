"""What is installed is whole: data files in the wheel, files in the image."""

from __future__ import annotations

import re
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PACKAGES = ("augment", "manifests", "reid")


def tracked(folder: str) -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", folder], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return listed.stdout.split()


@pytest.mark.parametrize("package", PACKAGES)
def test_all_files_of_a_package_are_in_the_wheel(package):
    globs = PROJECT["tool"]["setuptools"]["package-data"][package]
    data = [name for name in tracked(package) if not name.endswith(".py")]
    assert data
    left_out = [
        name
        for name in data
        if not any(fnmatch(name.removeprefix(f"{package}/"), one) for one in globs)
    ]
    assert not left_out


def test_the_image_gets_all_packages_and_its_user_has_no_rights():
    lines = (ROOT / "Dockerfile").read_text("utf-8").splitlines()
    let_in = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines()
        if line.startswith("!")
    }
    copied = {
        name
        for line in lines
        if line.startswith("COPY ") and "--from" not in line
        for name in line.split()[1:-1]
    }
    assert copied == let_in
    assert set(PACKAGES) < copied
    assert all((ROOT / name).exists() for name in copied)
    (user,) = (line for line in lines if line.startswith("USER "))
    assert re.fullmatch(r"USER [1-9]\d*:[1-9]\d*", user)
    assert lines.index(user) > max(i for i, line in enumerate(lines) if line.startswith("RUN "))
    extras = PROJECT["project"]["optional-dependencies"]
    (named,) = re.findall(r"for extra in \(([^)]*)\)", "\n".join(lines))
    assert set(re.findall(r'"(\w+)"', named)) < set(extras)


def test_the_versions_of_python_are_named_once_and_the_same():
    classified = {
        line.rpartition(" ")[2]
        for line in PROJECT["project"]["classifiers"]
        if re.search(r":: 3\.\d+$", line)
    }
    assert min(classified, key=lambda one: int(one[2:])) == PROJECT["project"][
        "requires-python"
    ].removeprefix(">=")
    (python,) = re.findall(r"^ARG PYTHON=(.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert python in classified
