"""The page of a comparison: what ``reid compare`` and ``reid study`` found, to look at.

Everything on it follows from ``report.json`` and ``queries.parquet`` of the runs; pictures come
from the images table, and only where one is named.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from manifests.compute.statistics import paired_difference, per_person
from manifests.io import Images, read_images
from manifests.pages.charts import (
    Axis,
    Counts,
    Figure,
    Series,
    Words,
    histogram,
    intervals,
    lines,
    trimmed,
)
from manifests.pages.page import Pictures, check_page, entries, in_words, write_page
from manifests.runtime.console import Console, UserError
from manifests.runtime.tables import Cell, Column, Number, Table
from manifests.schema import UNKNOWN_CAMERA
from reid.evaluation.report import Scored
from reid.evaluation.retrieval import NUM_NEAREST
from reid.experiments.comparison import (
    Arm,
    Comparison,
    Verdict,
    cautions,
    how_little,
    how_to_read,
    in_percent,
    meaning,
    of_few_seeds,
    training_changes,
    verdict_of,
)

_TEMPLATES: Final = Path(__file__).parent / "templates"
_MATCHES: Final = (1, 6, 11, 16, 21, 31)
"""Where groups of people by the number of their images begin."""
_NUM_PEOPLE: Final = 8
_NUM_EMBEDDED: Final = 60
_RANKS: Final = 20


@dataclass(frozen=True, slots=True)
class Group:
    """A baseline and what is held against it, under one heading."""

    title: str
    baseline: Arm
    comparisons: Sequence[Comparison]
    table: Table


@dataclass(frozen=True, slots=True)
class Answer:
    """What a comparison says, in words."""

    verdict: Verdict
    headline: str
    detail: str


@dataclass(frozen=True, slots=True)
class CameraPairs:
    """Gain in average precision by the camera of the query and that of its matches, in percent."""

    title: str
    queries: list[int]
    galleries: list[int]
    gains: Float[np.ndarray, "query_cameras gallery_cameras"]
    """NaN where there is no such pair."""

    @staticmethod
    def shown(camera: int) -> str:
        """Return a camera as the page calls it."""
        return "unknown" if camera == UNKNOWN_CAMERA else str(camera)

    def cell(self, row: int, column: int) -> tuple[float, str, float] | None:
        """Return the gain, whether it goes up or down, and how strong its colour is in percent."""
        gain = float(self.gains[row, column])
        if np.isnan(gain):
            return None
        largest = max(float(np.nanmax(np.abs(self.gains))), 1e-9)
        return gain, "up" if gain > 0 else "down", 45 * abs(gain) / largest


def answer_of(comparison: Comparison, baseline: Arm) -> Answer:
    """Return in words whether an arm was worth it, no more than ``verdict_of`` allows."""
    arm, gain = comparison.arm, comparison.mean_average_precision
    verdict = verdict_of(comparison, baseline)
    seeds = of_few_seeds(gain)
    headline = {
        "better": f"{arm.name} is better than {baseline.name}{seeds}",
        "worse": f"{arm.name} is worse than {baseline.name}{seeds}",
        "undecided": f"{arm.name} cannot be told from {baseline.name}",
        "too little": f"Too little to tell {arm.name} from {baseline.name}",
    }[verdict]
    before, after = (100 * float(one.scores("mAP").mean()) for one in (baseline, arm))
    points, first = in_percent(gain), in_percent(comparison.rank_1)
    detail = (
        f"mAP goes from {before:.2f} to {after:.2f}: {points.shown} points, 95 % interval "
        f"{points.uncertainty}; rank-1 {first}."
    )
    if verdict == "undecided":
        detail += f" That is {meaning(comparison, baseline)}."
    if verdict == "too little":
        detail += f" That is of {how_little(comparison, baseline)}."
    return Answer(verdict, headline, detail)


@dataclass(frozen=True, slots=True)
class Content:
    """What a page of comparisons says."""

    title: str
    groups: Sequence[Group]
    """All runs have the same queries."""
    figures: Sequence[Figure] = ()
    """Of all groups together."""
    notes: Sequence[str] = ()
    """On where the arms come from."""


def write_comparison(
    page: Path, content: Content, pictures: PictureChoice, console: Console
) -> None:
    """Write the page, and say how large it is.

    Raises:
        UserError: If the table of images cannot be read, or the file not be written.
    """
    groups = content.groups
    browser = _browser(groups)
    found = pictures.load(page)
    for names in _needed(browser, embed=pictures.embed):
        found.add(names)
    browser["sources"] = found.sources
    runs = [run for group in groups for arm in _arms(group) for run in arm.runs]
    pairs = iter(range(len(browser["pairs"])))
    context = {
        "title": content.title,
        "kind": "Person re-identification, runs against a baseline",
        "program": "reid",
        "sections": _sections(groups, has_figures=bool(content.figures)),
        "groups": [_group_context(group, pairs) for group in groups],
        "figures": content.figures,
        "warnings": _once(
            said for group in groups for said in cautions(group.baseline, group.comparisons)
        ),
        "readings": _once(how_to_read(group.baseline, group.comparisons) for group in groups),
        "notes": content.notes,
        "browser": browser,
        "cameras": sorted(set(browser["queries"]["camera"])),
        "pictures_note": found.note,
        "embed_note": _embed_note(pictures),
        "seeds_note": _seeds_note(groups),
        "provenance": _provenance(runs),
        "protocol": entries(_common_protocol(runs)),
        "command": _command(),
    }
    size = write_page(page, "comparison.html", context, _TEMPLATES)
    console.say(f"{page}: {in_words(size)}. {found.note}", event="page", bytes=size)


@dataclass(frozen=True, slots=True)
class PictureChoice:
    """Whether and from where pictures come into a page."""

    images: Path | None
    root: Path | None
    embed: bool

    def check(self, page: Path | None) -> None:
        """Check the settings before anything is computed.

        Raises:
            UserError: If the page cannot be written, or pictures have no page or no table.
        """
        if page is not None:
            check_page(page)
        elif self.embed:
            raise UserError("--embed-images: found no --html, expected the page that they go into")
        if self.embed and self.images is None:
            raise UserError("--embed-images: found no --images, expected the table of the images")

    def load(self, page: Path) -> Pictures:
        """Return the pictures of a page.

        Raises:
            UserError: If the table cannot be read.
        """
        images: Images | None = None
        if self.images is not None:
            images = read_images(self.images, self.root)
        return Pictures(page, images, embed=self.embed)


def _arms(group: Group) -> list[Arm]:
    return [group.baseline, *(comparison.arm for comparison in group.comparisons)]


def _common_protocol(runs: Sequence[Scored]) -> dict[str, Any]:
    """Return the protocol without what differs: how features were centralised."""
    first, *rest = (run.report["protocol"] for run in runs)
    return {
        name: value for name, value in first.items() if all(one.get(name) == value for one in rest)
    }


def _sections(groups: Sequence[Group], *, has_figures: bool) -> list[tuple[str, str]]:
    several = len(groups) > 1
    return [
        ("answer", "Answer"),
        *([("fractions", "All fractions")] if has_figures else []),
        *((f"group-{number}", group.title) for number, group in enumerate(groups) if several),
        *([] if several else [("scores", "Scores"), ("where", "Where it comes from")]),
        ("queries", "Queries"),
        ("provenance", "Provenance"),
    ]


def _once(said: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(said))


def _group_context(group: Group, pairs: Iterator[int]) -> dict[str, Any]:
    baseline, comparisons = group.baseline, group.comparisons
    return {
        "title": group.title,
        "table": group.table,
        "baseline": baseline.name,
        "answers": [answer_of(comparison, baseline) for comparison in comparisons],
        "figures": [*_gain_figures(group), _cmc(group)],
        "verification": _verification(_arms(group)),
        "rates": _rates(_arms(group)),
        "parts": [
            _part(baseline, comparison) | {"pair": next(pairs)} for comparison in comparisons
        ],
        "changes": _changes(group),
    }


def _gain_figures(group: Group) -> list[Figure]:
    if not group.comparisons:
        return []
    figures: list[Figure] = []
    for name in ("mAP", "rank-1"):
        gains = [
            (
                comparison.arm.name,
                in_percent(
                    comparison.mean_average_precision if name == "mAP" else comparison.rank_1
                ),
            )
            for comparison in group.comparisons
        ]
        said = "; ".join(f"{arm} {gain}" for arm, gain in gains)
        figures.append(
            intervals(
                Words(
                    f"Gain in {name} over {group.baseline.name}",
                    f"Gains in {name} with 95 % intervals: {said}",
                ),
                "percentage points, 95 % interval",
                gains,
            )
        )
    return figures


def _cmc(group: Group) -> Figure:
    ranks = range(1, _RANKS + 1)
    series: list[Series] = []
    for arm in _arms(group):
        curves = np.mean([run.report["cmc"][:_RANKS] for run in arm.runs], axis=0) * 100
        series.append(Series(arm.name, ranks, curves.tolist(), is_reference=arm is group.baseline))
    said = "; ".join(f"{one.name} {one.y[0]:.1f} % at rank 1" for one in series)
    return lines(
        Words(
            "Queries found up to a rank (CMC)",
            f"Cumulative match curves, means over seeds: {said}",
        ),
        Axis("rank", limits=(1, _RANKS), ticks=(1, 5, 10, 15, 20)),
        Axis("percent of queries", form=".2f"),
        series,
    )


def _verification(arms: Sequence[Arm]) -> list[Figure]:
    known = [arm for arm in arms if all("verification" in run.report for run in arm.runs)]
    if not known:
        return []
    series: list[Series] = []
    for arm in known:
        curves = [run.report["verification"]["roc"] for run in arm.runs]
        rates = np.mean([curve["tpr"] for curve in curves], axis=0) * 100
        series.append(
            Series(arm.name, curves[0]["fpr"], rates.tolist(), is_reference=arm is arms[0])
        )
    roc = lines(
        Words(
            "Telling pairs apart (ROC)",
            "ROC curves, means over seeds: "
            + "; ".join(f"{one.name} {one.y[30]:.1f} % at 0.001" for one in series),
        ),
        Axis("false positive rate", "log", (1e-5, 1.0)),
        Axis("true positive rate, percent", form=".2f"),
        series,
    )
    return [roc, *(_similarities(arm) for arm in known)]


def _similarities(arm: Arm) -> Figure:
    blocks = [run.report["verification"] for run in arm.runs]
    first = blocks[0]
    # Of squared distances every seed has a span of its own.
    ends = min(block["from"] for block in blocks), max(block["to"] for block in blocks)
    edges = np.linspace(*ends, len(first["positives"]) + 1)
    counts = [
        np.sum([_binned(block, name, edges) for block in blocks], axis=0)
        for name in ("positives", "negatives")
    ]
    seen = trimmed(counts)
    shares = [100 * one / max(one.sum(), 1) for one in counts]
    middles = [float((edges[:-1] + edges[1:]) @ one / 200) for one in shares]
    named = [
        (name, one[seen].tolist())
        for name, one in zip(("one person", "two people"), shares, strict=True)
    ]
    said = f"of one person {middles[0]:.3f} on average, of two {middles[1]:.3f}"
    return histogram(
        Words(f"Similarities by {arm.name}", f"Similarities of pairs: {said}"),
        Axis(first["similarity"]),
        Counts(edges[seen.start : seen.stop + 1].tolist(), named, "percent of pairs", ".3f"),
    )


def _binned(
    block: Mapping[str, Any], name: str, edges: Float[np.ndarray, " edges"]
) -> Float[np.ndarray, " bins"]:
    """Return one report's counts by the bins of all, spread evenly over each bin of its own.

    >>> _binned({"from": -4, "to": 0, "n": [1, 2, 3, 4]}, "n", np.linspace(-8, 0, 5)).tolist()
    [0.0, 0.0, 3.0, 7.0]
    >>> _binned({"from": -3, "to": 0, "n": [6, 6]}, "n", np.linspace(-4, 0, 5)).tolist()
    [0.0, 4.0, 4.0, 4.0]
    """
    own = np.linspace(block["from"], block["to"], len(block[name]) + 1)
    return np.diff(np.interp(edges, own, np.r_[0, np.cumsum(block[name])]))


def _rates(arms: Sequence[Arm]) -> Table | None:
    known = [arm for arm in arms if all("verification" in run.report for run in arm.runs)]
    if not known:
        return None
    limits = list(known[0].runs[0].report["verification"]["tpr_at_fpr"])
    rows: list[tuple[Cell, ...]] = []
    for arm in known:
        found = [
            [run.report["verification"]["tpr_at_fpr"][at] for at in limits] for run in arm.runs
        ]
        rows.append((arm.name, *map(_mean_number, (100 * np.array(found)).T)))
    columns = (Column("arm"), *(Column(f"TPR at FPR {at}", "r", "highest") for at in limits))
    return Table(columns, tuple(rows))


def _mean_number(values: Float[np.ndarray, " seeds"]) -> Number:
    deviation = float(values.std(ddof=1)) if len(values) > 1 else None
    return Number(float(values.mean()), deviation=deviation)


def _part(baseline: Arm, comparison: Comparison) -> dict[str, Any]:
    """Return where one arm's gain comes from."""
    arm = comparison.arm
    return {
        "name": arm.name,
        "figures": [_by_person(baseline, arm), _by_matches(baseline, arm)],
        "won": _people(baseline, arm, -1),
        "lost": _people(baseline, arm, 1),
        "cameras": _camera_pairs(baseline, arm),
    }


def _gains_of_people(baseline: Arm, arm: Arm) -> tuple[list[str], np.ndarray, np.ndarray]:
    people = baseline.runs[0].people
    left, counts = per_person(baseline.average_precision, people)
    right, _ = per_person(arm.average_precision, people)
    gains = 100 * (right.mean(axis=0) - left.mean(axis=0)) / counts
    return np.unique(people).tolist(), gains, counts


def _by_person(baseline: Arm, arm: Arm) -> Figure:
    _, gains, _ = _gains_of_people(baseline, arm)
    reach = max(5.0, 5 * np.ceil(float(np.abs(gains).max()) / 5))
    counts, edges = np.histogram(gains, bins=40, range=(-reach, reach))
    up, down = int((gains > 0).sum()), int((gains < 0).sum())
    return histogram(
        Words(
            "Gain per person",
            f"{up:,} people gain, {down:,} lose, {len(gains) - up - down:,} stay",
        ),
        Axis("gain in average precision, percentage points"),
        Counts(edges.tolist(), [("people", counts.tolist())], "people"),
        zero=True,
    )


def _by_matches(baseline: Arm, arm: Arm) -> Figure:
    num_matches = baseline.runs[0].table["num_matches"].to_numpy()
    gains: list[tuple[str, Number]] = []
    for start, end in zip(_MATCHES, (*_MATCHES[1:], np.inf), strict=True):
        chosen = (num_matches >= start) & (num_matches < end)
        if chosen.any():
            difference = paired_difference(
                baseline.average_precision[:, chosen],
                arm.average_precision[:, chosen],
                baseline.runs[0].people[chosen],
                same_seeds=arm.seeds == baseline.seeds,
            )
            name = f"{start} or more" if np.isinf(end) else f"{start} to {int(end) - 1}"
            gains.append((f"{name} ({int(chosen.sum()):,})", in_percent(difference)))
    return intervals(
        Words(
            "Gain by the number of real images to be found",
            "Gains by gallery images of the query's person (queries in brackets): "
            + "; ".join(f"{name} {gain}" for name, gain in gains),
        ),
        "gain in average precision, percentage points",
        gains,
    )


def _people(baseline: Arm, arm: Arm, sign: int) -> list[tuple[str, Number]]:
    """Return who gains most (sign -1) or loses most (1), in percentage points."""
    people, gains, _ = _gains_of_people(baseline, arm)
    order = np.argsort(sign * gains, kind="stable")[:_NUM_PEOPLE]
    return [
        (people[row], Number(float(gains[row]), "+.1f")) for row in order if sign * gains[row] < 0
    ]


def _camera_pairs(baseline: Arm, arm: Arm) -> CameraPairs:
    queries = baseline.runs[0].table["camera_id"].to_numpy()
    rows = sorted(set(queries.tolist()))
    found = [[_by_camera(run) for run in one.runs] for one in (baseline, arm)]
    if any(one is None for runs in found for one in runs):
        values = 100 * (
            arm.average_precision.mean(axis=0) - baseline.average_precision.mean(axis=0)
        )
        gains = np.array([[values[queries == camera].mean()] for camera in rows])
        return CameraPairs("Gain by the camera of the query", rows, [], gains)
    left, right = (np.mean(runs, axis=0) for runs in found)  # type: ignore[arg-type]
    change = 100 * (right - left)
    found_at = np.flatnonzero(~np.isnan(change).all(axis=0))
    columns = [int(place) + UNKNOWN_CAMERA for place in found_at]
    gains = np.full((len(rows), len(columns)), np.nan)
    for place, camera in enumerate(rows):
        some = change[queries == camera][:, found_at]
        there = ~np.isnan(some).all(axis=0)
        gains[place, there] = np.nanmean(some[:, there], axis=0)
    return CameraPairs("Gain by camera of query and match", rows, columns, gains)


def _by_camera(run: Scored) -> Float[np.ndarray, "queries cameras"] | None:
    """Return average precisions over the matches of one camera alone; NaN where there is none.

    The first column is that of unknown cameras, then come those from 0 on.
    """
    column = run.table["match_cameras"] if "match_cameras" in run.table.column_names else None
    if column is None or column.null_count:
        return None
    lists = column.combine_chunks()
    counts = np.diff(lists.offsets.to_numpy())
    cameras = lists.flatten().to_numpy().astype(np.int64) - UNKNOWN_CAMERA
    wrong = run.table["match_wrong"].combine_chunks().flatten().to_numpy()
    owner = np.repeat(np.arange(len(counts)), counts)
    width = int(cameras.max(initial=0)) + 1
    key = owner * width + cameras
    order = np.argsort(key, kind="stable")
    sizes = np.bincount(key, minlength=len(counts) * width)
    starts = np.cumsum(sizes) - sizes
    number = np.arange(len(key)) - starts[key[order]] + 1
    sums = np.bincount(key[order], number / (number + wrong[order]), len(counts) * width)
    with np.errstate(invalid="ignore"):
        return (sums / sizes).reshape(len(counts), width)


def _changes(group: Group) -> list[tuple[str, list[str]]]:
    return [
        (comparison.arm.name, training_changes(group.baseline, comparison.arm) or ["nothing"])
        for comparison in group.comparisons
    ]


def _browser(groups: Sequence[Group]) -> dict[str, Any]:
    """Return the queries, how every arm ranked them, and who is held against whom."""
    table = groups[0].baseline.runs[0].table
    arms: dict[int, Arm] = {id(arm): arm for group in groups for arm in _arms(group)}
    place = {key: number for number, key in enumerate(arms)}
    gallery: dict[str, int] = {}
    facts: dict[str, list[Any]] = {"id": [], "person": [], "camera": []}
    ranked = [_arm_context(arm, gallery, facts) for arm in arms.values()]
    several = len(groups) > 1
    return {
        "queries": {
            "id": table["image_id"].to_pylist(),
            "person": table["person_id"].to_pylist(),
            "camera": table["camera_id"].to_pylist(),
            "matches": table["num_matches"].to_pylist(),
        },
        "gallery": facts,
        "arms": ranked,
        "pairs": [
            (place[id(group.baseline)], place[id(comparison.arm)])
            for group in groups
            for comparison in group.comparisons
        ],
        "titles": [
            f"{group.title}: {comparison.arm.name}"
            if several
            else f"{comparison.arm.name} against {group.baseline.name}"
            for group in groups
            for comparison in group.comparisons
        ],
        "depth": NUM_NEAREST,
    }


def _arm_context(arm: Arm, gallery: dict[str, int], facts: dict[str, list[Any]]) -> dict[str, Any]:
    run = arm.runs[0]
    context: dict[str, Any] = {
        "name": arm.name,
        "seeds": arm.seeds,
        "ap": np.round(arm.average_precision.mean(axis=0), 6).tolist(),
        "first": run.first_rank.tolist(),
        "nearest": None,
        "right": None,
    }
    if "ranked_ids" not in run.table.column_names or run.table["ranked_ids"].null_count:
        return context
    columns = [run.table[f"ranked_{name}"].to_pylist() for name in ("ids", "people", "cameras")]
    nearest: list[int] = []
    for ids, people, cameras in zip(*columns, strict=True):
        for image in zip(ids, people, cameras, strict=True):
            if image[0] not in gallery:
                gallery[image[0]] = len(gallery)
                for name, value in zip(("id", "person", "camera"), image, strict=True):
                    facts[name].append(value)
        nearest += [gallery[name] for name in ids] + [-1] * (NUM_NEAREST - len(ids))
    right = [
        sum(1 << place for place, match in enumerate(matches) if match)
        for matches in run.table["ranked_matches"].to_pylist()
    ]
    return context | {"nearest": nearest, "right": right}


def _needed(browser: Mapping[str, Any], *, embed: bool) -> Iterable[list[str]]:
    """Give the names of images: all where they are linked, those of the largest changes else."""
    ids, gallery = browser["queries"]["id"], browser["gallery"]["id"]
    if not embed:
        yield [*ids, *gallery]
        return
    for pair in browser["pairs"]:
        base, other = (browser["arms"][side] for side in pair)
        order = np.argsort(np.subtract(other["ap"], base["ap"]), kind="stable")
        for query in {*order[:_NUM_EMBEDDED].tolist(), *order[-_NUM_EMBEDDED:].tolist()}:
            yield [ids[query]]
            for arm in (base, other):
                ranks = slice(query * NUM_NEAREST, (query + 1) * NUM_NEAREST)
                yield [gallery[image] for image in (arm["nearest"] or [])[ranks] if image >= 0]


def _embed_note(pictures: PictureChoice) -> str:
    if not pictures.embed:
        return ""
    return (
        f"Of each comparison the {_NUM_EMBEDDED} queries that won most and lost most have pictures."
    )


def _seeds_note(groups: Sequence[Group]) -> str:
    arms = [arm for group in groups for arm in _arms(group)]
    if all(len(arm.runs) == 1 for arm in arms):
        return ""
    seeds = dict.fromkeys(arm.seeds[0] for arm in arms)
    return (
        "Average precisions are means over seeds; ranked images are those of seed "
        f"{' or '.join(map(str, seeds))}."
    )


def _provenance(runs: Sequence[Scored]) -> Table:
    columns = (
        *map(Column, ("run", "seed", "weights", "real", "synthetic")),
        *map(Column, ("queries.parquet, sha256", "versions")),
    )
    rows: list[tuple[Cell, ...]] = []
    for run in runs:
        report = run.report
        versions = ", ".join(
            f"{name} {value}" for name, value in report.get("versions", {}).items()
        )
        rows.append(
            (
                run.folder.name,
                str(run.recipe["seed"]),
                report["weights"],
                f"{report['num_real']:,}" if "num_real" in report else "",
                f"{report['num_synthetic']:,}" if "num_synthetic" in report else "",
                report.get("queries_sha256", "not kept"),
                versions or "not kept",
            )
        )
    return Table(columns, tuple(dict.fromkeys(rows)))


def _command() -> str:
    """Return the command that makes the page again, without folders of this machine."""
    return shlex.join(["reid", *map(without_folders, sys.argv[1:])])


def without_folders(argument: str) -> str:
    """Return an argument with of every folder its last part: pages are given away.

    >>> without_folders("none=/data/lr=0.1/run"), without_folders("a=--synthetic /home/me/set")
    ('none=run', 'a=--synthetic set')
    """
    parts: list[str] = []
    for part in argument.split(" "):
        name, equals, value = ("", "", part) if part.startswith("/") else part.partition("=")
        parts.append(f"{name}{equals}{Path(value).name}" if value.startswith("/") else part)
    return " ".join(parts)


def fraction_curve(sections: Sequence[tuple[float, Sequence[Arm]]]) -> Figure:
    """Return mAP over the fraction of real images, with its intervals.

    The intervals are over people and seeds, as those of gains are.
    """
    names = dict.fromkeys(arm.name for _, arms in sections for arm in arms)
    series: list[Series] = []
    for name in names:
        points = [
            (100 * fraction, _with_interval(arm))
            for fraction, arms in sorted(sections, key=lambda section: section[0])
            for arm in arms
            if arm.name == name
        ]
        ends = [value.interval or (value.value, value.value) for _, value in points]
        series.append(
            Series(
                name,
                [at for at, _ in points],
                [value.value for _, value in points],
                [low for low, _ in ends],
                [high for _, high in ends],
                is_reference=name == next(iter(names)),
            )
        )
    said = "; ".join(f"{one.name} {one.y[-1]:.2f} at {one.x[-1]:g} %" for one in series)
    return lines(
        Words("mAP by the part of real images", f"mAP over the part of real images: {said}"),
        Axis("percent of the real train images"),
        Axis("mAP, percent; 95 % interval", form=".2f"),
        series,
        marked=True,
    )


def _with_interval(arm: Arm) -> Number:
    values = arm.average_precision
    people = arm.runs[0].people
    return in_percent(paired_difference(np.zeros_like(values), values, people, same_seeds=True))
