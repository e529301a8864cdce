"""Figures as inline SVG."""

import re
from xml.etree import ElementTree as ET

import numpy as np

from manifests.pages.charts import (
    Axis,
    Counts,
    Series,
    Words,
    histogram,
    intervals,
    lines,
)
from manifests.runtime.tables import Number

WORDS = Words("title", "what it shows")


def curve(*names: str):
    series = [Series(name, [1, 2, 3], [place, 2, 3]) for place, name in enumerate(names)]
    return lines(WORDS, Axis("x"), Axis("y"), series)


def test_a_drawing_has_no_colour_and_no_font_of_its_own():
    svg = curve("a", "b").svg
    assert not re.search(r"#[0-9a-f]{6}\b", svg)
    assert "DejaVu" not in svg
    assert "var(--series-0)" in svg
    assert "var(--series-1)" in svg
    assert "<style" not in svg


def test_ids_of_two_drawings_on_one_page_differ_and_all_references_lead_somewhere():
    first, second = curve("a").svg, curve("a", "b").svg
    ids = [set(re.findall(r' id="([^"]*)"', svg)) for svg in (first, second)]
    assert not ids[0] & ids[1]
    for svg, own in zip((first, second), ids, strict=True):
        used = set(re.findall(r'(?:url\(|href=")#([^")]*)', svg))
        assert used == own


def test_names_are_text_whatever_is_in_them():
    svg = curve("<script>alert(1)</script>", "_hidden", "$x^2$", "\u4eba").svg
    assert "<script" not in svg
    root = ET.fromstring(svg.replace("xlink:href", "href"))
    shown = {text.strip() for node in root.iter("text") for text in node.itertext()}
    assert {"<script>alert(1)</script>", "_hidden", "$x^2$", "\u4eba"} <= shown


def test_the_same_numbers_give_the_same_bytes():
    assert curve("a", "b").svg == curve("a", "b").svg


def test_an_interval_without_ends_is_drawn_to_the_border():
    gain = Number(1.0, "+.2f", interval=(-np.inf, np.inf))
    figure = intervals(WORDS, "points", [("one person", gain)])
    assert "nan" not in figure.svg
    assert "inf" not in figure.svg
    assert str(figure.table.rows[0][1]) == "+1.00 [-inf, +inf]"


def test_the_table_of_a_histogram_leaves_out_empty_bins_only():
    counts = Counts([0, 1, 2, 3], [("a", [1, 0, 0]), ("b", [0, 0, 4])], "images")
    table = histogram(WORDS, Axis("x"), counts).table
    rows = [[str(cell) for cell in row] for row in table.rows]
    assert rows == [["0", "1", "1", "0"], ["2", "3", "0", "4"]]
