"""One model of a table, and what it is written as: Markdown, CSV, LaTeX.

Every table that a command or a script prints is a ``Table``; a report of several is a sequence.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import model_validator

from manifests.runtime.console import UserError
from manifests.runtime.settings import Frozen
from manifests.runtime.storage import replacing

Side = Literal["l", "r"]


class TableFiles(Frozen):
    """Files that a command writes its tables to, beside standard output."""

    markdown: Path | None = None
    """Also write what is printed to this file, as Markdown."""
    csv: Path | None = None
    """Also write the tables to this file: a column per number, with all its digits."""
    latex: Path | None = None
    """Also write the tables to this file, for booktabs: the best of a column is bold."""

    @classmethod
    def add_to(cls, parser: argparse.ArgumentParser) -> None:
        """Give a script's parser the flags of these files."""
        for name, field in cls.model_fields.items():
            parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=field.description)

    @classmethod
    def of_options(cls, options: argparse.Namespace) -> Self:
        """Return the files that a script's command line names."""
        return cls(**{name: getattr(options, name) for name in cls.model_fields})

    @model_validator(mode="after")
    def _check_apart(self) -> Self:
        page: Path | None = getattr(self, "html", None)
        files = {**self._files(), **({} if page is None else {"--html": page})}
        for (one, path), (other, same) in combinations(files.items(), 2):
            if path.absolute() == same.absolute():
                raise UserError(f"{one} and {other}: found {path} for both, expected two files")
        return self

    def _files(self) -> dict[str, Path]:
        files = {"--markdown": self.markdown, "--csv": self.csv, "--latex": self.latex}
        return {flag: path for flag, path in files.items() if path is not None}

    def write(self, text: str, tables: Sequence[Table]) -> None:
        """Write the files that were asked for.

        Args:
            text: What is printed: the tables in Markdown, and what is said about them.
            tables: The tables in it.

        Raises:
            UserError: If a file cannot be written.
        """
        contents = {"--markdown": text, "--csv": to_csv(tables), "--latex": to_latex(tables)}
        for flag, path in self._files().items():
            with replacing(path) as file:
                # Names of folders need not be UTF-8.
                file.write(contents[flag].encode("utf-8", "backslashreplace"))


@dataclass(frozen=True, slots=True)
class Number:
    """A number in a cell, with what is known of its uncertainty, in the same unit."""

    value: float
    form: str = ".2f"
    """How it is printed, as ``format`` takes it."""
    deviation: float | None = None
    """Standard deviation."""
    interval: tuple[float, float] | None = None
    """Ends of the interval."""

    def __str__(self) -> str:
        """Return the number as it is printed.

        >>> str(Number(35.84, deviation=0.11)), str(Number(3.4, "+.1f", interval=(2.6, 4.1)))
        ('35.84 +- 0.11', '+3.4 [+2.6, +4.1]')
        """
        return f"{self.shown} {self.uncertainty}".rstrip()

    @property
    def shown(self) -> str:
        """Return the value alone as it is printed."""
        return f"{self.value:{self.form}}"

    @property
    def uncertainty(self) -> str:
        """Return deviation and interval as they are printed; empty if neither is known."""
        parts: list[str] = []
        if self.deviation is not None:
            parts.append(f"+- {self.deviation:{self.form.lstrip('+')}}")
        if self.interval is not None:
            low, high = self.interval
            parts.append(f"[{low:{self.form}}, {high:{self.form}}]")
        return " ".join(parts)

    def to_latex(self, *, bold: bool = False) -> str:
        r"""Return the number in LaTeX's mathematics.

        >>> print(Number(35.84, deviation=0.11).to_latex(bold=True))
        $\mathbf{35.84 \pm 0.11}$
        >>> print(Number(1.5e-5, ".1e").to_latex(), Number(12345, ",.0f").to_latex())
        $1.5 \times 10^{-5}$ $12{,}345$
        """
        text = _NOT_LATEX.sub(lambda match: _MATHEMATICS[match[0]], str(self))
        text = re.sub(r"e([+-])0*(\d+)", _power, text)
        return f"$\\mathbf{{{text}}}$" if bold else f"${text}$"


_NOT_LATEX: Final = re.compile(r"\+-|inf|nan|(?<=\d),(?=\d{3})")
_MATHEMATICS: Final = {"+-": r"\pm", "inf": r"\infty", "nan": r"\mathrm{nan}", ",": "{,}"}


def _power(match: re.Match[str]) -> str:
    sign = "-" if match[1] == "-" else ""
    return rf" \times 10^{{{sign}{match[2]}}}"


Cell = str | int | Number


@dataclass(frozen=True, slots=True)
class Column:
    """What stands above the cells of one column, and how they are set."""

    head: str
    align: Side = "l"
    best: Literal["highest", "lowest"] | None = None
    """Which of its numbers is the best, if one is."""
    name: str = ""
    """Of its values in a CSV file, if not the head."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under columns.

    Raises:
        ValueError: If a row has another number of cells than there are columns.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""
    """What tells it from the other tables of one report."""
    note: str = ""
    """How its numbers are to be read."""
    group: str = "table"
    """What the titles of one report are: ``fraction``, ``family``."""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"expected {len(self.columns)} cells in a row, found {row}")

    @classmethod
    def of(cls, heads: Sequence[str], rows: Iterable[Sequence[object]], align: str = "") -> Table:
        """Return a table of plain columns.

        Args:
            heads: One per column.
            rows: As many cells as there are heads.
            align: A letter per column: ``l`` left or ``r`` right; all left if empty.

        Raises:
            ValueError: If a row or ``align`` has another number of columns than the heads.
        """
        if len(align or heads) != len(heads):
            raise ValueError(f"expected {len(heads)} letters for the columns, found '{align}'")
        sides: list[Side] = ["r" if side == "r" else "l" for side in align or "l" * len(heads)]
        columns = tuple(Column(*pair) for pair in zip(heads, sides, strict=True))
        return cls(
            columns,
            tuple(
                tuple(cell if isinstance(cell, Number) else str(cell) for cell in row)
                for row in rows
            ),
        )

    @property
    def names(self) -> list[str]:
        """Return what the values of each column are called in a CSV file."""
        return [column.name or column.head for column in self.columns]

    def is_best(self, row: int, column: int) -> bool:
        """Return whether a cell is the best of its column, among at least two numbers.

        Numbers that are printed alike are equally good.
        """
        best = self.columns[column].best
        numbers = [
            cell
            for cell in (line[column] for line in self.rows)
            if isinstance(cell, Number) and math.isfinite(cell.value)
        ]
        cell = self.rows[row][column]
        if best is None or len(numbers) < 2 or cell not in numbers:
            return False
        choose = max if best == "highest" else min
        winner = choose(numbers, key=lambda number: number.value)
        assert isinstance(cell, Number)
        return cell.shown == winner.shown

    def to_markdown(self, *, padded: bool = False) -> str:
        r"""Return the table in Markdown, without a line break at its end.

        Args:
            padded: Fill cells with spaces to the width of their column, to be read as plain text.

        >>> table = Table.of(["way", "steps/s"], [["plain", 3], ["ours", 12.5]], "lr")
        >>> print(table.to_markdown())
        | way | steps/s |
        |---|---:|
        | plain | 3 |
        | ours | 12.5 |
        >>> print(table.to_markdown(padded=True))
        | way   | steps/s |
        |-------|--------:|
        | plain |       3 |
        | ours  |    12.5 |
        """
        heads = [column.head for column in self.columns]
        lines = [[str(cell).replace("|", r"\|") for cell in row] for row in (heads, *self.rows)]
        sides: list[Side] = [column.align for column in self.columns]
        widths = [max(map(len, cells)) if padded else 0 for cells in zip(*lines, strict=True)]
        text = [
            "|" + "".join(_cell(*cell) for cell in zip(line, widths, sides, strict=True))
            for line in lines
        ]
        rule = [
            "-" * max(width + 1, 2) + "-" * (side == "l" or not padded) + ":" * (side == "r")
            for width, side in zip(widths, sides, strict=True)
        ]
        return "\n".join([text[0], "|" + "|".join(rule) + "|", *text[1:]])


def _cell(text: str, width: int, side: Side) -> str:
    filled = text.rjust(width) if side == "r" else text.ljust(width)
    return f" {filled} |" if filled else " |"


def _values(name: str, cell: Cell) -> dict[str, str]:
    if not isinstance(cell, Number):
        return {name: str(cell)}
    low, high = cell.interval or (None, None)
    parts = {"": cell.value, " sd": cell.deviation, " low": low, " high": high}
    return {name + part: repr(float(value)) for part, value in parts.items() if value is not None}


def to_csv(tables: Sequence[Table]) -> str:
    """Return tables as one CSV: every number with all its digits, its uncertainty beside it.

    Where there are several tables, a first column says which one a row is of.

    >>> gain = Number(3.4, "+.1f", interval=(2.6, 4.1))
    >>> print(to_csv([Table.of(["arm", "gain"], [["none", ""], ["patn", gain]])]), end="")
    arm,gain,gain low,gain high
    none,,,
    patn,3.4,2.6,4.1
    """
    names: dict[str, None] = {}
    records: list[dict[str, str]] = []
    for table in tables:
        first = {table.group: table.title} if len(tables) > 1 else {}
        names |= dict.fromkeys(first)
        found = [
            [_values(*cell) for cell in zip(table.names, row, strict=True)] for row in table.rows
        ]
        for cells in zip(*found, strict=True):
            names |= dict.fromkeys(max(cells, key=len))
            names |= dict.fromkeys(name for cell in cells for name in cell)
        records += [
            first | {name: text for cell in row for name, text in cell.items()} for row in found
        ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(names), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


_LATEX: Final = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # After a line break it would open an argument.
    "[": "{[}",
    "+-": r"$\pm$",
}


def latex_text(text: str) -> str:
    r"""Return plain text as LaTeX.

    >>> print(latex_text("added_16 & 20 %"))
    added\_16 \& 20 \%
    """
    return re.sub(r"\+-|[&%$#_{}\\~^<>|\[]", lambda match: _LATEX[match[0]], text)


def to_latex(tables: Sequence[Table]) -> str:
    """Return tables as LaTeX floats for the package booktabs, the best of a column in bold."""
    return "% Needs \\usepackage{booktabs}.\n" + "\n".join(map(_float, tables))


def _float(table: Table) -> str:
    caption = " ".join(
        part if part.endswith(".") else f"{part}." for part in (table.title, table.note) if part
    )
    heads = " & ".join(latex_text(column.head) for column in table.columns)
    rows = [
        " & ".join(_latex_cell(table, row, column) for column in range(len(table.columns)))
        for row in range(len(table.rows))
    ]
    lines = [
        r"\begin{table}",
        r"\centering",
        *([f"\\caption{{{latex_text(caption)}}}"] if caption else []),
        f"\\begin{{tabular}}{{{''.join(column.align for column in table.columns)}}}",
        r"\toprule",
        heads + r" \\",
        r"\midrule",
        *(row + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_cell(table: Table, row: int, column: int) -> str:
    cell = table.rows[row][column]
    if isinstance(cell, Number):
        return cell.to_latex(bold=table.is_best(row, column))
    return latex_text(str(cell))
