"""Rank the gallery for every query with a trained network: ``reid score``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from manifests.compute.devices import pick_device
from manifests.io import Images
from manifests.pixels import naming_all_broken
from manifests.runtime.console import Console, Exit, UserError
from reid.data.inputs import Inputs
from reid.data.labels import labels_of
from reid.data.leakage import check_people
from reid.evaluation.centralise import Centralisation, check_settings, read_generated
from reid.evaluation.ranking import Protocol, check_matches
from reid.evaluation.report import report_folder
from reid.evaluation.score_settings import ScoreSettings, other_scoring, which_weights
from reid.evaluation.score_table import Scorer, score_table
from reid.models.features import RawFeatures, load_network
from reid.models.run_folder import TrainingRun, read_run

TARGETS: Final = "targets"

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def score(
    settings: ScoreSettings,
    console: Console,
    inputs: Inputs | None = None,
    *,
    replaces: bool = False,
) -> Exit:
    """Write RUN/report.json and RUN/queries.parquet, and the same for every target.

    Where there is a report under another protocol or of other test images already, it stays, and
    the new one goes to RUN/scores/PROTOCOL. Scores of centralised features always go there, a
    folder for each weight, with the plain score under a name of its own beside them. Generated
    images are of one table; if a target is named, they are of that, and it alone is scored.

    Args:
        settings: What is scored, and how.
        console: Where the scores go, too.
        inputs: What the command has read before.
        replaces: Write in the place of reports under other protocols: the run's own report.

    Raises:
        UserError: If the run is not finished, there is nothing to rank, somebody that it was
            trained on is among those to be ranked, a feature is not finite, or the network or the
            memory cannot give what is asked for.
    """
    inputs = inputs or Inputs()
    check_settings(settings.centralisation)
    flag = settings.centralisation.set_flag
    if flag is not None and len(settings.targets) > 1:
        raise UserError(
            f"{flag[0]}: found with {len(settings.targets)} --targets, expected at most one: "
            "generated images are of one table"
        )
    run = read_run(settings.run)
    device = pick_device(settings.device)
    which = which_weights(settings, run)
    tables = _tables(settings, inputs)
    # The table of the training was checked before it.
    if inputs.digest(settings.images) != run.recipe["images_sha256"]:
        _check_people(tables[settings.run], run)
    if flag is not None:
        # The target's, where there is one.
        tables = dict([*tables.items()][-1:])
    generated = read_generated(settings.centralisation, next(iter(tables.values())), inputs)
    network = load_network(run, which).to(device)
    if settings.feature == "raw":
        network = replace(network, module=RawFeatures(network.module))
    size = (run.recipe["width"], run.recipe["height"])
    scorer = Scorer(settings, network, size, inputs, console, generated)
    for folder, images in tables.items():
        facts = {**run.facts, "weights": which}
        is_home = folder == settings.run
        targets = [
            (how, folder if replaces and how.is_plain else _target(scorer, folder, images, how))
            for how in settings.centralisation.single()
        ]
        with naming_all_broken(images):
            score_table(scorer, images, targets, facts, is_home=is_home)
    return Exit.DONE


def _check_people(images: Images, run: TrainingRun) -> None:
    try:
        check_people(images, run.people)
    except UserError as error:
        raise UserError(
            f"{error}; if this is another data set, whose names are its own, it is scored by "
            "--targets NAME=TABLE beside the --images of the training"
        ) from error


def _target(scorer: Scorer, folder: Path, images: Images, how: Centralisation) -> Path:
    """Return the folder of a report: that of the run or target, or one in its ``scores``."""
    settings, run = scorer.settings, read_run(scorer.settings.run)
    name = _name(settings, which_weights(settings, run), how.name(scorer.generated))
    query, gallery = (labels_of(images.only(split)) for split in ("query", "gallery"))

    def is_same(report: Mapping[str, Any]) -> bool:
        return not other_scoring(report, settings, run)

    return report_folder(folder, name, query, gallery, is_same if how.is_plain else None)


def _name(settings: ScoreSettings, which: str, centralised: str) -> str:
    """Return a folder's name for a protocol: what differs from the plain one."""
    parts = {
        centralised: bool(centralised),
        settings.protocol: settings.protocol != "market1501",
        settings.distance: settings.distance != "cosine",
        "raw": settings.feature == "raw",
        "flip": settings.flip_test,
        f"rerank-{settings.rerank_k1}-{settings.rerank_k2}-{settings.rerank_lambda:g}": (
            settings.rerank
        ),
        which: settings.which != "auto",
    }
    return "-".join(part for part, differs in parts.items() if differs) or "plain"


def _tables(settings: ScoreSettings, inputs: Inputs) -> dict[Path, Images]:
    """Return the test sets by the folder that their report goes to, the run's own first."""
    tables = {settings.run: inputs.images(settings.images, settings.root)}
    files = {settings.run: settings.images}
    for target in settings.targets:
        name, _, table = target.partition("=")
        folder = settings.run / TARGETS / name
        if not table or not _NAME.fullmatch(name) or folder in tables:
            raise UserError(
                f"--targets: found '{target}', expected NAME=TABLE, a name that begins with a "
                "letter or digit and goes on with these, '.', '_' and '-', each once"
            )
        files[folder] = Path(table)
        tables[folder] = inputs.images(files[folder])
    for folder, images in tables.items():
        check_rankable(images, files[folder], settings.protocol)
    return tables


def check_rankable(images: Images, file: Path, protocol: Protocol) -> None:
    """Check that there is something to rank, before a network is trained or used for it.

    Raises:
        UserError: If there is not; names the file of the table.
    """
    query, gallery = (labels_of(images.only(split)) for split in ("query", "gallery"))
    if not len(query) or not len(gallery):
        raise UserError(
            f"{file} has {len(query)} query and {len(gallery)} gallery rows; expected some of "
            "each (train with --no-score to skip this)"
        )
    try:
        check_matches(query, gallery, protocol)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
