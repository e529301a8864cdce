"""How near images lie to their people's others, in a re-ID network's eyes: a column of the images.

``reid centrality`` writes it and ``augment generate --source most-central`` reads it. The footer
says which images had a say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from manifests.io import Images
from manifests.runtime.console import UserError
from manifests.schema import CENTRALITY, IMAGES


@dataclass(frozen=True, slots=True)
class CentralityFacts:
    """What the centrality of a table was found by."""

    weights_sha256: str
    """Of the re-ID network."""
    real_fraction: float
    """Part of the train images that had a say, as in ``reid train``."""
    data_seed: int
    """Chose that part."""


def with_centrality(
    images: Images, values: Float32[np.ndarray, " rows"], facts: CentralityFacts
) -> Images:
    """Return the table with this column, NaN where it is not known, in the place of an earlier."""
    column = pa.array(values, pa.float32(), mask=np.isnan(values))
    table = images.table.set_column(
        IMAGES.get_field_index(CENTRALITY), IMAGES.field(CENTRALITY), column
    )
    return replace(
        images,
        table=table,
        provenance={**images.provenance, CENTRALITY: json.dumps(asdict(facts), sort_keys=True)},
    )


def centrality_of(images: Images) -> Float32[np.ndarray, " rows"]:
    """Return the column, NaN where it is not known."""
    return images.table[CENTRALITY].fill_null(np.nan).to_numpy().astype(np.float32)


def centrality_facts(provenance: Mapping[str, str]) -> CentralityFacts | None:
    """Return what a table's footer says of its centrality; none if nothing.

    Raises:
        UserError: If it says anything else than ``with_centrality`` writes.
    """
    if CENTRALITY not in provenance:
        return None
    text = provenance[CENTRALITY]
    try:
        facts: dict[str, Any] = json.loads(text)
        return CentralityFacts(
            str(facts["weights_sha256"]), float(facts["real_fraction"]), int(facts["data_seed"])
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"the table's footer: found {CENTRALITY} '{text[:40]}', expected weights_sha256, "
            "real_fraction and data_seed in JSON"
        ) from error
