"""How many images a run has per person and camera."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from augment.generation.camera_counts import CameraCounts


@pytest.mark.parametrize("rows_at_once", [7, 48, 10_000])
def test_every_person_is_counted_once_in_whatever_parts_the_rows_come(rows_at_once):
    rng = np.random.default_rng(0)
    people = sorted(f"P{number}" for number in range(300))
    rows = pa.table(
        {
            "person_id": [person for person in people for _ in range(10)],
            "camera_id": pa.array(rng.integers(1, 7, 3000), pa.int16()),
            "error": pa.array(
                [None if kept else "broken" for kept in rng.random(3000) < 0.9], pa.string()
            ),
        }
    )
    counts = CameraCounts()
    for first in range(0, rows.num_rows, rows_at_once):
        counts.add(rows.slice(first, rows_at_once))
    counts.table()
    made = [row for row in rows.to_pylist() if row["error"] is None]
    of_person = Counter((row["person_id"], row["camera_id"]) for row in made)
    for camera in range(1, 7):
        own = [count for (_, one), count in of_person.items() if one == camera]
        assert counts.images[camera] == sum(own)
        assert counts.people[camera] == len(own)
        assert (counts.fewest[camera], counts.most[camera]) == (min(own), max(own))
    assert counts.num_people == len({row["person_id"] for row in made})
