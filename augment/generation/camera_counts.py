"""How many images a run has per person and camera, counted shard by shard."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pyarrow as pa

from manifests.runtime.tables import Table
from manifests.schema import UNKNOWN_CAMERA


@dataclass
class CameraCounts:
    """Counts of rows that have an image; rows come sorted by person, so one person is kept."""

    images: Counter[int] = field(default_factory=Counter[int])
    people: Counter[int] = field(default_factory=Counter[int])
    fewest: dict[int, int] = field(default_factory=dict[int, int])
    most: dict[int, int] = field(default_factory=dict[int, int])
    num_people: int = 0
    _person: str | None = None
    _own: Counter[int] = field(default_factory=Counter[int])

    def add(self, rows: pa.Table) -> None:
        """Count further rows, with columns ``person_id``, ``camera_id`` and ``error``."""
        made = rows.filter(rows["error"].is_null()).select(["person_id", "camera_id"])
        numbered = made.append_column("row", pa.array(range(made.num_rows), pa.int64()))
        groups = numbered.group_by(["person_id", "camera_id"], use_threads=False).aggregate(
            [("row", "min"), ([], "count_all")]
        )
        # pyarrow returns a group late where its hash meets another's, and people lie together here.
        groups = groups.sort_by("row_min").select(["person_id", "camera_id", "count_all"])
        for person, camera, count in zip(*(column.to_pylist() for column in groups), strict=True):
            if person != self._person:
                self._finish_person()
                self._person = person
            self._own[camera] += count

    def table(self) -> str:
        """Return the counts as a Markdown table, one row per camera."""
        self._finish_person()
        self._person = None
        rows = [
            (
                "unknown" if camera == UNKNOWN_CAMERA else str(camera),
                f"{self.images[camera]:,}",
                f"{self.people[camera]:,} of {self.num_people:,}",
                f"{self.fewest[camera]:,}",
                f"{self.images[camera] / self.people[camera]:,.1f}",
                f"{self.most[camera]:,}",
            )
            for camera in sorted(self.images)
        ]
        header = ["camera", "images", "people", "fewest", "mean", "most"]
        about = "Images per camera, and per person among the people who have some of it:"
        return f"{about}\n\n{Table.of(header, rows).to_markdown()}"

    def _finish_person(self) -> None:
        self.num_people += self._person is not None
        for camera, count in self._own.items():
            self.images[camera] += count
            self.people[camera] += 1
            self.fewest[camera] = min(count, self.fewest.get(camera, count))
            self.most[camera] = max(count, self.most.get(camera, 0))
        self._own = Counter()
