"""What a study found: OUT/study.parquet, a row per run; OUT/study.md, a table per fraction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from manifests.io import write_bytes, write_table
from manifests.runtime.console import Console, UserError
from manifests.runtime.json_files import is_whole
from reid.evaluation.report import read_report
from reid.experiments.comparison import (
    Arm,
    Part,
    against,
    arm_of,
    check_alike,
    compare_families,
    held_against,
    markdown,
    reading,
    table_of,
)
from reid.experiments.comparison_page import (
    Content,
    Group,
    PictureChoice,
    fraction_curve,
    without_folders,
    write_comparison,
)
from reid.experiments.grid import BASELINE, Cell, StudySettings, Variant, variants_of
from reid.models.run_folder import REPORT, TrainingRun

TABLE: Final = "study.md"
ROWS: Final = "study.parquet"

STUDY: Final = pa.schema(
    [
        pa.field("fraction", pa.float64(), nullable=False),
        pa.field("arm", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("folder", pa.string(), nullable=False),
        pa.field("synthetic", pa.string()),
        pa.field("control", pa.string()),
        pa.field("flags", pa.string()),
        pa.field("steps", pa.int64(), nullable=False),
        pa.field("num_real", pa.int64(), nullable=False),
        pa.field("num_synthetic", pa.int64(), nullable=False),
        pa.field("num_from_outside", pa.int64()),
        pa.field("seen_real", pa.int64()),
        pa.field("seen_synthetic", pa.int64()),
        pa.field("weights", pa.string(), nullable=False),
        pa.field("num_queries", pa.int64(), nullable=False),
        pa.field("num_matched", pa.int64(), nullable=False),
        *(
            pa.field(name, pa.float64(), nullable=False)
            for name in (
                "mAP",
                "mAP_trapezoidal",
                "mINP",
                "rank_1",
                "rank_5",
                "rank_10",
                "rank_20",
            )
        ),
    ]
)
"""One row per run; ``folder`` starts at OUT, scores are shares of one."""


def write_results(settings: StudySettings, cells: Sequence[Cell], console: Console) -> str:
    """Write the rows, the tables and the page of complete cells; return the tables.

    Raises:
        UserError: If the runs cannot be held against each other.
    """
    families = {
        fraction: [
            arm_of(
                variant.name,
                [
                    settings.out / cell.folder
                    for cell in cells
                    if (cell.fraction, cell.variant) == (fraction, variant)
                ],
            )
            for variant in variants_of(settings)
        ]
        for fraction in settings.fractions
    }
    check_alike([arm for arms in families.values() for arm in arms])
    rows = pa.Table.from_pylist([_row(settings.out, cell) for cell in cells], STUDY)
    write_table(rows, settings.out / ROWS, {})
    sections = sections_of(settings, families)
    text = markdown_of(settings, sections)
    write_bytes(text.encode(), settings.out / TABLE)
    settings.write(text, [part.table for section in sections for part in section.parts])
    if settings.html is not None:
        _write_page(settings, settings.html, sections, console)
    return text


def pictures_of(settings: StudySettings) -> PictureChoice:
    """Return where the page has its pictures from; a table that is gone leaves it without."""
    images = settings.images if settings.images.is_file() else None
    return PictureChoice(images, settings.root, settings.embed_images)


def _write_page(
    settings: StudySettings, page: Path, sections: Sequence[Section], console: Console
) -> None:
    groups = [
        Group(
            f"{100 * section.fraction:g}% of the real images"
            + ("" if part.baseline is section.arms[0] else f", against {part.baseline.name}"),
            part.baseline,
            part.comparisons,
            part.table,
        )
        for section in sections
        for part in section.parts
    ]
    curve = fraction_curve([(section.fraction, section.arms) for section in sections])
    shared, own = _abouts(settings, sections)
    notes = shared + [
        f"At {100 * section.fraction:g}%, {line}"
        for section, lines in zip(sections, own, strict=True)
        for line in lines
    ]
    title = f"Is it better than {BASELINE}, and from how many real images?"
    content = Content(title, groups, [curve], notes)
    write_comparison(page, content, pictures_of(settings), console)


@dataclass(frozen=True, slots=True)
class Section:
    """What a study found for one fraction of the real images."""

    fraction: float
    arms: list[Arm]
    """All, ``none`` first."""
    parts: list[Part]
    """Against ``none``, and against the controls or the arm of ``--against``."""

    @property
    def title(self) -> str:
        """Return what tells the section from others."""
        num_real = self.arms[0].runs[0].report["num_real"]
        return f"{100 * self.fraction:g}% of the real train images ({num_real:,})"


def sections_of(settings: StudySettings, families: dict[float, list[Arm]]) -> list[Section]:
    """Return a section per fraction, p values corrected over all of them."""
    held = {fraction: held_against(arms, settings.against) for fraction, arms in families.items()}
    compared = iter(compare_families([family for some in held.values() for family in some]))
    sections: list[Section] = []
    for fraction, arms in families.items():
        parts: list[Part] = []
        for reference, _ in held[fraction]:
            reference_said = "" if reference is arms[0] else f", against {reference.name}"
            comparisons = next(compared)
            title = f"{100 * fraction:g}%{reference_said}"
            table = table_of(reference, comparisons, title, "fraction")
            parts.append(Part(reference, comparisons, table))
        sections.append(Section(fraction, arms, parts))
    return sections


def markdown_of(settings: StudySettings, sections: Sequence[Section]) -> str:
    """Return the Markdown of a study: a table per fraction, and what to know of its arms.

    Further tables of a fraction hold the arms against controls, or that of ``--against``. What is
    the same for all of them is said once.
    """
    count = sum(len(part.comparisons) for section in sections for part in section.parts)
    lines = [f"# Study: {len(settings.seeds)} seeds, {_budget(settings)}", ""]
    if count:
        lines += [f"All p values are corrected together, for {count} comparisons (Holm).", ""]
    # Seeds, queries and protocol are the same for all.
    lines += [*reading(sections[0].arms[0], sections[0].parts[0].comparisons), ""]
    shared, own = _abouts(settings, sections)
    for section, about in zip(sections, own, strict=True):
        arms = section.arms
        lines += [f"## {section.title}", ""]
        for part in section.parts:
            if part.baseline is not arms[0]:
                lines += [f"### {against(part.baseline)}", ""]
            lines += [markdown(part.baseline, part.comparisons, with_reading=False)]
        lines += _listed(about)
    lines += _listed(shared)
    runs = [run for section in sections for arm in section.arms for run in arm.runs]
    found = [run.report.get("leakage", {}).get("near_duplicates") for run in runs]
    # One run looks for them, of a table that is the same for all.
    for block in list(filter(None, found))[:1]:
        pairs = block["num_pairs"]
        lines += [f"Near-duplicates between train and gallery: {pairs:,} pairs.", ""]
    return "\n".join(lines)


def _budget(settings: StudySettings) -> str:
    if settings.budget == "epochs":
        return (
            f"as many steps as show every run its real images {settings.epochs:,} times, a control "
            "those of the set in whose place it stands"
        )
    return f"{settings.train.steps:,} steps for every run"


def _listed(lines: Sequence[str]) -> list[str]:
    return [*(f"- {line}" for line in lines), ""] if lines else []


def _abouts(
    settings: StudySettings, sections: Sequence[Section]
) -> tuple[list[str], list[list[str]]]:
    """Return what to know of the arms at all fractions alike, and at each of them besides."""
    variants = variants_of(settings)[1:]
    found = [
        [
            f"{arm.name}: {_about(variant, arm)}."
            for variant, arm in zip(variants, section.arms[1:], strict=True)
        ]
        for section in sections
    ]
    shared = [line for line in found[0] if all(line in others for others in found)]
    return shared, [[line for line in lines if line not in shared] for lines in found]


def _about(variant: Variant, arm: Arm) -> str:
    """Return what to know of an arm: its flags and control, where its synthetic images are from."""
    parts = [] if variant.flags is None else [f"reid train {without_folders(variant.flags)}"]
    if variant.control is not None and variant.folder is None:
        parts.append(f"in its place --control {variant.control}")
    if variant.folder is not None:
        origin = arm.runs[0].report.get("leakage", {}).get("synthetic")
        parts.append(origin["summary"] if origin else "nothing is known of its synthetic images")
    return "; ".join(parts)


_COUNTS: Final = ("num_real", "num_synthetic", "num_queries", "num_matched")


def _row(out: Path, cell: Cell) -> dict[str, Any]:
    run = TrainingRun(out / cell.folder, read_report(out / cell.folder))
    report = run.facts
    absent = [name for name in _COUNTS if not is_whole(report.get(name), 0, 2**31 - 1)]
    if absent:
        raise UserError(
            f"{run.folder / REPORT}: found no number '{absent[0]}', expected what the runs of a "
            "study leave"
        )
    synthetic = cell.variant.synthetic(cell.fraction)
    seen = report.get("seen", {})
    origin = report.get("leakage", {}).get("synthetic") or {}
    return {
        "fraction": cell.fraction,
        "arm": cell.variant.name,
        "seed": cell.seed,
        "folder": cell.folder.as_posix(),
        "synthetic": synthetic and str(synthetic),
        "control": cell.variant.control,
        "flags": cell.variant.flags,
        "steps": run.recipe["steps"],
        "num_real": report["num_real"],
        "num_synthetic": report["num_synthetic"],
        "num_from_outside": origin.get("num_from_outside"),
        "seen_real": seen.get("real"),
        "seen_synthetic": seen.get("synthetic"),
        "weights": report["weights"],
        "num_queries": report["num_queries"],
        "num_matched": report["num_matched"],
        **report["scores"],
    }
