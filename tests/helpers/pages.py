"""What stands on a page, read back from its file."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path


def data_of(page: Path) -> dict:
    """Return what the browser of queries is given."""
    text = page.read_text("utf-8")
    match = re.search(r'<script type="application/json" id="query-data">(.*?)</script>', text)
    assert match is not None
    return json.loads(match[1])


def values(text: str) -> list[float]:
    """Return all numbers of a part of a page, with all their digits."""
    return [float(value) for value in re.findall(r'data-value="([^"]*)"', text)]


def rows_under(text: str, title: str, number: int = 0) -> list[list[float]]:
    """Return the numbers under a figure, a list per row; ``number`` counts figures of one title.

    A number with an interval is followed by the ends of it.
    """
    pattern = rf"of {re.escape(title)}</span></summary>(.*?)</table>"
    table = re.findall(pattern, text, re.DOTALL)[number]
    body = table[table.index("<tbody") :]
    return [
        [float(value) for value in re.findall(r'data-(?:value|low|high)="([^"]*)"', row)]
        for row in body.split("<tr")[1:]
    ]


def heads_under(text: str, title: str, number: int = 0) -> list[str]:
    """Return what stands before the numbers of each row under a figure."""
    pattern = rf"of {re.escape(title)}</span></summary>(.*?)</table>"
    table = re.findall(pattern, text, re.DOTALL)[number]
    return [unescape(head) for head in re.findall(r'<th role="rowheader"[^>]*>(.*?)</th>', table)]
