"""Say what synthetic images were worth, with honest intervals: ``reid compare``."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.tables import TableFiles
from reid.experiments.comparison import (
    check_alike,
    compare_arms,
    markdown,
    meaning,
    read_arm,
    table_of,
)
from reid.experiments.comparison_page import (
    Content,
    PictureChoice,
    groups_of,
    write_comparison,
)


class CompareSettings(TableFiles):
    """Compare scored runs: the first arm is the baseline, every other one is held against it.

    An arm is a run, a folder of runs (its seeds), or a pattern; NAME= before it names it:
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
    arms = [read_arm(text) for text in settings.arms]
    check_alike(arms, other_features=settings.other_features)
    baseline, *others = arms
    comparisons = compare_arms(baseline, others)
    text = markdown(baseline, comparisons)
    console.show(text)
    settings.write(text, [table_of(baseline, comparisons)])
    for comparison in comparisons:
        gain = comparison.mean_average_precision
        console.record(
            f"{comparison.arm.name} against {baseline.name}: {meaning(comparison, baseline)}",
            event="comparison",
            baseline=baseline.name,
            arm=comparison.arm.name,
            mean=gain.mean,
            low=gain.low,
            high=gain.high,
            p=comparison.p_value,
        )
    if settings.html is not None:
        title = f"Is it better than {baseline.name}?"
        content = Content(title, groups_of(baseline, comparisons))
        write_comparison(settings.html, content, pictures, console)
    else:
        console.suggest("reid", "compare", *settings.arms, "--html", "page.html")
    return Exit.DONE
