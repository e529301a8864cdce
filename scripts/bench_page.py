#!/usr/bin/env python
"""What a comparison page of Market-1501's size takes: seconds, bytes, and the intervals alone.

Two arms of several seeds with made-up distances, 3,368 queries against 15,913 gallery images on
six cameras; no picture, no network.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from manifests.compute.statistics import NUM_RESAMPLES, paired_difference
from manifests.runtime.console import Console
from manifests.runtime.tables import Cell, Number, Table, TableFiles
from reid.data.labels import Labels
from reid.evaluation.ranking import rank
from reid.evaluation.report import Nearest, protocol_block, write_report
from reid.evaluation.retrieval import Span, retrieve, verification_block
from reid.experiments.compare import CompareSettings, compare
from reid.experiments.comparison import read_arm

NUM_QUERIES, NUM_GALLERY, NUM_PEOPLE, NUM_CAMERAS = 3_368, 15_913, 750, 6
SPAN = Span(0.0, 1.0, "cosine similarity", 1.0)


def made_up_labels(count: int, prefix: str, generator: np.random.Generator) -> Labels:
    """Return people, cameras and names of images, everybody at least once."""
    people = np.concatenate(
        [np.arange(NUM_PEOPLE), generator.integers(0, NUM_PEOPLE, count - NUM_PEOPLE)]
    )
    cameras = generator.integers(1, NUM_CAMERAS + 1, count)
    pairs = zip(people, cameras, strict=True)
    names = [
        f"{person:04d}_c{camera}_{prefix}{number:06d}.jpg"
        for number, (person, camera) in enumerate(pairs)
    ]
    return Labels(np.array([f"{person:04d}" for person in people]), cameras, np.array(names))


def write_run(folder: Path, seed: int, gain: float, labels: tuple[Labels, Labels]) -> None:
    """Write a scored run; ``gain`` pulls the images of one person nearer to each other."""
    query, gallery = labels
    generator = np.random.default_rng(seed)
    distances = generator.random((len(query), len(gallery)), np.float32)
    distances[query.people[:, None] == gallery.people[None]] *= 0.05 - gain
    how = {"rule": "market1501", "distance": "cosine", "flip_test": False}
    found = retrieve(distances.__getitem__, query, gallery, SPAN)
    facts = {
        "config": {"seed": seed, "steps": 3000, "gain": gain},
        "weights": "last",
        "protocol": protocol_block(query, gallery, how),
        "verification": verification_block(found, SPAN),
    }
    ranking = rank(distances, query, gallery)
    write_report(folder, facts, ranking, query, Nearest(found, gallery))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keep runs and page here; default: nowhere")
    TableFiles.add_to(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        table = measure(options.folder or Path(scratch), options.seeds)
    text = f"{table.note}\n\n{table.to_markdown(padded=True)}\n"
    print(text, end="")
    TableFiles.of_options(options).write(text, [table])


def measure(folder: Path, num_seeds: int) -> Table:
    """Return what page and intervals take."""
    generator = np.random.default_rng(0)
    labels = (
        made_up_labels(NUM_QUERIES, "q", generator),
        made_up_labels(NUM_GALLERY, "g", generator),
    )
    for name, gain in (("none", 0.0), ("other", 0.01)):
        for seed in range(num_seeds):
            run = folder / f"{name}-{seed}"
            if not run.exists():
                write_run(run, seed, gain, labels)
    page = folder / "page.html"
    arms = tuple(f"{name}={folder}/{name}-*" for name in ("none", "other"))
    began, cpu = time.perf_counter(), time.process_time()
    compare(CompareSettings(arms=arms, html=page), Console())
    rows: list[list[Cell]] = [
        ["page, its table included", *_seconds(began, cpu), Number(page.stat().st_size / 1e6)]
    ]
    none, other = map(read_arm, arms)
    began, cpu = time.perf_counter(), time.process_time()
    paired_difference(
        none.average_precision, other.average_precision, none.runs[0].people, same_seeds=True
    )
    rows.append([f"{NUM_RESAMPLES:,} resamples of one difference", *_seconds(began, cpu), ""])
    note = (
        f"2 arms x {num_seeds} seeds, {len(none.runs[0].queries):,} queries against "
        f"{NUM_GALLERY:,} images"
    )
    table = Table.of(["what", "seconds", "seconds of CPU", "MB"], rows, "lrrr")
    return Table(table.columns, table.rows, note=note)


def _seconds(began: float, cpu: float) -> list[Number]:
    return [Number(time.perf_counter() - began), Number(time.process_time() - cpu)]


if __name__ == "__main__":
    main()
