"""Tables in Markdown, for reports and cards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(
    header: Sequence[object],
    rows: Iterable[Sequence[object]],
    align: str = "",
    *,
    padded: bool = False,
) -> str:
    r"""Return a table in Markdown, without a line break at its end.

    Args:
        header: One cell per column.
        rows: As many cells as the header has; a ``|`` within a cell is escaped.
        align: A letter per column: ``l`` left or ``r`` right; all left if empty.
        padded: Fill cells with spaces to the width of their column, to be read as plain text.

    Raises:
        ValueError: If a row or ``align`` has another number of columns than the header.

    >>> print(markdown_table(["way", "steps/s"], [["plain", 3], ["ours", 12.5]], "lr"))
    | way | steps/s |
    |---|---:|
    | plain | 3 |
    | ours | 12.5 |
    >>> print(markdown_table(["way", "steps/s"], [["plain", 3]], "lr", padded=True))
    | way   | steps/s |
    |-------|--------:|
    | plain |       3 |
    """
    align = align or "l" * len(header)
    lines = [[str(cell).replace("|", r"\|") for cell in row] for row in (header, *rows)]
    if any(len(line) != len(align) for line in lines):
        raise ValueError(f"expected {len(align)} columns in header and rows, found {lines}")
    columns = range(len(align))
    widths = [max(len(line[column]) for line in lines) if padded else 0 for column in columns]
    text = [
        "|" + "".join(_cell(*cell) for cell in zip(line, widths, align, strict=True))
        for line in lines
    ]
    rule = [
        "-" * max(width + 1, 2) + "-" * (side == "l" or not padded) + ":" * (side == "r")
        for width, side in zip(widths, align, strict=True)
    ]
    return "\n".join([text[0], "|" + "|".join(rule) + "|", *text[1:]])


def _cell(text: str, width: int, side: str) -> str:
    filled = text.rjust(width) if side == "r" else text.ljust(width)
    return f" {filled} |" if filled else " |"
