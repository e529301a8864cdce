"""The test pairs of the pose-transfer papers: same person, two images.

Rule of the published script: images of distractors and junk are dropped, as are images without
both shoulders and both hips; all ordered pairs of two different images of one person are listed,
person after person in the order of the *annotation file*, and pandas draws 12,000 of them with
``sample(random_state=0)``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int64

from manifests.datasets.csv_table import read_csv
from manifests.datasets.keypoint_files import read_keypoints
from manifests.io import Images
from manifests.keypoints import has_torso, visible
from manifests.runtime.console import UserError
from manifests.schema import DISTRACTOR, JUNK

NUM_PUBLISHED_PAIRS = 12_000
PUBLISHED_SEED = 0


def sample_pairs(
    person_ids: list[str],
    joints: Float[np.ndarray, "rows 18 2"],
    count: int = NUM_PUBLISHED_PAIRS,
    seed: int = PUBLISHED_SEED,
) -> Int64[np.ndarray, "pairs 2"]:
    """Return (source row, target row) of the test pairs, by the published rule.

    With the rows of Market-1501's gallery in the order of ``market-annotation-test.csv`` these are
    the published 12,000 pairs, in their order. In any other order of rows they are another sample
    from the same 257,198 pairs.

    Args:
        person_ids: One per row.
        joints: One pose per row; missing joints NaN.
        count: How many pairs to draw; all pairs, shuffled, if there are fewer.
        seed: Of the draw.

    Raises:
        UserError: If nobody has two usable images.
    """
    people = np.asarray(person_ids, dtype=object)
    kept = has_torso(joints) & (people != JUNK) & (people != DISTRACTOR)
    usable = np.flatnonzero(kept)
    codes, _ = pd.factorize(people[usable])
    rows = usable[np.argsort(codes, kind="stable")]
    sizes = np.bincount(codes) if len(codes) else np.zeros(0, np.int64)
    first, end = np.cumsum(sizes) - sizes, np.cumsum(sizes * (sizes - 1))
    num_pairs = int(end[-1]) if len(end) else 0
    if not num_pairs:
        raise UserError(
            f"test pairs: found {len(usable)} images with both shoulders and both hips among "
            f"{len(people)}, no two of one person; expected some"
        )
    # What pandas' sample does underneath; this stream of NumPy is frozen for good.
    chosen = np.random.RandomState(seed).permutation(num_pairs)[:count]
    person = np.searchsorted(end, chosen, side="right")
    within = chosen - (end - sizes * (sizes - 1))[person]
    source, target = np.divmod(within, sizes[person] - 1)
    target += target >= source
    return rows[first[person, None] + np.stack([source, target], axis=1)].astype(np.int64)


def annotation_order(annotation: Path, image_ids: list[str]) -> Int64[np.ndarray, " rows"]:
    """Return the rows of the images in the order of a published annotation file.

    Images that the file does not name are left out, as the published script knows only the file.

    Raises:
        UserError: If the file is no annotation file, or names none of the images.
    """
    names = read_keypoints(annotation)
    row_of = {name: row for row, name in enumerate(image_ids)}
    rows = [row_of[name] for name in names if name in row_of]
    if not rows:
        raise UserError(f"{annotation}: names none of the {len(image_ids)} images of the table")
    return np.asarray(rows, dtype=np.int64)


def read_pairs(
    path: Path, image_ids: list[str], count: int = NUM_PUBLISHED_PAIRS
) -> Int64[np.ndarray, "pairs 2"]:
    """Return (source row, target row) of the first ``count`` pairs of a published list.

    Args:
        path: A CSV file with the columns ``from`` and ``to``, image names.
        image_ids: One per row of the table.
        count: How many pairs to take.

    Raises:
        UserError: If the file cannot be read, or names an image that the table lacks.
    """
    row_of = {name: row for row, name in enumerate(image_ids)}
    table = read_csv(path, ",")
    columns: list[list[int]] = []
    for column in ("from", "to"):
        if column not in table:
            raise UserError(f"{path}: found columns {list(table.columns)}, expected from, to")
        names = [str(name) for name in table[column][:count]]
        missing = next((name for name in names if name not in row_of), None)
        if missing is not None:
            raise UserError(f"{path}: image '{missing}' is not in the images table")
        columns.append([row_of[name] for name in names])
    return np.asarray(columns, dtype=np.int64).T


def check_pairs(
    images: Images,
    pairs: Int64[np.ndarray, "pairs 2"],
    joints: Float[np.ndarray, "rows 18 2"],
) -> None:
    """Refuse pairs of two people or of one image, and images without a pose.

    Raises:
        UserError: With the first of them and their number.
    """
    ids, people = images.strings("image_id"), images.strings("person_id")
    mixed = [pair for pair in pairs.tolist() if people[pair[0]] != people[pair[1]]]
    if mixed:
        source, target = mixed[0]
        raise UserError(
            f"test pairs: found {len(mixed):,} of {len(pairs):,} that show two people, the "
            f"first '{ids[source]}' ({people[source]}) and '{ids[target]}' ({people[target]}); "
            "expected one person in both images"
        )
    same = np.flatnonzero(pairs[:, 0] == pairs[:, 1])
    if len(same):
        raise UserError(
            f"test pairs: found {len(same):,} of {len(pairs):,} that show one image twice, the "
            f"first '{ids[pairs[same[0], 0]]}'; expected two images, or copying would be the best"
        )
    rows = np.unique(pairs)
    poseless = rows[~visible(joints[rows]).any(axis=1)]
    if len(poseless):
        raise UserError(
            f"test pairs: found {len(poseless):,} of {len(rows):,} images without any joint, the "
            f"first '{ids[poseless[0]]}'; expected keypoints (see 'augment index --keypoints')"
        )
