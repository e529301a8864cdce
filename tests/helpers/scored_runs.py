"""Scored runs of made-up distances."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from reid.data.labels import Labels
from reid.evaluation.ranking import rank
from reid.evaluation.report import Nearest, protocol_block, write_report
from reid.evaluation.retrieval import Span, retrieve, verification_block

SPAN = Span(0.0, 1.0, "cosine similarity", 1.0)


def made_up_labels(
    num_people: int = 30, per_person: int = 2, suffix: str = ""
) -> tuple[Labels, Labels]:
    """Return query (camera 1) and gallery (camera 2, with a second round on camera 3)."""
    people = np.array([f"{person:04d}{suffix}" for person in range(1, num_people + 1)])
    people = people.repeat(per_person)
    query_names = np.array([f"q{i}_{person}" for i, person in enumerate(people)])
    gallery_people = np.concatenate([people, people])
    gallery_names = np.array([f"g{i}_{person}" for i, person in enumerate(gallery_people)])
    cameras = np.repeat([2, 3], len(people))
    query = Labels(people, np.ones(len(people), np.int64), query_names)
    return query, Labels(gallery_people, cameras, gallery_names)


def write_run(
    folder: Path,
    seed: int,
    gain: float = 0.0,
    *,
    labels: tuple[Labels, Labels] | None = None,
    keeps_nearest: bool = False,
    **changes: object,
) -> Path:
    """Write a report of made-up distances; ``gain`` pulls matches nearer.

    Without ``labels`` there are 60 queries of 30 people on camera 1, each with two matches.
    """
    generator = np.random.default_rng(seed)
    query, gallery = labels or _plain()
    distances = generator.random((len(query), len(gallery))).astype(np.float32)
    distances[query.people[:, None] == gallery.people[None]] *= 0.5 - gain
    facts = {
        "config": {"seed": seed, "steps": 3000, "val_people": 0, **changes},
        "weights": "last",
        "protocol": protocol_block(
            query,
            gallery,
            {"rule": "market1501", "distance": "cosine", "flip_test": bool(changes.get("flip"))},
        ),
    }
    ranking = rank(distances, query, gallery)
    if not keeps_nearest:
        write_report(folder, facts, ranking, query)
        return folder
    found = retrieve(distances.__getitem__, query, gallery, SPAN)
    facts["verification"] = verification_block(found, SPAN)
    write_report(folder, facts, ranking, query, Nearest(found, gallery))
    return folder


def _plain() -> tuple[Labels, Labels]:
    people = np.array([f"{person:04d}" for person in range(1, 31)]).repeat(2)
    names = np.array([f"{person}_{i}" for i, person in enumerate(people)])
    query = Labels(people, np.ones(len(people), np.int64), names)
    return query, Labels(people, np.full(len(people), 2), names)
