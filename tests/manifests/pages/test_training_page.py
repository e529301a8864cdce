"""The page of one training."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from augment.cli import PROGRAM as AUGMENT
from manifests.pages.training_page import curves, read_log
from manifests.runtime.console import Exit, UserError
from reid.cli import PROGRAM as REID
from tests.helpers.browser import NARROW, WIDE, opened, scrolls_sideways, serious_violations


def write_training(folder: Path, num_lines: int = 6) -> Path:
    """Write what 'augment train' leaves while it runs: the last line is half written."""
    (folder / "samples").mkdir(parents=True)
    lines = [
        {"step": 50 * i, "adversarial": 1 / i, "l1": 3.0, "seconds": 10.0 * i, "eta_seconds": 90.0}
        for i in range(1, num_lines + 1)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "log.jsonl").write_text(text + '{"step": 99')
    record = {"config": {"generator": "<b>patn</b>", "steps": 900}}
    (folder / "run.json").write_text(json.dumps(record))
    for step in (100, 200):
        image = Image.fromarray(np.zeros((8, 900, 3), np.uint8))
        image.save(folder / "samples" / f"step-{step:06d}.png")
    return folder


@pytest.mark.parametrize("left", ["eta_seconds", "seconds_left"])
def test_the_time_left_is_told_by_either_name_and_no_curve(tmp_path, left):
    run, page = write_training(tmp_path / "run"), tmp_path / "page.html"
    text = (run / "log.jsonl").read_text()
    (run / "log.jsonl").write_text(text.replace("eta_seconds", left))
    AUGMENT.run(["report", str(run), "--html", str(page), "--quiet"])
    assert "so far; 90 s left" in page.read_text("utf-8")
    assert [figure.title for figure in curves(read_log(run / "log.jsonl"))] == ["adversarial", "l1"]


def test_curves_hold_every_number_of_the_log_but_the_times(tmp_path):
    log = read_log(write_training(tmp_path / "run") / "log.jsonl")
    assert len(log) == 6
    found = {figure.title: figure.table for figure in curves(log)}
    assert list(found) == ["adversarial", "l1"]
    assert [row[0] for row in found["adversarial"].rows] == [
        "50",
        "100",
        "150",
        "200",
        "250",
        "300",
    ]
    assert [row[1].value for row in found["adversarial"].rows] == [1 / i for i in range(1, 7)]


def test_a_long_log_is_drawn_by_means_of_its_lines(tmp_path):
    log = read_log(write_training(tmp_path / "run", 401) / "log.jsonl")
    table = curves(log)[0].table
    assert len(table.rows) == 134
    assert table.rows[0][0] == "150"
    assert table.rows[0][1].value == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_sheets_are_linked_or_put_into_the_page(tmp_path):
    run, page = write_training(tmp_path / "run"), tmp_path / "page.html"
    assert AUGMENT.run(["report", str(run), "--html", str(page), "--quiet"]) is Exit.DONE
    text = page.read_text("utf-8")
    assert re.findall(r'<img class="wide" src="([^"]*)"', text) == [
        "run/samples/step-000200.png",
        "run/samples/step-000100.png",
    ]
    assert "<b>patn" not in text
    assert str(tmp_path) not in text
    AUGMENT.run(["report", str(run), "--html", str(page), "--embed-images", "--quiet"])
    assert page.read_text("utf-8").count('src="data:image/png;base64,') == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "holds no line yet"), ('{"loss": 3}\n', "found a line that is no log of a training")],
)
def test_a_log_without_a_line_and_another_file_are_refused(tmp_path, text, said):
    (tmp_path / "log.jsonl").write_text(text)
    with pytest.raises(UserError, match=said):
        read_log(tmp_path / "log.jsonl")


def test_a_folder_that_no_training_began_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"run\.json"):
        REID.run(["report", str(tmp_path), "--html", str(tmp_path / "page.html")])


@pytest.mark.browser
@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_the_page_fits_its_window_and_axe_finds_nothing_serious(tmp_path, width):
    run, page = write_training(tmp_path / "run"), tmp_path / "page.html"
    AUGMENT.run(["report", str(run), "--html", str(page), "--quiet"])
    with opened(page, width=width) as tab:
        tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert not scrolls_sideways(tab)
        assert serious_violations(tab) == []
