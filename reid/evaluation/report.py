"""The report of one scored run: ``report.json`` for sums, ``queries.parquet`` for every query."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int, Shaped

from manifests.io import read_table, sha256_file, write_table
from manifests.runtime.console import UserError
from manifests.runtime.json_files import read_json
from manifests.schema import DISTRACTOR, JUNK, UNKNOWN_CAMERA
from reid.data.labels import Labels
from reid.evaluation.ranking import Ranking
from reid.evaluation.report_entries import RANKS, problem_of
from reid.evaluation.retrieval import Retrieval
from reid.models.run_folder import QUERIES, REPORT, write_json

SCORES: Final = "scores"
"""Folder of further scores of a run, under other protocols than that of its own report."""

CENTRALISATION: Final = "centralisation"
"""The entry of a protocol on what was added to features; not there where they are plain."""

_DIGEST: Final = "queries_sha256"

_LABELS: Final = "sha256_of_labels"

IsSame = Callable[[Mapping[str, Any]], bool]
"""Whether a report is by the protocol that is asked for."""

QUERY_TABLE: Final = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("person_id", pa.string(), nullable=False),
        pa.field("camera_id", pa.int16(), nullable=False),
        pa.field("average_precision", pa.float64(), nullable=False),
        pa.field("trapezoidal_precision", pa.float64(), nullable=False),
        pa.field("inverse_penalty", pa.float64(), nullable=False),
        pa.field("first_rank", pa.int32(), nullable=False),
        pa.field("num_matches", pa.int32(), nullable=False),
        pa.field("num_tied", pa.int32(), nullable=False),
        pa.field("ranked_ids", pa.list_(pa.string())),
        pa.field("ranked_people", pa.list_(pa.string())),
        pa.field("ranked_cameras", pa.list_(pa.int16())),
        pa.field("ranked_distances", pa.list_(pa.float32())),
        pa.field("ranked_matches", pa.list_(pa.bool_())),
        pa.field("match_cameras", pa.list_(pa.int16())),
        pa.field("match_wrong", pa.list_(pa.int32())),
    ]
)
"""One row per query that has a match. ``ranked_*`` are the nearest gallery images, ``match_*`` all
matches, nearest first (``retrieval.Retrieval``); null in a run that was scored without them."""


def protocol_block(query: Labels, gallery: Labels, choices: Mapping[str, Any]) -> dict[str, Any]:
    """Return what two reports must share to be compared.

    Args:
        query: Who was searched for.
        gallery: Where, junk included.
        choices: The rule, the distance, the flip test, width and height, the feature.
    """
    return {
        "feature": "the network's output in evaluation mode",
        **choices,
        "average_precision": "non-interpolated",
        "query": _split_block(query),
        "gallery": _split_block(gallery),
    }


def _split_block(labels: Labels) -> dict[str, Any]:
    people = np.asarray(labels.people)
    names = [] if labels.images is None else labels.images.tolist()
    lines = [
        f"{name} {person} {camera}"
        for name, person, camera in zip(names, people, labels.cameras, strict=True)
    ]
    unknown = int((labels.cameras == UNKNOWN_CAMERA).sum())
    # Left out where there is none: reports of before are compared with those of today.
    cameras = {"num_unknown_cameras": unknown} if unknown else {}
    return {
        **cameras,
        "num_images": len(people),
        "num_people": len(set(people.tolist()) - {JUNK, DISTRACTOR}),
        "num_cameras": len(np.unique(labels.cameras)),
        "num_junk": int((people == JUNK).sum()),
        "num_distractors": int((people == DISTRACTOR).sum()),
        _LABELS: hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest(),
    }


def unknown_cameras(protocol: Mapping[str, Any]) -> str:
    """Return what a reader of scores should know of images without a camera; empty if nothing."""
    numbers = [protocol[part].get("num_unknown_cameras", 0) for part in ("query", "gallery")]
    if not any(numbers):
        return ""
    return f"{numbers[0]:,} queries and {numbers[1]:,} gallery images are of unknown cameras"


def features_in_words(centralisation: Mapping[str, Any]) -> str:
    """Return what was added to features, by that entry of a protocol; it is empty if nothing was.

    >>> features_in_words({})
    'as the network gives them'
    >>> features_in_words({"copies": 8, "copies_eta": 8, "neighbours": 5, "eta": 0.5})
    'plus 8 times the mean of 8 copies, then 0.5 times that of 5 neighbours'
    """
    if not centralisation:
        return "as the network gives them"
    generated, copies, copies_for, neighbours, eta = map(
        centralisation.get, ("generated", "copies", "copies_for", "neighbours", "eta")
    )
    added = []
    if copies:
        whose = f" of the images in the set {_set_in_words(copies_for)}" if copies_for else ""
        added.append((centralisation.get("copies_eta", eta), f"{copies} copies{whose}"))
    if generated:
        added.append((eta, f"the set {_set_in_words(generated)}"))
    if neighbours:
        added.append((eta, f"{neighbours} neighbours"))
    (weight, first), *others = added
    others = [f", then {weight:g} times that of {what}" for weight, what in others]
    return f"plus {weight:g} times the mean of {first}{''.join(others)}"


def _set_in_words(of_set: Mapping[str, str]) -> str:
    return f"{of_set['generator']}-{of_set['manifest_sha256'][:8]}"


def scores(ranking: Ranking) -> dict[str, float]:
    """Return the summary numbers of a ranking, as shares of one."""
    cmc = ranking.cmc()
    return {
        "mAP": ranking.mean_average_precision,
        "mAP_trapezoidal": float(ranking.trapezoidal_precision.mean()),
        "mINP": float(ranking.inverse_penalty.mean()),
        **{f"rank_{number}": float(cmc[number - 1]) for number in RANKS},
    }


def write_report(
    folder: Path,
    facts: Mapping[str, Any],
    ranking: Ranking,
    query: Labels,
    nearest: Nearest | None = None,
) -> None:
    """Write both files; ``report.json`` comes last and says by its digest which is the other."""
    names = np.asarray(query.images)
    rows = ranking.queries
    table = pa.table(
        {
            "image_id": names[rows],
            "person_id": query.people[rows],
            "camera_id": query.cameras[rows].astype(np.int16),
            "average_precision": ranking.average_precision,
            "trapezoidal_precision": ranking.trapezoidal_precision,
            "inverse_penalty": ranking.inverse_penalty,
            "first_rank": ranking.first_rank.astype(np.int32),
            "num_matches": ranking.num_matches.astype(np.int32),
            "num_tied": ranking.num_tied.astype(np.int32),
            **_nearest_columns(nearest, rows),
        },
        schema=QUERY_TABLE,
    )
    write_table(table, folder / QUERIES, {})
    report = {
        **facts,
        "scores": scores(ranking),
        "cmc": ranking.cmc().tolist(),
        _DIGEST: sha256_file(folder / QUERIES),
        "num_queries": len(query),
        "num_matched": len(rows),
        "unmatched": names[ranking.unmatched].tolist(),
        "num_tied_matches": int(ranking.num_tied.sum()),
    }
    write_json(report, folder / REPORT)


@dataclass(frozen=True, slots=True)
class Nearest:
    """What stands near the queries, and whose images the gallery holds."""

    retrieval: Retrieval
    gallery: Labels


_NEAREST_COLUMNS: Final = QUERY_TABLE.names[-7:]


def _nearest_columns(
    nearest: Nearest | None, rows: Int[np.ndarray, " matched"]
) -> dict[str, list[Any]]:
    if nearest is None:
        return {name: [None] * len(rows) for name in _NEAREST_COLUMNS}
    found, gallery = nearest.retrieval, nearest.gallery
    ids, people, cameras = map(np.asarray, (gallery.images, gallery.people, gallery.cameras))
    columns: dict[str, list[Any]] = {name: [] for name in _NEAREST_COLUMNS}
    for row in rows.tolist():
        there = found.nearest[row] >= 0
        ranked = found.nearest[row][there]
        columns["ranked_ids"].append(ids[ranked].tolist())
        columns["ranked_people"].append(people[ranked].tolist())
        columns["ranked_cameras"].append(cameras[ranked].tolist())
        columns["ranked_distances"].append(found.distances[row][there].tolist())
        columns["ranked_matches"].append(found.is_match[row][there].tolist())
        columns["match_cameras"].append(found.match_cameras[row])
        columns["match_wrong"].append(found.match_wrong[row])
    return columns


@dataclass(frozen=True, slots=True)
class Scored:
    """A scored run as read back."""

    folder: Path
    report: dict[str, Any]
    people: Shaped[np.ndarray, " queries"]
    queries: Shaped[np.ndarray, " queries"]
    average_precision: Float[np.ndarray, " queries"]
    first_rank: Shaped[np.ndarray, " queries"]
    table: pa.Table
    """The rows, sorted likewise; columns that the run was scored without are not there."""

    @property
    def recipe(self) -> dict[str, Any]:
        """Return the settings that the run was trained with."""
        return self.report["config"]


def read_report(folder: Path) -> dict[str, Any]:
    """Return the entries of a ``report.json``.

    Raises:
        UserError: If it is missing, damaged, or lacks what every report has.
    """
    path = folder / REPORT
    what = "the report of 'reid score', which the same command writes again"
    report = read_json(path, what)
    problem = problem_of(report)
    if problem is not None:
        raise UserError(f"{path}: {problem}; expected {what}")
    return report


def report_folder(
    folder: Path, name: str, query: Labels, gallery: Labels, is_same: IsSame | None
) -> Path:
    """Return where the report of a scoring goes, so that one of another scoring stays.

    It is the folder itself, else ``name`` in its ``scores``, else that name with a digest of who is
    ranked behind it.

    Args:
        folder: Of the run or of a target of it.
        name: Of the protocol, for a folder.
        query: Who is searched for.
        gallery: Where, junk included.
        is_same: Whether a report in the folder itself is by the same protocol; none: the new one
            has no place there.
    """
    ranked = [_split_block(labels)[_LABELS] for labels in (query, gallery)]

    def is_free(place: Path, is_same: IsSame) -> bool:
        if not (place / REPORT).exists():
            return True
        try:
            report = read_report(place)
        except UserError:
            # Damaged: scoring again is the cure.
            return True
        parts = (report["protocol"][part] for part in ("query", "gallery"))
        return [part.get(_LABELS) for part in parts] == ranked and is_same(report)

    if is_same is not None and is_free(folder, is_same):
        return folder
    beside = folder / SCORES / name
    if is_free(beside, lambda _: True):
        return beside
    return beside.with_name(f"{name}-{hashlib.sha256(''.join(ranked).encode()).hexdigest()[:8]}")


def read_scored(folder: Path) -> Scored:
    """Return the report of a run, queries sorted by image name.

    Raises:
        UserError: If the run has not been scored, or its scoring was interrupted.
    """
    for name in (REPORT, QUERIES):
        if not (folder / name).exists():
            raise UserError(f"{folder} holds no {name}; expected a run that reid score has scored")
    report = read_report(folder)
    # Reports of before there was a digest have none.
    if report.get(_DIGEST, None) not in {None, sha256_file(folder / QUERIES)}:
        raise UserError(
            f"{folder}: found a {QUERIES} of another scoring than {REPORT}; expected those of one, "
            "so score it again"
        )
    what = "what 'reid score' writes beside its report"
    table = read_table(folder / QUERIES, QUERY_TABLE, what, optional=(_NEAREST_COLUMNS,))
    absent = [name for name in _NEAREST_COLUMNS if table[name].null_count == len(table)]
    table = table.drop_columns(absent).sort_by("image_id")
    return Scored(
        folder,
        report,
        people=np.array(table["person_id"].to_pylist()),
        queries=np.array(table["image_id"].to_pylist()),
        average_precision=table["average_precision"].to_numpy(),
        first_rank=table["first_rank"].to_numpy(),
        table=table,
    )
