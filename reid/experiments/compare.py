"""Say what synthetic images were worth, with honest intervals: ``reid compare``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tyro.conf import Positional

from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.tables import TableFiles
from reid.experiments.comparison import (
    Arm,
    Part,
    against,
    check_alike,
    check_names,
    compare_families,
    held_against,
    markdown,
    meaning,
    read_arm,
    reading,
    table_of,
)
from reid.experiments.comparison_page import Content, Group, PictureChoice, write_comparison


class CompareSettings(TableFiles):
    """Compare scored runs: the first arm is the baseline, every other one is held against it.

    Where a control of as many real images is among them, they are held against that as well. An
    arm is a run, a folder of runs (its seeds), or a pattern; NAME= before it names it:
    reid compare none='runs/none-*' patn='runs/patn-*'
    """

    arms: Positional[tuple[str, ...]]
    """The baseline, then the others: each a run, a folder of runs (its seeds) or a quoted pattern,
    if need be with NAME= before it."""
    other_features: bool = False
    """The arms are the same networks, with features centralised in different ways by 'reid score
    --centralise, --copies, --neighbours'; without it such scores are not compared."""
    html: Path | None = None
    """Also write a page to this file, with figures and the queries won and lost."""
    images: Path | None = None
    """Table of the images, from 'augment index': the page shows those that were ranked."""
    root: Path | None = None
    """Where the images lie, if not where the table says."""
    embed_images: bool = False
    """Put images into the page; without it the page links them where they lie."""


def compare(settings: CompareSettings, console: Console) -> Exit:
    """Print the table on standard output, and write it where asked.

    Raises:
        UserError: If there are fewer than two arms, one has no scored run, its runs differ in more
            than the seed, two were scored under different protocols, features of different networks
            are to be compared, or a file cannot be written.
    """
    if len(settings.arms) < 2:
        raise UserError(
            f"found {len(settings.arms)} arm; expected the baseline and at least one other"
        )
    pictures = PictureChoice(settings.images, settings.root, settings.embed_images)
    pictures.check(settings.html)
    if settings.images is not None and settings.html is None:
        raise UserError("--images: found no --html, expected the page that shows them")
    arms = [read_arm(text) for text in settings.arms]
    check_names(arms)
    check_alike(arms, other_features=settings.other_features)
    parts = parts_of(arms)
    text = _text(parts)
    console.show(text)
    settings.write(text, [part.table for part in parts])
    for part in parts:
        _record(part, console)
    if settings.html is not None:
        title = f"What is better than {' and '.join(part.baseline.name for part in parts)}?"
        groups = [
            Group(against(part.baseline), part.baseline, part.comparisons, part.table)
            for part in parts
        ]
        write_comparison(settings.html, Content(title, groups), pictures, console)
    else:
        flags = ["--other-features"] if settings.other_features else []
        console.suggest("reid", "compare", *settings.arms, *flags, "--html", "page.html")
    return Exit.DONE


def parts_of(arms: Sequence[Arm]) -> list[Part]:
    """Return the arms held against the first, and against the controls among them.

    The p values are corrected for the number of all comparisons together.
    """
    held = held_against(arms)
    parts: list[Part] = []
    for (baseline, _), comparisons in zip(held, compare_families(held), strict=True):
        title = baseline.name if len(held) > 1 else ""
        parts.append(Part(baseline, comparisons, table_of(baseline, comparisons, title)))
    return parts


def _text(parts: Sequence[Part]) -> str:
    first, *others = parts
    # Seeds, queries and protocol are the same for all.
    sections = [markdown(first.baseline, first.comparisons, with_reading=not others)]
    for part in others:
        table = markdown(part.baseline, part.comparisons, with_reading=False)
        sections.append(f"{against(part.baseline)}:\n\n{table}")
    if others:
        sections.append("\n".join(reading(first.baseline, first.comparisons)) + "\n")
    return "\n".join(sections)


def _record(part: Part, console: Console) -> None:
    """Tell programs what a part says."""
    for comparison in part.comparisons:
        gain, arm, baseline = comparison.mean_average_precision, comparison.arm, part.baseline
        console.record(
            f"{arm.name} against {baseline.name}: {meaning(comparison, baseline)}",
            event="comparison",
            baseline=baseline.name,
            arm=arm.name,
            mean=gain.mean,
            low=gain.low,
            high=gain.high,
            p=comparison.p_value,
        )
