"""Strict, frozen settings that survive a round trip through JSON unchanged."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from manifests.runtime.console import UserError

MOST: Final = 2**63 - 1
"""The largest number that 64 bits hold; torch, Arrow and NumPy take no larger ones."""

Count = Annotated[int, Field(ge=0, le=MOST)]
Positive = Annotated[int, Field(gt=0, le=MOST)]
Width = Annotated[int, Field(gt=0, le=8192)]
"""Channels of a layer, or pixels of a side: a network of more is not even built."""
Depth = Annotated[int, Field(gt=0, le=256)]
"""Blocks or heads of a network."""
DepthOrNone = Annotated[int, Field(ge=0, le=256)]
Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
AboveZero = Annotated[float, Field(gt=0)]


class Frozen(BaseModel):
    """Base of all settings: unknown keys refused, no silent conversion, immutable."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    def to_json(self) -> str:
        """Return the canonical JSON: sorted keys, no spaces, ASCII."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str = "settings") -> Self:
        """Read what ``to_json`` wrote.

        Raises:
            UserError: If a key is unknown or missing, or a value has the wrong type; the
                message names ``where``, the key, and what was found.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise UserError(f"{where}: {first_problem(error)}") from error

    def digest(self) -> str:
        """Return the SHA-256 of the canonical JSON, in hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def first_problem(error: ValidationError, within: str = "") -> str:
    """Return the first problem of a validation as one sentence; ``within`` names outer settings."""
    problem = error.errors()[0]
    key = ".".join(str(part) for part in (within, *problem["loc"]) if part != "") or "(whole)"
    raised = problem.get("ctx", {}).get("error")
    if isinstance(raised, UserError):
        return str(raised)
    if problem["type"] == "extra_forbidden":
        return f"unknown setting '{key}'"
    return f"setting '{key}': {problem['msg']}, found {problem['input']!r}"
