"""``reid report``: a page about one training, finished or not, to look at in a browser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from tyro.conf import Positional

from manifests.pages.page import check_page
from manifests.pages.training_page import Training, write_training_page
from manifests.runtime.console import Console, Exit
from manifests.runtime.settings import Frozen
from manifests.runtime.tables import Number, Table
from reid.evaluation.report import RANKS, read_report
from reid.models.run_folder import REPORT, read_run

_ORDER: Final = ("mAP", "mAP_trapezoidal", *(f"rank_{number}" for number in RANKS), "mINP")


class ReportSettings(Frozen):
    """Write a page about one training: curves of its log, scores, settings."""

    run: Positional[Path]
    """Folder of a reid train, which may still run."""
    html: Path
    """Page to write; its folder exists."""


def report(settings: ReportSettings, console: Console) -> Exit:
    """Write the page.

    Raises:
        UserError: If the page cannot be written there, the folder is not that of a training that
            has begun, or its report is damaged.
    """
    check_page(settings.html)
    run = read_run(settings.run)
    training = Training(run.folder, "reid")
    if (run.folder / REPORT).is_file():
        training = replace(training, scores=_table(read_report(run.folder)["scores"]))
    write_training_page(settings.html, training, console, embed=False)
    return Exit.DONE


def _table(scores: dict[str, float]) -> Table:
    names = [name for name in _ORDER if name in scores]
    values = [Number(100 * scores[name]) for name in names]
    return Table.of(["", *(name.replace("_", "-") for name in names)], [["this run", *values]])
