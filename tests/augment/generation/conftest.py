import pytest

from manifests.runtime.console import Exit
from tests.helpers import trivial
from tests.helpers.generation import run


@pytest.fixture
def people(tmp_path):
    # A missing joint is NaN, which equals nothing: comparisons of rows have to know.
    return trivial.write_people(tmp_path / "people", missing=[4])


@pytest.fixture
def out(people, tmp_path):
    assert run(people, tmp_path / "out") == Exit.DONE
    return tmp_path / "out"
