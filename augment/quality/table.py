"""The table of an evaluation: whose images have which scores, as JSON and as Markdown."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass

from augment.quality.differences import MetricDifference
from augment.quality.metrics import INSIDE, Family, Row
from manifests.compute.statistics import Difference
from manifests.runtime.tables import Cell, Column, Number, Table


@dataclass(frozen=True, slots=True)
class Score:
    """One row of the table: whose images, and the value."""

    subject: str
    row: Row


@dataclass(frozen=True, slots=True)
class NotMeasured:
    """Metrics that the table lacks, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class MetricNetwork:
    """A network that metrics were computed with."""

    metrics: str
    """Which: ``ImageNet`` or ``re-ID``."""
    name: str
    sha256: str
    """Of its weights' file."""


@dataclass(frozen=True, slots=True)
class Result:
    """The scores of all subjects on the same pairs."""

    scores: tuple[Score, ...]
    not_measured: tuple[NotMeasured, ...]
    num_pairs: int
    pairs: str
    """Where the pairs come from."""
    networks: tuple[MetricNetwork, ...] = ()
    num_without_mask: int = 0
    """Pairs whose target has no person mask, which rows inside the person leave out."""
    differences: tuple[MetricDifference, ...] = ()
    """Of networks from the first of them."""

    def value(self, subject: str, name: str, family: Family) -> float:
        """Return one value.

        Raises:
            KeyError: If there is no such row.
        """
        for score in self.scores:
            if (score.subject, score.row.name, score.row.family) == (subject, name, family):
                return score.row.value
        raise KeyError((subject, name, family))

    def to_json(self) -> str:
        """Return the result as JSON; a value that is no finite number becomes null."""
        rows = [
            {"subject": subject, **asdict(row), "value": _finite(row.value)}
            for subject, row in ((score.subject, score.row) for score in self.scores)
        ]
        content = {
            "num_pairs": self.num_pairs,
            "pairs": self.pairs,
            "num_pairs_without_mask": self.num_without_mask,
            "networks": [asdict(network) for network in self.networks],
            "scores": rows,
            "differences": [one.as_json() for one in self.differences],
            "not_measured": [asdict(row) for row in self.not_measured],
        }
        return json.dumps(content, indent=1, allow_nan=False) + "\n"

    def to_markdown(self) -> str:
        """Return the result as Markdown: a table per family, a column per subject."""
        lines = [f"{self.num_pairs:,} pairs: {self.pairs}."]
        for table in self.tables():
            lines += ["", table.to_markdown()]
        if 0 < self.num_without_mask < self.num_pairs:
            found = f"{self.num_without_mask:,} of {self.num_pairs:,} targets have no person mask"
            lines += ["", f"{found}; rows{INSIDE} leave them out."]
        if self.not_measured:
            lines += ["", "Not measured:", ""]
            lines += [f"- {row.name}: {row.reason}" for row in self.not_measured]
        return "\n".join(lines) + "\n"

    def tables(self) -> list[Table]:
        """Return a table per family, a row per metric and a column per subject; and differences."""
        families: dict[Family, None] = dict.fromkeys(score.row.family for score in self.scores)
        tables = [self._table(family) for family in families]
        return [*tables, self._differences()] if self.differences else tables

    def _differences(self) -> Table:
        subjects = list(dict.fromkeys(one.subject for one in self.differences))
        cells: dict[tuple[str, Family], dict[str, MetricDifference]] = {}
        for one in self.differences:
            cells.setdefault((one.name, one.family), {})[one.subject] = one
        rows: list[tuple[Cell, ...]] = []
        for (name, family), by_subject in cells.items():
            found = (by_subject.get(subject) for subject in subjects)
            values = (_gain(one and one.difference) for one in found)
            images = next(iter(by_subject.values())).num_images
            rows.append((name, family, *values, f"{images:,} images"))
        columns = (
            Column(f"more than {self.differences[0].baseline}", name="metric"),
            Column("family"),
            *(Column(subject, "r") for subject in subjects),
            Column("pairs"),
        )
        note = f"{self.num_pairs:,} pairs: {self.pairs}; 95 % intervals, people resampled"
        return Table(columns, tuple(rows), "differences", note, "family")

    def _table(self, family: Family) -> Table:
        subjects = list(dict.fromkeys(score.subject for score in self.scores))
        by_metric: dict[str, dict[str, Row]] = {}
        for score in self.scores:
            if score.row.family == family:
                by_metric.setdefault(score.row.name, {})[score.subject] = score.row
        columns = (
            Column(family, name="metric"),
            *(Column(subject, "r") for subject in subjects),
            Column("protocol"),
        )
        rows: list[tuple[Cell, ...]] = []
        for name, by_subject in by_metric.items():
            row = next(iter(by_subject.values()))
            values = (_cell(by_subject.get(subject)) for subject in subjects)
            rows.append((name, *values, f"{row.protocol}; {row.num_images:,} images"))
        note = f"{self.num_pairs:,} pairs: {self.pairs}"
        return Table(columns, tuple(rows), family, note, "family")


def _gain(difference: Difference | None) -> Cell:
    if difference is None:
        return ""
    return Number(difference.mean, "+.4f", interval=(difference.low, difference.high))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _cell(row: Row | None) -> Cell:
    return "" if row is None else Number(row.value, ".4f")
