"""Which arithmetic a network is computed in, where that is left to the machine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import torch

from manifests.compute.devices import has_bf16
from manifests.runtime import run_record
from manifests.runtime.storage import StoragePath

Precision = Literal["bf16", "float32"]
Auto = Literal["auto"]


def fast_precision(device: torch.device) -> Precision:
    """Return bf16 where the device computes in it; elsewhere it only takes longer."""
    return "bf16" if has_bf16(device) else "float32"


def settled_precision(
    precision: Auto | Precision, device: torch.device, records: Iterable[StoragePath] = ()
) -> Precision:
    """Return the arithmetic of a training whose settings may leave it to the machine.

    A training that has begun keeps its own, so that it goes on bit for bit on another machine.

    Args:
        precision: Of the settings.
        device: Where it is computed.
        records: Its ``run.json``, or several of which one may be.
    """
    if precision != "auto":
        return precision
    return recorded_precision(records) or fast_precision(device)


def recorded_precision(records: Iterable[StoragePath]) -> Precision | None:
    """Return the arithmetic of the first training among some ``run.json`` that has begun."""
    for record in records:
        recorded = run_record.read(record)["config"].get("precision") if record.exists() else None
        for known in get_args(Precision):
            if recorded == known:
                return known
    return None
