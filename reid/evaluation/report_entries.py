"""What a ``report.json`` must hold for those who compare reports; further entries are free."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, StrictStr, ValidationError, model_validator

from manifests.runtime.settings import Count
from reid.evaluation.retrieval import COARSE, FALSE_POSITIVE_RATES, ROC_RATES

RANKS: Final = (1, 5, 10, 20)
_SHORTEST_CMC: Final = max(RANKS)

_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_Count = Annotated[Count, Field(strict=True)]
_Counts = Annotated[list[_Count], Field(min_length=COARSE, max_length=COARSE)]
_Curve = Annotated[list[_Number], Field(min_length=len(ROC_RATES), max_length=len(ROC_RATES))]
_Entries = dict[str, Any]


class _Block(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class _Config(_Block):
    seed: Annotated[int, Field(strict=True, ge=-(2**63), lt=2**64)]
    steps: _Count | None = None


class _GeneratedSet(_Block):
    generator: StrictStr
    manifest_sha256: StrictStr


class _Centralisation(_Block):
    copies: _Count | None = None
    copies_eta: _Number | None = None
    """Reports of before have it as ``eta``."""
    eta: _Number | None = None
    generated: _GeneratedSet | None = None
    copies_for: _GeneratedSet | None = None
    neighbours: _Count | None = None

    @model_validator(mode="after")
    def _something_is_added(self) -> _Centralisation:
        weighed = self.generated is not None or bool(self.neighbours)
        copies_eta = self.eta if self.copies_eta is None else self.copies_eta
        if not weighed and not self.copies:
            raise ValueError("found nothing that is added, expected it")
        if (weighed and self.eta is None) or (self.copies and copies_eta is None):
            raise ValueError("found no weight of what is added, expected one")
        return self


class _Protocol(_Block):
    query: _Entries
    gallery: _Entries
    centralisation: _Centralisation | None = None


class _Scores(_Block):
    mAP: _Number  # noqa: N815 - its name in the field
    mINP: _Number  # noqa: N815
    rank_1: _Number
    rank_5: _Number
    rank_10: _Number
    rank_20: _Number


class _Roc(_Block):
    fpr: _Curve
    tpr: _Curve


class _Verification(_Block):
    similarity: StrictStr
    begin: _Number = Field(alias="from")
    end: _Number = Field(alias="to")
    positives: _Counts
    negatives: _Counts
    tpr_at_fpr: dict[str, _Number]
    roc: _Roc


class _NearDuplicates(_Block):
    num_pairs: _Count


class _Origin(_Block):
    summary: StrictStr
    num_from_outside: _Count | None = None


class _Leakage(_Block):
    near_duplicates: _NearDuplicates | None = None
    synthetic: _Origin | None = None


class _Seen(_Block):
    real: _Count | None = None
    synthetic: _Count | None = None


_NOT_NULL: Final = ("verification", "num_real", "num_synthetic")


class _Report(_Block):
    config: _Config
    protocol: _Protocol
    weights: StrictStr
    scores: _Scores
    cmc: Annotated[list[_Number], Field(min_length=_SHORTEST_CMC)]
    verification: _Verification | None = None
    leakage: _Leakage = _Leakage()
    seen: _Seen = _Seen()
    versions: dict[str, StrictStr] = {}
    queries_sha256: StrictStr | None = None
    num_real: _Count | None = None
    num_synthetic: _Count | None = None


def problem_of(report: object) -> str | None:
    """Return which entry of a report is not as others need it; None if all are.

    >>> problem_of({"config": {}})
    "entry 'config.seed': field required"
    """
    try:
        found = _Report.model_validate(report)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "(whole)"
        return f"entry '{key}': {first['msg'][:1].lower()}{first['msg'][1:]}"
    given: dict[str, Any] = found.model_dump(exclude_unset=True)
    for entries, name in (*((given, name) for name in _NOT_NULL), (given["config"], "steps")):
        if entries.get(name, 0) is None:
            return f"entry '{name}': expected a value"
    rates = {f"{limit:g}" for limit in FALSE_POSITIVE_RATES}
    if found.verification is not None and found.verification.tpr_at_fpr.keys() != rates:
        return f"entry 'verification.tpr_at_fpr': expected rates at {', '.join(sorted(rates))}"
    return None
