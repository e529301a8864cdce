"""The page of a synthetic set: its people, poses, scores, errors and settings, to look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from warnings import catch_warnings, filterwarnings

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from PIL import Image
from scipy.cluster.vq import kmeans2

from augment.generation.preview import choose
from augment.generation.shards import CARD
from augment.quality.contact_sheets import as_png, draw_pose
from augment.quality.sharpness import sharpness
from manifests import pixels
from manifests.io import Images, read_table
from manifests.keypoints import has_torso
from manifests.pages.charts import Axis, Counts, Figure, Words, histogram
from manifests.pages.page import Pictures, embedded, entries, in_words, write_page
from manifests.runtime import run_record
from manifests.runtime.console import Console, UserError
from manifests.runtime.files import read_file
from manifests.runtime.storage import StoragePath
from manifests.runtime.tables import Column, Number, Table
from manifests.schema import SCREEN, SCREEN_TABLE
from manifests.synthetic import SCREENED_OUT, Synthetic

_TEMPLATES: Final = Path(__file__).parent / "templates"
_NUM_POSES: Final = 12
_DRAWN: Final = (64, 128)
"""Width and height that poses are drawn for."""
_PER_PERSON: Final = 8
_EXTREMES: Final = 8
_NUM_ERRORS: Final = 50


@dataclass(frozen=True, slots=True)
class Choices:
    """What of a set the page shows."""

    embed: bool
    num_people: int
    max_images: int
    seed: int


@dataclass(frozen=True, slots=True)
class Tile:
    """An image of the page by its name, with a line under it."""

    name: str
    caption: str
    about: str = ""
    """What else is known of it."""

    @property
    def alt(self) -> str:
        """Return what stands in its place for who does not see it."""
        return ", ".join(filter(None, (self.name, self.about)))


@dataclass(frozen=True, slots=True)
class Sheet:
    """One person: real images beside generated ones."""

    person: str
    num_real: int
    num_made: int
    real: list[Tile]
    made: list[Tile]


@dataclass(frozen=True, slots=True)
class Score:
    """One number per image: how it is distributed, and the images at both ends."""

    title: str
    about: str
    figure: Figure
    worst: list[Tile]
    best: list[Tile]


@dataclass(frozen=True, slots=True)
class PoseCluster:
    """Poses that are alike, and the one in their middle."""

    drawing: str
    """Address of its picture."""
    num_real: int
    num_made: int
    share_real: Number
    share_made: Number


def write_synthetic_page(
    page: Path, synthetic: Synthetic, train: Images, choices: Choices, console: Console
) -> None:
    """Write the page, and say how large it is.

    Args:
        page: HTML file; its folder exists.
        synthetic: All rows of the run, failed ones too.
        train: The real train images that it was made from.
        choices: What is shown.
        console: Where progress goes.

    Raises:
        UserError: If a shard is missing or damaged, or the page cannot be written.
    """
    made = synthetic.without_errors()
    sheets = _sheets(made, train, choices)
    scores = [score for score in (_identity(synthetic), _sharpness(made, train, choices)) if score]
    wanted = [tile.name for sheet in sheets for tile in sheet.made]
    wanted += [tile.name for score in scores for tile in (*score.worst, *score.best)]
    pictures = Pictures(page, train, embed=choices.embed)
    pictures.add(tile.name for sheet in sheets for tile in sheet.real)
    generated = _generated(synthetic, wanted, choices)
    context = {
        "title": f"Synthetic images: {synthetic.root.name}",
        "kind": "Synthetic images of people, made by pose transfer",
        "program": "augment",
        "sections": [
            ("answer", "In short"),
            ("sheets", "People"),
            ("poses", "Poses"),
            ("scores", "Scores"),
            ("errors", "Errors"),
            ("provenance", "Provenance"),
        ],
        "facts": _facts(synthetic, made, train),
        "sheets": sheets,
        "sources": pictures.sources | generated,
        "pictures_note": _pictures_note(pictures, len(generated)),
        "poses": _poses(made, train, choices),
        "scores": scores,
        "is_screened": _screened(synthetic) is not None,
        "failures": _failures(synthetic),
        "num_errors": _NUM_ERRORS,
        "card": _text(synthetic.root / CARD),
        "config": _config(synthetic.root),
    }
    size = write_page(page, "synthetic.html", context, _TEMPLATES)
    console.say(f"{page}: {in_words(size)}. {context['pictures_note']}", event="page", bytes=size)


def _facts(synthetic: Synthetic, made: Synthetic, train: Images) -> list[tuple[str, int, str]]:
    """Return what is counted: a name, the number, and what it is of."""
    errors = [error for error in synthetic.strings("error") if error]
    dropped = sum(error.startswith(SCREENED_OUT) for error in errors)
    people = len(set(made.strings("person_id")))
    splits = " and ".join(sorted(set(train.strings("split")), reverse=True))
    return [
        ("images", len(made), f"of {people:,} people"),
        ("real", len(train), f"{splits} images of {len(set(train.strings('person_id'))):,} people"),
        ("failed", len(errors) - dropped, "rows without an image"),
        ("dropped", dropped, "images that lost their person, by 'reid screen'"),
    ]


def _sheets(made: Synthetic, train: Images, choices: Choices) -> list[Sheet]:
    rows_of: dict[str, list[int]] = {}
    for row, person in enumerate(made.strings("person_id")):
        rows_of.setdefault(person, []).append(row)
    real_of: dict[str, list[int]] = {}
    for row, person in enumerate(train.strings("person_id")):
        real_of.setdefault(person, []).append(row)
    people = sorted(rows_of)
    sheets: list[Sheet] = []
    names, sources, poses = (made.strings(name) for name in ("image_id", "source_id", "pose_id"))
    ks = made.table["k"].to_pylist()
    real_names, cameras = train.strings("image_id"), train.table["camera_id"].to_pylist()
    for place in choose(len(people), choices.num_people, choices.seed).tolist():
        person = people[place]
        mine, real = rows_of[person], real_of.get(person, [])
        sheets.append(
            Sheet(
                person,
                len(real),
                len(mine),
                [Tile(real_names[row], f"camera {cameras[row]}") for row in real[:_PER_PERSON]],
                [
                    Tile(names[row], f"no. {ks[row]}", _made_of(sources[row], poses[row]))
                    for row in mine[:_PER_PERSON]
                ],
            )
        )
    return sheets


def _made_of(source: str | None, pose: str) -> str:
    return f"pose of {pose}" if source is None else f"from {source}, pose of {pose}"


def _generated(synthetic: Synthetic, names: list[str], choices: Choices) -> dict[str, str]:
    """Return the pictures of generated images; they lie in shards, so none can be linked."""
    if not choices.embed:
        return {}
    wanted = set(names)
    rows = np.array(
        [
            row
            for row, (name, error) in enumerate(
                zip(synthetic.strings("image_id"), synthetic.strings("error"), strict=True)
            )
            if name in wanted and (not error or error.startswith(SCREENED_OUT))
        ],
        np.int64,
    )
    found = synthetic.take(rows).strings("image_id")
    return {
        name: embedded(data) for name, data in zip(found, synthetic.read_bytes(rows), strict=True)
    }


def _pictures_note(pictures: Pictures, num_generated: int) -> str:
    if num_generated:
        return f"{pictures.note} {num_generated:,} generated images are in it too."
    return (
        f"{pictures.note} Generated images lie in shards and are blank: --embed-images puts them "
        "into the page."
    )


def _poses(made: Synthetic, train: Images, choices: Choices) -> list[PoseCluster]:
    """Return clusters of the real poses, and how many real and generated images are in each."""
    real, wanted = _poses_of(train), _poses_of(made)
    if len(real) < _NUM_POSES or not len(wanted):
        return []
    seen = (~np.isnan(real)).sum(axis=0)
    # A missing joint tells no poses apart, nor does one that is missing everywhere.
    middle = np.nansum(real, axis=0) / np.maximum(seen, 1)
    known, planned = (np.where(np.isnan(poses), middle, poses) for poses in (real, wanted))
    sample = known[choose(len(known), choices.max_images, choices.seed)].reshape(-1, 36)
    with catch_warnings():
        # An empty cluster is left out below.
        filterwarnings("ignore", "One of the clusters is empty")
        centres, _ = kmeans2(sample.astype(np.float64), _NUM_POSES, minit="++", rng=choices.seed)
    nearest = [_nearest(poses.reshape(-1, 36), centres) for poses in (known, planned)]
    counts = [np.bincount(one, minlength=_NUM_POSES) for one in nearest]
    clusters: list[PoseCluster] = []
    for number in np.argsort(-counts[0], kind="stable").tolist():
        if not counts[0][number]:
            continue
        distances = ((known.reshape(-1, 36) - centres[number]) ** 2).sum(axis=1)
        typical = real[int(distances.argmin())] * np.array(_DRAWN, np.float32)
        drawing = embedded(as_png(Image.fromarray(draw_pose(typical, _DRAWN, 2))))
        num_real, num_made = (int(one[number]) for one in counts)
        share_real, share_made = (
            Number(100 * some / float(one.sum()), ".1f")
            for some, one in zip((num_real, num_made), counts, strict=True)
        )
        clusters.append(PoseCluster(drawing, num_real, num_made, share_real, share_made))
    return clusters


def _poses_of(rows: Images | Synthetic) -> Float[np.ndarray, "poses 18 2"]:
    """Return the poses with shoulders and hips, as shares of the images' width and height."""
    sizes = [rows.table[name].to_numpy(zero_copy_only=False) for name in ("width", "height")]
    joints = rows.keypoints() / np.stack(sizes, axis=1)[:, None].astype(np.float32)
    return joints[has_torso(joints)]


def _nearest(
    vectors: Float[np.ndarray, "poses 36"], centres: Float[np.ndarray, "clusters 36"]
) -> Int[np.ndarray, " poses"]:
    squares = (centres**2).sum(axis=1)
    return (squares - 2 * vectors @ centres.T).argmin(axis=1)


def _screened(synthetic: Synthetic) -> pa.Table | None:
    """Return what 'reid screen' found, if it wrote this folder."""
    path = synthetic.root / SCREEN_TABLE
    if not path.exists():
        return None
    table = read_table(path, SCREEN, "what 'reid screen' writes")
    if not np.isfinite(table["similarity"].to_numpy()).all():
        raise UserError(f"{path}: found a similarity that is no number, expected one in every row")
    return table


def _identity(synthetic: Synthetic) -> Score | None:
    table = _screened(synthetic)
    if not table:
        return None
    values = table["similarity"].to_numpy().astype(np.float64)
    rank, nearest = table["rank"].to_pylist(), table["nearest_person"].to_pylist()
    dropped = np.asarray(table["weight"].is_null())
    low, high = float(values.min()), float(values.max())
    counts = [
        np.histogram(values[chosen], bins=40, range=(low, high or 1.0))
        for chosen in (~dropped, dropped)
    ]
    first = float(np.mean(np.array(rank) == 1))
    captions = [
        f"{value:.2f}, own person is number {own}" + ("" if own == 1 else f", {other} is first")
        for value, own, other in zip(values, rank, nearest, strict=True)
    ]
    names = zip(("kept", "dropped"), counts, strict=True)
    figure = histogram(
        Words(
            "Similarity to the own person",
            f"{first:.1%} of {len(values):,} images are nearest to their own person; "
            f"{int(dropped.sum()):,} were dropped",
        ),
        Axis("cosine similarity to the own person's real images"),
        Counts(counts[0][1].tolist(), [(n, c.tolist()) for n, (c, _) in names], "images"),
    )
    about = (
        f"By the network that screened the set: {first:.1%} of {len(values):,} images are nearest "
        f"to their own person; {int(dropped.sum()):,} were dropped."
    )
    worst, best = _extremes(values, table["image_id"].to_pylist(), captions)
    return Score("Identity", about, figure, worst, best)


def _sharpness(made: Synthetic, train: Images, choices: Choices) -> Score | None:
    """Return how sharp generated images are beside real ones of the same size."""
    if not len(made) or not len(train):
        return None
    rows = choose(len(made), choices.max_images, choices.seed)
    names = made.take(rows).strings("image_id")
    images = [
        pixels.decode(data, name) for data, name in zip(made.read_bytes(rows), names, strict=True)
    ]
    size = images[0].shape[1], images[0].shape[0]
    values = sharpness(np.stack([pixels.resize(image, size) for image in images]))
    there = [
        row
        for row in choose(len(train), choices.max_images, choices.seed).tolist()
        if train.file(row).is_file()
    ]
    known = [sharpness(pixels.resize(pixels.read(train.file(row)), size)[None])[0] for row in there]
    reach = float(np.quantile([*values, *known], 0.99))
    edges = np.linspace(0, reach or 1.0, 41)
    named = [
        (name, (100 * np.histogram(np.clip(some, 0, edges[-1]), edges)[0] / len(some)).tolist())
        for name, some in (("real", np.array(known)), ("generated", values))
        if len(some)
    ]
    medians = [float(np.median(some)) for some in (values, known) if len(some)]
    said = f"median {medians[0]:,.0f} of {len(values):,} generated images" + (
        f", {medians[1]:,.0f} of {len(known):,} real ones" if len(medians) > 1 else ""
    )
    figure = histogram(
        Words("Sharpness", f"Sharpness: {said}"),
        Axis("variance of the Laplacian; the last bin holds all beyond"),
        Counts(edges.tolist(), named, "percent of images", ".2f"),
    )
    about = (
        f"Variance of the Laplacian at {size[0]} x {size[1]} pixels, {said}. It says nothing about "
        "whom an image shows; noise counts as sharpness."
    )
    captions = [f"{value:,.0f}" for value in values]
    worst, best = _extremes(values, names, captions)
    return Score("Quality", about, figure, worst, best)


def _extremes(
    values: Float[np.ndarray, " rows"], names: list[str], captions: list[str]
) -> tuple[list[Tile], list[Tile]]:
    """Return the images with the smallest values and those with the largest."""
    order = np.argsort(values, kind="stable").tolist()
    ends = order[:_EXTREMES], order[::-1][:_EXTREMES]
    worst, best = ([Tile(names[row], captions[row]) for row in end] for end in ends)
    return worst, best


def _failures(synthetic: Synthetic) -> Table:
    """Return the rows without an image; what screening dropped is none of them."""
    found = zip(*map(synthetic.strings, ("image_id", "person_id", "error")), strict=True)
    rows = [row for row in found if row[2] and not row[2].startswith(SCREENED_OUT)]
    return Table(tuple(map(Column, ("image", "person", "error"))), tuple(rows))


def _text(path: StoragePath) -> str:
    return read_file(path, "a data card").decode("utf-8", "replace") if path.exists() else ""


def _config(root: StoragePath) -> list[tuple[str, str]]:
    """Return what decided the set, as the run record has it: no folder of the machine."""
    path = root / run_record.RUN_RECORD
    return entries(run_record.read(path)["config"]) if path.exists() else []
