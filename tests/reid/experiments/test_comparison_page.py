"""The page of a comparison: what stands on it, and how it behaves in a browser."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from html import unescape
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests.compute.statistics import Difference, paired_difference
from manifests.io import Images, write_images
from manifests.runtime.console import Console, Exit, UserError
from manifests.schema import IMAGES
from reid.cli import PROGRAM
from reid.experiments.compare import CompareSettings, compare
from reid.experiments.comparison import Comparison, read_arm
from reid.experiments.comparison_page import answer_of
from tests.helpers.browser import NARROW, WIDE, opened, scrolls_sideways, serious_violations
from tests.helpers.pages import data_of, heads_under, rows_under, values
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


@pytest.mark.parametrize(
    ("gain", "num_seeds", "p_value", "expected"),
    [
        ((0.02, 0.01, 0.03), 3, 0.01, ("better", "patn is better than none")),
        ((-0.02, -0.03, -0.01), 3, 0.01, ("worse", "patn is worse than none")),
        ((0.02, -0.01, 0.05), 3, 0.4, ("undecided", "patn cannot be told from none")),
        ((0.02, 0.001, 0.05), 3, 0.06, ("undecided", "patn cannot be told from none")),
        ((0.02, 0.01, 0.03), 1, 0.01, ("better", "patn is better than none for this one seed")),
        ((0.02, 0.01, 0.03), 2, 0.01, ("better", "patn is better than none for these two seeds")),
        ((0.02, -0.01, 0.05), 1, 0.4, ("too little", "Too little to tell patn from none")),
        ((0.02, 0.001, 0.05), 2, 0.06, ("too little", "Too little to tell patn from none")),
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
    assert ("That is of " in answer.detail) == (answer.verdict == "too little")


def test_few_seeds_are_said_once_below_the_answers(tmp_path):
    arms = tuple(str(write_run(tmp_path / name, 0, kind=name)) for name in ("a", "b"))
    page = tmp_path / "page.html"
    compare(CompareSettings(arms=arms, html=page), QUIET)
    text = page.read_text("utf-8")
    answers = text[text.index('<ul class="answer">') : text.index("<nav")]
    assert '<p class="warning">ONE SEED: ' in answers
    assert text.count("ONE SEED") == 1


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


def tables(folder: Path, name: str) -> list[list[dict]]:
    """Return the rows of queries.parquet, by image, for both seeds."""
    found = [pq.read_table(folder / f"{name}-{seed}/queries.parquet") for seed in (0, 1)]
    return [table.sort_by("image_id").to_pylist() for table in found]


def column(folder: Path, name: str, key: str) -> np.ndarray:
    """Return one column for both seeds: seeds x queries."""
    return np.array([[row[key] for row in rows] for rows in tables(folder, name)], np.float64)


def test_gains_and_their_intervals_are_those_of_the_queries(folder):
    text = (folder / "page.html").read_text("utf-8")
    people = np.array([row["person_id"] for row in tables(folder, "none")[0]])
    for title, of in (
        ("Gain in mAP over none", lambda name: column(folder, name, "average_precision")),
        ("Gain in rank-1 over none", lambda name: column(folder, name, "first_rank") == 1),
    ):
        expected = []
        for name in ("better", "worse"):
            left, right = (of(one).astype(np.float64) for one in ("none", name))
            found = paired_difference(left, right, people, same_seeds=True)
            assert found.mean == pytest.approx(right.mean() - left.mean(), abs=1e-12)
            expected.append([100 * found.mean, 100 * found.low, 100 * found.high])
        np.testing.assert_allclose(rows_under(text, title), expected, rtol=1e-9)


def test_gains_by_the_number_of_matches_are_those_of_these_queries(folder):
    text = (folder / "page.html").read_text("utf-8")
    title = "Gain by the number of real images to be found"
    # All 60 queries have the same number of matches: three images on each of two cameras.
    assert set(column(folder, "none", "num_matches").ravel()) == {6}
    assert heads_under(text, title) == ["6 to 10 (60)"]
    (row,) = rows_under(text, title)
    gain = column(folder, "better", "average_precision") - column(
        folder, "none", "average_precision"
    )
    assert row[0] == pytest.approx(100 * gain.mean(), rel=1e-9)


def test_the_histogram_of_people_holds_everybody_where_his_gain_is(folder):
    text = (folder / "page.html").read_text("utf-8")
    people = np.array([row["person_id"] for row in tables(folder, "none")[0]])
    gain = column(folder, "better", "average_precision").mean(axis=0)
    gain -= column(folder, "none", "average_precision").mean(axis=0)
    gains = [100 * gain[people == person].mean() for person in sorted(set(people))]
    reach = 5 * np.ceil(np.abs(gains).max() / 5)
    counts, edges = np.histogram(gains, bins=40, range=(-reach, reach))
    title = "Gain per person"
    assert [row[0] for row in rows_under(text, title)] == counts[counts > 0].tolist()
    starts = [float(head) for head in heads_under(text, title)]
    np.testing.assert_allclose(starts, edges[:-1][counts > 0], rtol=1e-3)


def test_curves_and_similarities_of_pairs_are_those_of_the_reports(folder):
    text = (folder / "page.html").read_text("utf-8")
    blocks = {
        name: [
            json.loads((folder / f"{name}-{seed}/report.json").read_text())["verification"]
            for seed in (0, 1)
        ]
        for name in ("none", "better", "worse")
    }
    rates = [np.mean([one["roc"]["tpr"] for one in of], axis=0) for of in blocks.values()]
    shown = rows_under(text, "Telling pairs apart (ROC)")
    np.testing.assert_allclose(shown, 100 * np.transpose(rates), rtol=1e-12)
    for name, both in blocks.items():
        same, other = (
            np.sum([one[kind] for one in both], axis=0) for kind in ("positives", "negatives")
        )
        shares = np.stack([100 * same / same.sum(), 100 * other / other.sum()], axis=1)
        found = rows_under(text, f"Similarities by {name}")
        np.testing.assert_allclose(found, shares[shares.any(axis=1)], rtol=1e-12)


def test_the_sentence_of_the_answer_says_the_numbers_of_the_table(folder):
    text = unescape((folder / "page.html").read_text("utf-8"))
    said = re.findall(r'<li class="(\w+)"><strong>(.*?)</strong> (.*?)</li>', text)
    scores = {
        name: 100 * column(folder, name, "average_precision").mean()
        for name in ("none", "better", "worse")
    }
    rows = rows_under(text, "Gain in mAP over none"), rows_under(text, "Gain in rank-1 over none")
    assert [verdict for verdict, _, _ in said] == ["better", "worse"]
    for (name, _, detail), gain, first in zip(said, *rows, strict=True):
        assert detail == (
            f"mAP goes from {scores['none']:.2f} to {scores[name]:.2f}: {gain[0]:+.2f} points, "
            f"95 % interval [{gain[1]:+.2f}, {gain[2]:+.2f}]; rank-1 {first[0]:+.2f} "
            f"[{first[1]:+.2f}, {first[2]:+.2f}]."
        )


def test_provenance_holds_digests_seeds_and_the_protocol_of_the_reports(folder):
    text = unescape((folder / "page.html").read_text("utf-8"))
    runs = text[text.index("<summary>Runs</summary>") :]
    for name in ("none", "better", "worse"):
        for seed in (0, 1):
            run = folder / f"{name}-{seed}"
            digest = hashlib.sha256((run / "queries.parquet").read_bytes()).hexdigest()
            row = re.search(rf'scope="row"[^>]*>{run.name}</th>.*?</tr>', runs, re.DOTALL)
            assert row is not None
            assert f'data-head="seed">{seed}</td>' in row[0]
            assert digest in row[0]
            protocol = json.loads((run / "report.json").read_text())["protocol"]
    for part in ("query", "gallery"):
        assert f"{part} num images</th><td>{protocol[part]['num_images']}</td>" in runs
        assert protocol[part]["sha256_of_labels"] in runs


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
def test_what_the_keyboard_opens_says_the_numbers_of_the_tables(folder):
    base, other = tables(folder, "none"), tables(folder, "better")
    row_of = {row["image_id"]: place for place, row in enumerate(base[0])}
    with opened(folder / "page.html") as tab:
        tab.select_option("[name=order]", "name")
        tab.focus("#query-list")
        seen = set()
        for _ in range(0, 60, 10):
            tab.keyboard.press("PageDown")
            name = tab.inner_text("#query-detail h3").partition(":")[0]
            seen.add(name)
            parts = tab.locator("#query-detail section").all()
            for part, runs in zip(parts, (base, other), strict=True):
                mean = np.mean([rows[row_of[name]]["average_precision"] for rows in runs])
                row = runs[0][row_of[name]]
                assert part.locator("h4").inner_text().partition(": ")[2] == (
                    f"AP {100 * mean:.1f} over 2 seeds; with seed 0, first match at rank "
                    f"{row['first_rank']}"
                )
                tiles = part.locator(".tile").all()
                assert [tile.get_attribute("title") for tile in tiles] == row["ranked_ids"]
                right = [tile.locator(".right").count() == 1 for tile in tiles]
                assert right == row["ranked_matches"]
                people = [tile.inner_text().splitlines()[-2:] for tile in tiles]
                assert people == [
                    [f"{place}. {person}", f"camera {camera}"]
                    for place, (person, camera) in enumerate(
                        zip(row["ranked_people"], row["ranked_cameras"], strict=True), 1
                    )
                ]
        assert len(seen) == 6


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
