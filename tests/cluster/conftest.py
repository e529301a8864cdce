"""People, and where a cluster's processes find our code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import trivial
from tests.helpers.machine import ROOT


@pytest.fixture(scope="session")
def python_path() -> str:
    """Return where the processes of a cluster find our packages and the trivial generator."""
    return str(ROOT)


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the images table of eight people."""
    return trivial.write_people(tmp_path_factory.mktemp("people"), num_people=8)
