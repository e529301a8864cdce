"""Figures of a page, drawn by matplotlib as inline SVG in the page's own font and colours.

Matplotlib draws in colours that stand for names; the page's style sheet says what they are in light
and in dark. Series differ in colour and in line or shade.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal
from warnings import catch_warnings, filterwarnings

import numpy as np

from manifests.runtime.tables import Cell, Column, Number, Table

_SERIES: Final = ("#0000a0", "#0000a1", "#0000a2", "#0000a3", "#0000a4", "#0000a5")
_DASHES: Final = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
_MARKERS: Final = ("o", "s", "^", "D", "v", "P")
_INK: Final = "#0000b0"
_LINE: Final = "#0000b1"
_PAPER: Final = "#0000b2"
_VARIABLES: Final = {
    **{colour: f"var(--series-{number})" for number, colour in enumerate(_SERIES)},
    _INK: "var(--soft)",
    _LINE: "var(--line)",
    _PAPER: "var(--paper)",
}
_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _LINE,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": False,
    "figure.facecolor": "none",
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "legend.frameon": False,
    "legend.labelcolor": _INK,
    "lines.linewidth": 1.8,
    "hatch.linewidth": 0.7,
}
_WIDTH_PT: Final = 380


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing, what it says in words, and its numbers."""

    title: str
    svg: str
    alt: str
    """For who does not see it."""
    table: Table
    note: str = ""


@dataclass(frozen=True, slots=True)
class Words:
    """What stands above a figure, and what it shows for who does not see it."""

    title: str
    alt: str


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a figure."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    """Ends of the intervals, if there are any."""
    is_reference: bool = False
    """Whether the others are to be seen against it."""


@dataclass(frozen=True, slots=True)
class Axis:
    """What one direction of a figure means."""

    label: str
    scale: Literal["linear", "log"] = "linear"
    limits: tuple[float, float] | None = None
    ticks: Sequence[float] = ()
    """Where its numbers stand, if not where they fall by themselves."""
    form: str = "g"
    """How its numbers are printed in the table."""


def intervals(labels: Words, label: str, gains: Sequence[tuple[str, Number]]) -> Figure:
    """Return gains with their intervals, one above the other, around a line at zero."""

    def draw(axes: Any) -> None:
        for place, (_, gain) in enumerate(gains):
            low, high = _finite(gain)
            colour = _SERIES[0] if low > 0 else _SERIES[1] if high < 0 else _INK
            axes.plot([low, high], [place, place], color=colour, linewidth=3, solid_capstyle="butt")
            axes.plot(gain.value, place, "o", color=colour, markersize=8, mec=_PAPER, mew=1.2)
            text = f"{gain.value:{gain.form}}"
            axes.annotate(
                text, (gain.value, place), (0, 8), textcoords="offset points", ha="center"
            )
        axes.axvline(0, color=_INK, linewidth=1)
        axes.set_yticks(range(len(gains)), [_literal(name) for name, _ in gains])
        axes.set_ylim(len(gains) - 0.4, -0.75)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(label)

    table = Table((Column(""), Column(label, "r")), tuple(gains))
    return _figure(labels, draw, 70 + 38 * len(gains), table)


def _finite(gain: Number) -> tuple[float, float]:
    low, high = gain.interval or (gain.value, gain.value)
    reach = abs(gain.value) + 1
    return max(low, -10 * reach), min(high, 10 * reach)


def lines(
    labels: Words, x: Axis, y: Axis, series: Sequence[Series], *, marked: bool = False
) -> Figure:
    """Return lines over a common axis; with ``marked`` their points are shown."""

    def draw(axes: Any) -> None:
        for number, one in enumerate(series):
            kind = number % len(_SERIES)
            # A reference comes first and takes no colour from the others.
            colour = _INK if one.is_reference else _SERIES[kind - series[0].is_reference]
            axes.plot(
                one.x,
                one.y,
                color=colour,
                linestyle=_DASHES[kind],
                marker=_MARKERS[kind] if marked else None,
                label=_literal(one.name),
            )
            if len(one.low):
                axes.fill_between(one.x, one.low, one.high, color=colour, alpha=0.18, lw=0)
        axes.set_xscale(x.scale)
        axes.set_yscale(y.scale)
        axes.set_ylabel(y.label)
        _set(axes, x)
        if y.limits:
            axes.set_ylim(*y.limits)
        if len(series) > 1:
            axes.legend(loc="best", fontsize=10)

    return _figure(labels, draw, 260, _series_table(x, y, series))


def _set(axes: Any, x: Axis) -> None:
    axes.set_xlabel(x.label)
    if x.limits:
        axes.set_xlim(*x.limits)
    if x.ticks:
        axes.set_xticks(x.ticks)


def _series_table(x: Axis, y: Axis, series: Sequence[Series]) -> Table:
    found = [
        {
            at: Number(value, y.form, interval=(one.low[i], one.high[i]) if len(one.low) else None)
            for i, (at, value) in enumerate(zip(one.x, one.y, strict=True))
        }
        for one in series
    ]
    columns = (Column(x.label, "r"), *(Column(one.name, "r") for one in series))
    rows: list[tuple[Cell, ...]] = [
        (f"{at:{x.form}}", *(points.get(at, "") for points in found))
        for at in sorted({at for points in found for at in points})
    ]
    return Table(columns, tuple(rows))


@dataclass(frozen=True, slots=True)
class Counts:
    """What of some values falls between which edges."""

    edges: Sequence[float]
    named: Sequence[tuple[str, Sequence[float]]]
    label: str
    """What is counted, and in which unit."""
    form: str = ",.0f"
    """How the counts are printed in the table."""


def histogram(labels: Words, x: Axis, counts: Counts, *, zero: bool = False) -> Figure:
    """Return histograms over each other; ``zero`` marks where x is zero."""
    edges, named = counts.edges, counts.named

    def draw(axes: Any) -> None:
        for number, (name, values) in enumerate(named):
            colour, hatch = _SERIES[number], ("", "////")[number % 2]
            axes.stairs(values, edges, color=colour, linewidth=1.6, linestyle=_DASHES[number])
            axes.stairs(
                values, edges, fill=True, alpha=0.22, color=colour, hatch=hatch,
                label=_literal(name),
            )  # fmt: skip
        if zero:
            axes.axvline(0, color=_INK, linewidth=1)
        _set(axes, x)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(counts.label)
        if len(named) > 1:
            axes.legend(loc="best", fontsize=10)

    columns = (Column("from", "r"), Column("to", "r"), *(Column(name, "r") for name, _ in named))
    rows: list[tuple[Cell, ...]] = [
        (
            f"{edges[bin_]:.4g}",
            f"{edges[bin_ + 1]:.4g}",
            *(Number(float(values[bin_]), counts.form) for _, values in named),
        )
        for bin_ in range(len(edges) - 1)
        if any(values[bin_] for _, values in named)
    ]
    return _figure(labels, draw, 240, Table(columns, tuple(rows)))


def trimmed(counts: Sequence[np.ndarray]) -> slice:
    """Return the bins between the first and the last that is not empty in all.

    >>> trimmed([np.array([0, 0, 1, 0]), np.array([0, 2, 0, 0])])
    slice(1, 3, None)
    """
    full = np.flatnonzero(sum(np.asarray(one) != 0 for one in counts))
    return slice(int(full[0]), int(full[-1]) + 1) if len(full) else slice(0, 1)


def _literal(text: str) -> str:
    """Return text in which matplotlib finds no mathematics, and that no legend hides."""
    shown = text.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def _figure(labels: Words, draw: Callable[[Any], None], height_pt: float, table: Table) -> Figure:
    return Figure(labels.title, _svg(draw, height_pt), labels.alt, table)


def _svg(draw: Callable[[Any], None], height_pt: float) -> str:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Drawing

    with rc_context({**_STYLE, "svg.hashsalt": "figure"}), catch_warnings():
        # The reader's font may have what the one that widths are measured in has not.
        filterwarnings("ignore", "Glyph .* missing")
        drawing = Drawing(figsize=(_WIDTH_PT / 72, height_pt / 72), layout="constrained")
        FigureCanvasSVG(drawing)
        draw(drawing.add_subplot())
        buffer = io.StringIO()
        drawing.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue())


def _inline(svg: str) -> str:
    """Return the drawing as part of a page: own ids, the page's font, the page's colours."""
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    text = re.sub(
        r"^.*?<svg[^>]*viewBox=\"([^\"]*)\"[^>]*>", r'<svg viewBox="\1">', text, flags=re.DOTALL
    )
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: inherit", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    prefix = f"f{hashlib.sha256(text.encode()).hexdigest()[:8]}-"
    text = re.sub(r"(url\(|href=\")#", rf"\1#{prefix}", text)
    used = set(re.findall(rf"#{prefix}([\w.-]+)", text))

    def renamed(match: re.Match[str]) -> str:
        return f' id="{prefix}{match[1]}"' if match[1] in used else ""

    text = re.sub(r" id=\"([\w.-]+)\"", renamed, text)
    return re.sub(r"\s*\n\s*", " ", text).strip()
