#!/usr/bin/env python
"""Seconds to score a Market-1501-sized test set: ours against torchreid's Python evaluator."""

from __future__ import annotations

import argparse
import time

import numpy as np

from manifests.runtime.tables import Column, Number, Table, TableFiles
from reid.data.labels import Labels
from reid.evaluation.ranking import DistanceFunction, distance_of, rank
from reid.models import torchreid_adapter

NUM_QUERY, NUM_GALLERY, NUM_PEOPLE, NUM_CAMERAS, WIDTH = 3_368, 15_913, 750, 6, 512


def made_up_features(seed: int) -> tuple[np.ndarray, np.ndarray, Labels, Labels]:
    """Return features and labels of Market-1501's size: people are noisy points."""
    rng = np.random.default_rng(seed)
    centroids = rng.normal(size=(NUM_PEOPLE, WIDTH)).astype(np.float32)

    def part(count: int) -> tuple[np.ndarray, Labels]:
        people = rng.integers(0, NUM_PEOPLE, count)
        features = centroids[people] + 3 * rng.normal(size=(count, WIDTH)).astype(np.float32)
        cameras = rng.integers(1, NUM_CAMERAS + 1, count)
        return features, Labels(people.astype(str), cameras)

    (query, query_labels), (gallery, gallery_labels) = part(NUM_QUERY), part(NUM_GALLERY)
    return query, gallery, query_labels, gallery_labels


def main() -> None:
    """Print seconds, both scores and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    TableFiles.add_to(parser)
    options = parser.parse_args()
    query, gallery, query_labels, gallery_labels = made_up_features(0)
    measure = distance_of(query, gallery, "cosine")
    matrix = measure(slice(0, len(query)))

    def seconds_of(distances: np.ndarray | DistanceFunction) -> float:
        times: list[float] = []
        for _ in range(options.repeats):
            began = time.perf_counter()
            rank(distances, query_labels, gallery_labels)
            times.append(time.perf_counter() - began)
        return float(np.median(times))

    whole, alone = seconds_of(measure), seconds_of(matrix)
    score = rank(matrix, query_labels, gallery_labels).mean_average_precision
    began = time.perf_counter()
    cmc, mean_ap = torchreid_adapter.evaluate_rank(
        matrix,
        (query_labels.people.astype(np.int64), query_labels.cameras),
        (gallery_labels.people.astype(np.int64), gallery_labels.cameras),
    )
    theirs = time.perf_counter() - began
    columns = ("way", "seconds", "mAP", "torchreid's seconds / these")
    rows = [
        ("ours, after distances", alone, Number(score, ".6f"), Number(theirs / alone, ".1f")),
        ("ours, distances included", whole, "", ""),
        ("torchreid, after distances", theirs, Number(mean_ap, ".6f"), ""),
    ]
    table = Table(
        tuple(Column(head, "r" if head != "way" else "l") for head in columns),
        tuple((way, Number(seconds), *more) for way, seconds, *more in rows),
        note=f"{NUM_QUERY:,} queries against {NUM_GALLERY:,} images, medians of {options.repeats}",
    )
    text = f"{table.note}; torchreid's rank-1 {cmc[0]:.6f}\n\n{table.to_markdown(padded=True)}\n"
    print(text, end="")
    TableFiles.of_options(options).write(text, [table])


if __name__ == "__main__":
    main()
