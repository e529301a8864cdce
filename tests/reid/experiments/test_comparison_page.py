"""The page of a comparison: what stands on it, and how it behaves in a browser."""

from __future__ import annotations

import json
import re
import sys
from html import unescape
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest

from manifests.compute.statistics import Difference
from manifests.io import Images, write_images
from manifests.runtime.console import Console, Exit, UserError
from manifests.schema import IMAGES
from reid.cli import PROGRAM
from reid.experiments.compare import CompareSettings, compare
from reid.experiments.comparison import Comparison, read_arm
from reid.experiments.comparison_page import answer_of
from tests.helpers.browser import NARROW, WIDE, opened, scrolls_sideways, serious_violations
from tests.helpers.scored_runs import made_up_labels, write_run

QUIET = Console(quiet=True)
EVIL = "<img src=x onerror=alert(1)>"
EVIL_ARM = "<script>alert(1)</script>"


def write_runs(folder: Path, *, keeps_nearest: bool = True, suffix: str = "") -> tuple[str, ...]:
    labels = made_up_labels(20, 3, suffix)
    for seed in (0, 1):
        for name, gain in (("none", 0.0), ("better", 0.3), ("worse", -0.3)):
            write_run(
                folder / f"{name}-{seed}",
                seed,
                gain,
                labels=labels,
                keeps_nearest=keeps_nearest,
                kind=name,
            )
    return tuple(f"{name}={folder}/{name}-*" for name in ("none", "better", "worse"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder of runs, and a page of them without pictures."""
    folder = tmp_path_factory.mktemp("runs")
    arms = write_runs(folder)
    compare(CompareSettings(arms=arms, html=folder / "page.html"), QUIET)
    return folder


def data_of(page: Path) -> dict:
    text = page.read_text("utf-8")
    match = re.search(r'<script type="application/json" id="query-data">(.*?)</script>', text)
    assert match is not None
    return json.loads(match[1])


def values(text: str) -> list[float]:
    return [float(value) for value in re.findall(r'data-value="([^"]*)"', text)]


@pytest.mark.parametrize(
    ("gain", "num_seeds", "p_value", "expected"),
    [
        ((0.02, 0.01, 0.03), 3, 0.01, ("better", "patn is better than none")),
        ((-0.02, -0.03, -0.01), 3, 0.01, ("worse", "patn is worse than none")),
        ((0.02, -0.01, 0.05), 3, 0.4, ("undecided", "patn cannot be told from none")),
        ((0.02, 0.001, 0.05), 3, 0.06, ("undecided", "patn cannot be told from none")),
        ((0.02, 0.01, 0.03), 1, 0.01, ("better", "patn is better than none for this one seed")),
        (
            (0.02, -0.01, 0.05),
            1,
            0.4,
            ("undecided", "patn cannot be told from none, with one seed"),
        ),
    ],
)
def test_the_answer_says_no_more_than_interval_seeds_and_correction_allow(
    tmp_path, gain, num_seeds, p_value, expected
):
    none, arm = (read_arm(str(write_run(tmp_path / name, 0))) for name in ("none", "patn"))
    difference = Difference(*gain, p_value, num_seeds)
    answer = answer_of(Comparison(arm, difference, difference, p_value), none)
    assert (answer.verdict, answer.headline) == expected
    ends = f"[{100 * gain[1]:+.2f}, {100 * gain[2]:+.2f}]"
    assert f"{100 * gain[0]:+.2f} points, 95 % interval {ends}" in answer.detail
    assert ("Another seed may turn it" in answer.detail) == (num_seeds == 1)


def test_numbers_of_the_page_are_those_of_the_reports(folder):
    text = (folder / "page.html").read_text("utf-8")
    scores = re.search(r'<table role="table" class="stack scores">.*?</table>', text, re.DOTALL)
    assert scores is not None
    found = values(scores[0])
    reports = {
        name: [json.loads((folder / f"{name}-{i}/report.json").read_text()) for i in (0, 1)]
        for name in ("none", "better", "worse")
    }
    expected = [
        100 * np.mean([report["scores"][score] for report in reports[name]])
        for name in reports
        for score in ("mAP", "rank_1", "rank_5", "rank_10", "mINP")
    ]
    rows = [found[:5], found[5:10], found[12:17]]
    assert [value for row in rows for value in row] == pytest.approx(expected, rel=1e-12)
    gain = expected[5] - expected[0]
    assert found[10] == pytest.approx(gain, rel=1e-9)
    rates = re.search(r'<table role="table" class="stack rates">.*?</table>', text, re.DOTALL)
    assert rates is not None
    assert values(rates[0]) == pytest.approx(
        [
            100 * np.mean([r["verification"]["tpr_at_fpr"][at] for r in reports[name]])
            for name in reports
            for at in ("0.0001", "0.001", "0.01")
        ],
        rel=1e-12,
    )
    curve = re.search(r"of Queries found up to a rank.*?</table>", text, re.DOTALL)
    assert curve is not None
    assert values(curve[0]) == pytest.approx(
        [
            100 * np.mean([report["cmc"][rank] for report in reports[name]])
            for rank in range(20)
            for name in reports
        ],
        rel=1e-12,
    )


def test_queries_of_the_page_are_those_of_the_tables(folder):
    data = data_of(folder / "page.html")
    arms = {
        name: [read_arm(str(folder / f"{name}-{seed}")).runs[0] for seed in (0, 1)]
        for name in ("none", "better", "worse")
    }
    assert data["queries"]["id"] == arms["none"][0].queries.tolist()
    assert data["pairs"] == [[0, 1], [0, 2]]
    for shown, runs in zip(data["arms"], arms.values(), strict=True):
        mean = np.mean([run.average_precision for run in runs], axis=0)
        np.testing.assert_allclose(shown["ap"], mean, atol=5e-7)
        assert shown["first"] == runs[0].first_rank.tolist()
        table = runs[0].table
        for query, names in enumerate(table["ranked_ids"].to_pylist()):
            ranked = shown["nearest"][10 * query : 10 * query + len(names)]
            assert [data["gallery"]["id"][image] for image in ranked] == names
            right = [bool(shown["right"][query] >> place & 1) for place in range(len(names))]
            assert right == table["ranked_matches"][query].as_py()


def test_gains_of_cameras_are_those_of_average_precisions_over_their_matches(folder):
    text = (folder / "page.html").read_text("utf-8")
    tables = re.findall(r'<table class="pairs">.*?</table>', text, re.DOTALL)
    expected = []
    for camera in (2, 3):
        of_arm = []
        for name in ("none", "better"):
            found = []
            for seed in (0, 1):
                rows = read_arm(str(folder / f"{name}-{seed}")).runs[0].table.to_pylist()
                for row in rows:
                    matches = zip(row["match_cameras"], row["match_wrong"], strict=True)
                    wrong = [count for seen, count in matches if seen == camera]
                    found.append(np.mean([(i + 1) / (i + 1 + n) for i, n in enumerate(wrong)]))
            of_arm.append(np.mean(found))
        expected.append(100 * (of_arm[1] - of_arm[0]))
    assert values(tables[0]) == pytest.approx(expected, rel=1e-9)


def test_gains_of_people_are_means_over_their_queries(folder):
    text = (folder / "page.html").read_text("utf-8")
    shown = re.findall(r'data-person="([^"]*)" data-value="([^"]*)"', text)
    data = data_of(folder / "page.html")
    people = np.array(data["queries"]["person"])
    gains = 100 * (np.array(data["arms"][1]["ap"]) - np.array(data["arms"][0]["ap"]))
    expected = {person: gains[people == person].mean() for person in people}
    most = sorted(expected, key=expected.__getitem__, reverse=True)[:8]
    assert [person for person, _ in shown[:8]] == most
    for person, value in shown[:8]:
        assert float(value) == pytest.approx(expected[person], abs=1e-4)


def test_runs_scored_without_ranked_images_say_what_is_missing(tmp_path):
    arms = write_runs(tmp_path, keeps_nearest=False)
    page = tmp_path / "page.html"
    assert compare(CompareSettings(arms=arms, html=page), QUIET) is Exit.DONE
    text = page.read_text("utf-8")
    assert "were scored before they were kept; &#39;reid score&#39; adds them" in text or (
        "were scored before they were kept; 'reid score' adds them" in text
    )
    assert "Gain by the camera of the query" in text
    assert data_of(page)["arms"][0]["nearest"] is None


def test_an_id_with_html_in_it_is_text(tmp_path):
    arms = write_runs(tmp_path, suffix=EVIL)
    page = tmp_path / "page.html"
    named = (f"{EVIL_ARM}={tmp_path}/none-*", *arms[1:])
    compare(CompareSettings(arms=named, html=page), QUIET)
    text = page.read_text("utf-8")
    assert EVIL not in text
    assert EVIL_ARM not in text
    assert EVIL_ARM in unescape(text)
    assert EVIL in data_of(page)["queries"]["person"][0]


def test_the_command_on_the_page_names_no_folder_of_the_machine(tmp_path, monkeypatch):
    arms = write_runs(tmp_path)
    page = tmp_path / "page.html"
    monkeypatch.setattr(sys, "argv", ["reid", "compare", *arms, "--html", str(page)])
    assert PROGRAM.run(["compare", *arms, "--html", str(page), "--quiet"]) is Exit.DONE
    text = unescape(page.read_text("utf-8"))
    assert "reid compare 'none=none-*' 'better=better-*' 'worse=worse-*' --html page.html" in text
    assert str(tmp_path) not in text


def write_pictures(folder: Path) -> Path:
    """Write a table and an image for every query and every gallery row but one."""
    query, gallery = made_up_labels(20, 3)
    names = [*np.asarray(query.images), *np.asarray(gallery.images)]
    (folder / "pictures").mkdir()
    for number, name in enumerate(names[1:]):
        image = np.full((16, 8, 3), number % 255, np.uint8)
        cv2.imwrite(str(folder / "pictures" / f"{name}.png"), image)
    rows = [
        {
            "image_id": name,
            "path": f"pictures/{name}.png",
            "split": "query",
            "person_id": "1",
            "camera_id": 1,
        }
        for name in sorted(names)
    ]
    table = pa.Table.from_pylist(rows, schema=IMAGES)
    write_images(Images(table, folder, {}), folder / "images.parquet")
    return folder / "images.parquet"


def test_pictures_are_linked_from_the_page_or_embedded_in_it_and_lost_ones_are_counted(tmp_path):
    arms = write_runs(tmp_path)
    images = write_pictures(tmp_path)
    (tmp_path / "pages").mkdir()
    page = tmp_path / "pages" / "page.html"
    compare(CompareSettings(arms=arms, html=page, images=images), QUIET)
    sources = data_of(page)["sources"]
    assert sources["q1_0001"] == "../pictures/q1_0001.png"
    assert "q0_0001" not in sources
    assert "1 images were not found and are blank" in page.read_text("utf-8")
    assert str(tmp_path) not in page.read_text("utf-8")
    compare(CompareSettings(arms=arms, html=page, images=images, embed_images=True), QUIET)
    sources = data_of(page)["sources"]
    assert sources["q1_0001"].startswith("data:image/png;base64,")
    assert "it shows people" in page.read_text("utf-8")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--html", "{folder}/nowhere/page.html"], "found no folder .*nowhere, expected one that"),
        (["--html", "{folder}"], "found a folder, expected the name of a file"),
        (["--embed-images"], "--embed-images: found no --html"),
        (["--html", "{folder}/p.html", "--embed-images"], "--embed-images: found no --images"),
    ],
)
def test_pages_that_cannot_be_made_are_refused_before_anything_is_read(tmp_path, flags, said):
    arguments = [flag.format(folder=tmp_path) for flag in flags]
    with pytest.raises(UserError, match=said):
        PROGRAM.run(["compare", "none=/not/there", "other=/not/there", *arguments])


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(NARROW, "dark"), (WIDE, "light"), (WIDE, "dark")])
def test_the_page_fits_its_window_and_axe_finds_nothing_serious(folder, width, scheme):
    with opened(folder / "page.html", width=width, scheme=scheme) as tab:
        assert not scrolls_sideways(tab)
        tab.focus("#query-list")
        tab.keyboard.press("ArrowDown")
        tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert not scrolls_sideways(tab)
        assert serious_violations(tab) == []


@pytest.mark.browser
def test_queries_are_filtered_opened_by_click_and_by_keyboard_and_linked(folder):
    data = data_of(folder / "page.html")
    gains = np.subtract(data["arms"][1]["ap"], data["arms"][0]["ap"])
    ids = np.array(data["queries"]["id"])
    with opened(folder / "page.html") as tab:
        tab.select_option("[name=sign]", "lost")
        assert tab.inner_text("#query-count") == f"{(gains < 0).sum()} of 60 queries"
        tab.select_option("[name=sign]", "won")
        assert tab.inner_text("#query-count") == f"{(gains > 0).sum()} of 60 queries"
        tab.click(".row >> nth=1")
        second = ids[np.argsort(-gains, kind="stable")[1]]
        assert second in tab.inner_text("#query-detail h3")
        tab.keyboard.press("ArrowUp")
        first = ids[np.argsort(-gains, kind="stable")[0]]
        assert first in tab.inner_text("#query-detail h3")
        assert tab.locator("#query-detail .right").count() > 0
        assert tab.locator("#query-detail .wrong .mark").first.inner_text().endswith("wrong")
        link = tab.evaluate("location.hash")
        tab.select_option("[name=camera]", "1")
        assert tab.inner_text("#query-count") == f"{(gains > 0).sum()} of 60 queries"
        tab.fill("[name=person]", "0002")
        assert int(tab.inner_text("#query-count").split()[0]) <= 3
    with opened(folder / "page.html", link=link) as tab:
        assert first in tab.inner_text("#query-detail h3")
        selected = tab.locator('.row[aria-selected="true"]')
        assert first in selected.inner_text()


@pytest.mark.browser
def test_rows_exist_only_where_the_list_is_scrolled_to(tmp_path):
    labels = made_up_labels(1000, 3)
    for name in ("none", "other"):
        run = tmp_path / name
        write_run(run, 0, labels=labels, keeps_nearest=name == "other", kind=name)
    page = tmp_path / "page.html"
    arms = (str(tmp_path / "none"), str(tmp_path / "other"))
    compare(CompareSettings(arms=arms, html=page), QUIET)
    with opened(page) as tab:
        assert tab.locator(".row").count() < 30
        tab.focus("#query-list")
        tab.keyboard.press("End")
        assert tab.inner_text("#query-detail h3")
        assert tab.locator(".row").last.get_attribute("aria-posinset") == "3000"
        assert tab.locator(".row").count() < 30


@pytest.mark.browser
def test_html_in_an_id_is_shown_and_not_run(tmp_path):
    write_runs(tmp_path, suffix=EVIL)
    page = tmp_path / "page.html"
    arms = (f"{EVIL_ARM}={tmp_path}/none-*", f"other={tmp_path}/better-*")
    compare(CompareSettings(arms=arms, html=page), QUIET)
    with opened(page) as tab:
        tab.focus("#query-list")
        tab.keyboard.press("ArrowDown")
        assert EVIL in tab.inner_text("#query-detail h3")
        assert tab.locator("img").count() == 0
