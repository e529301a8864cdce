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
    distances: np.ndarray | None = None,
    centralisation: dict[str, object] | None = None,
    **changes: object,
) -> Path:
    """Write a report of made-up distances; ``gain`` pulls matches nearer.

    Without ``labels`` there are 60 queries of 30 people on camera 1, each with two matches.
    ``centralisation`` is what the report says of the features; the distances do not know it.
    """
    generator = np.random.default_rng(seed)
    query, gallery = labels or _plain()
    if distances is None:
        distances = generator.random((len(query), len(gallery))).astype(np.float32)
        distances[query.people[:, None] == gallery.people[None]] *= 0.5 - gain
    facts = {
        "config": {"seed": seed, "steps": 3000, "val_people": 0, **changes},
        "weights": "last",
        "protocol": protocol_block(
            query,
            gallery,
            {"rule": "market1501", "distance": "cosine", "flip_test": bool(changes.get("flip"))}
            | ({"centralisation": centralisation} if centralisation else {}),
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


def write_first_ranks(folder: Path, seed: int, ranks: np.ndarray, **changes) -> Path:
    """Write the report of a run in which person p's one query has its one match at ``ranks[p]``.

    So its average precision is one over that.
    """
    people = np.array([f"{person:04d}" for person in range(1, len(ranks) + 1)])
    query, gallery = (
        Labels(people, np.full(len(people), camera), np.char.add(f"c{camera}_", people))
        for camera in (1, 2)
    )
    # Others stand at 1, 2, 3, ..., and the match just before the one of its rank.
    others = np.cumsum(1 - np.eye(len(people)), axis=1)
    distances = np.where(np.eye(len(people)) == 1, ranks[:, None] - 0.5, others)
    return write_run(folder, seed, labels=(query, gallery), distances=distances, **changes)


def _plain() -> tuple[Labels, Labels]:
    people = np.array([f"{person:04d}" for person in range(1, 31)]).repeat(2)
    names = np.array([f"{person}_{i}" for i, person in enumerate(people)])
    query = Labels(people, np.ones(len(people), np.int64), names)
    return query, Labels(people, np.full(len(people), 2), names)
