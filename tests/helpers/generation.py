"""Runs of ``augment generate`` with a trivial system."""

import pytest

from augment.generation.job import generate
from augment.generation.resolve import Weights
from manifests.runtime.console import Console
from tests.helpers import trivial

QUIET = Console(quiet=True)


def run(people, out, weights=None, console=QUIET, **changes):
    settings = trivial.job_settings(people, out, **changes)
    return generate(settings, console, weights or trivial.trivial_weights())


def never(device):
    pytest.fail("the network was loaded")


UNLOADED = Weights("trivial", "0" * 64, (128, 64), never)


def take_a_source_away(people):
    """Take the file of a source away for a while."""
    path = people.parent / "0004_c2s1_000001_01.jpg"
    return path, path.rename(path.with_suffix(".away"))
