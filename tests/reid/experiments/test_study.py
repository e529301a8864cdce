from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from manifests.compute import precision
from manifests.io import read_images
from manifests.runtime.console import Console, Exit, UserError
from manifests.subset import subset_train
from reid.cli import PROGRAM
from reid.experiments.arms import CellTraining
from reid.experiments.grid import (
    Cell,
    CellScoring,
    StudySettings,
    cells_of,
    training_of,
    variants_of,
)
from reid.experiments.study import study
from reid.training.train import TrainSettings
from tests.helpers.browser import NARROW, WIDE, opened, scrolls_sideways, serious_violations
from tests.helpers.reid_people import write_people, write_synthetic

QUIET = Console(quiet=True)
SMALL = CellTraining(steps=2, batch_size=8, height=64, width=32, device="cpu", synthetic_share=0.5)


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Path:
    return write_people(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def blocks(tmp_path_factory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("synthetic") / "blocks")


def settings(people: Path, blocks: Path, out: Path, **changes: object) -> StudySettings:
    plain = StudySettings(
        images=people,
        out=out,
        fractions=(0.5, 1.0),
        synthetic_sets=(f"blocks={blocks}",),
        seeds=(0, 1),
        train=SMALL,
    )
    return plain.model_copy(update=changes)


@pytest.fixture(scope="module")
def finished(people, blocks, tmp_path_factory) -> Path:
    """Return a study of eight runs, made from the command line."""
    out = tmp_path_factory.mktemp("study")
    arguments = ["study", "--images", str(people), "--out", str(out), "--quiet"]
    grid = ["--fractions", "0.5", "1", "--seeds", "0", "1", "--synthetic-sets", f"blocks={blocks}"]
    grid += ["--train.recipe", "short"]
    common = ["--train.steps", "2", "--train.batch-size", "8", "--train.device", "cpu"]
    sizes = ["--train.height", "64", "--train.width", "32", "--train.synthetic-share", "0.5"]
    assert PROGRAM.run([*arguments, *grid, *common, *sizes]) is Exit.DONE
    return out


def files(out: Path) -> dict[Path, int]:
    found = [path for path in (out / "runs").rglob("*") if path.is_file()]
    return {path.relative_to(out): path.stat().st_mtime_ns for path in found}


def test_every_cell_of_the_grid_is_one_run_and_one_row(finished):
    rows = pq.read_table(finished / "study.parquet").to_pylist()
    grid = [
        (fraction, arm, seed)
        for seed in (0, 1)
        for fraction in (0.5, 1.0)
        for arm in ("none", "blocks")
    ]
    assert [(row["fraction"], row["arm"], row["seed"]) for row in rows] == grid
    for row in rows:
        assert (finished / row["folder"] / "report.json").is_file()
        assert row["steps"] == 2
        assert row["num_real"] == (12 if row["fraction"] == 0.5 else 24)
        assert row["num_synthetic"] == (0 if row["arm"] == "none" else 12)
        assert row["seen_synthetic"] == (0 if row["arm"] == "none" else 2 * 4)
        assert row["num_queries"] == row["num_matched"] == 4 * 2
        assert 0 < row["mAP"] <= 1
    assert rows[0]["folder"] == "runs/f0.5/none/seed-0"
    assert len({row["mAP"] for row in rows}) > 1


def test_the_tables_hold_every_fraction_against_none_and_say_where_the_images_are_from(
    people, finished
):
    text = (finished / "study.md").read_text()
    assert text.startswith("# Study: 2 seeds, 2 steps for every run\n")
    assert "corrected together, for 2 comparisons (Holm)" in text
    assert text.count("standard deviation over seeds 0, 1. ") == 1
    assert text.count("TWO SEEDS") == 1
    assert "too little to tell: two seeds, trained for 2 steps" in text
    assert text.count("| none ") == text.count("| blocks ") == 2
    assert "## 50% of the real train images (12)" in text
    assert "## 100% of the real train images (24)" in text
    assert "- blocks: 0 of 12 synthetic images have a source, pose or background outside" in text
    at_half = text[text.index("## 50%") : text.index("## 100%")]
    kept = set(subset_train(read_images(people), 0.5, 0).strings("image_id"))
    # Two images of each of the six people, from his first frame on the first camera.
    outside = 2 * sum(f"{person:04d}_c1_train_0.jpg" not in kept for person in range(1, 7))
    assert outside > 0
    rows = pq.read_table(finished / "study.parquet").to_pylist()
    assert [row["num_from_outside"] for row in rows[:4]] == [None, outside, None, 0]
    assert f"- blocks: {outside} of 12 synthetic images have a source" in at_half
    assert "Near-duplicates between train and gallery: 0 pairs." in text


def test_near_duplicates_are_told_whichever_run_looked_for_them(people, blocks, finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    seeds = [tmp_path / "runs" / "f0.5" / "none" / f"seed-{seed}" for seed in (0, 1)]
    first, second = (json.loads((folder / "report.json").read_text()) for folder in seeds)
    found = first["leakage"].pop("near_duplicates")
    second["leakage"]["near_duplicates"] = found | {"num_pairs": 7}
    for folder, report in zip(seeds, (first, second), strict=True):
        (folder / "report.json").write_text(json.dumps(report))
    study(settings(people, blocks, tmp_path), QUIET)
    assert "train and gallery: 7 pairs." in (tmp_path / "study.md").read_text()


@pytest.fixture(scope="module")
def written(people, blocks, finished, tmp_path_factory) -> tuple[Path, Path]:
    """Return the page of the finished study, and its table as CSV."""
    folder = tmp_path_factory.mktemp("page")
    page, table = folder / "page.html", folder / "study.csv"
    chosen = settings(people, blocks, finished, tables_only=True, html=page, csv=table)
    recipe = {"train": CellTraining(**SMALL.model_dump() | {"recipe": "short"})}
    assert study(chosen.model_copy(update=recipe), QUIET) is Exit.DONE
    return page, table


def test_the_page_of_a_study_has_a_section_per_fraction_and_the_curve_over_them(finished, written):
    page, table = written
    text = page.read_text("utf-8")
    for number, title in enumerate(("50% of the real images", "100% of the real images")):
        assert f'<li><a href="#group-{number}">{title}</a></li>' in text
        assert f'<section id="group-{number}">' in text
    curve = re.search(r"of mAP by the part of real images.*?</table>", text, re.DOTALL)
    assert curve is not None
    shown = [float(value) for value in re.findall(r'data-value="([^"]*)"', curve[0])]
    rows = pq.read_table(finished / "study.parquet").to_pylist()
    expected = [
        100 * np.mean([r["mAP"] for r in rows if (r["fraction"], r["arm"]) == (fraction, arm)])
        for fraction in (0.5, 1.0)
        for arm in ("none", "blocks")
    ]
    assert shown == pytest.approx(expected, rel=1e-9)
    assert "Similarities by blocks" in text
    assert text.count("TWO SEEDS") == text.count("standard deviation over seeds 0, 1. ") == 1
    assert len(re.findall("<p>At 50%, blocks: .* synthetic images have a source", text)) == 1
    with table.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [(row["fraction"], row["arm"]) for row in found] == [
        ("50%", "none"), ("50%", "blocks"), ("100%", "none"), ("100%", "blocks")
    ]  # fmt: skip
    assert [float(row["mAP"]) for row in found] == pytest.approx(expected, rel=1e-12)


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(NARROW, "light"), (WIDE, "dark")])
def test_the_page_of_a_study_fits_its_window_and_leads_to_the_queries_of_each_fraction(
    written, width, scheme
):
    with opened(written[0], width=width, scheme=scheme) as tab:
        assert not scrolls_sideways(tab)
        tab.click('nav a[href="#group-1"]')
        assert tab.evaluate("scrollY") > 0
        options = tab.locator("[name=pair] option").all_inner_texts()
        assert options == [f"{part}% of the real images: blocks" for part in (50, 100)]
        tab.select_option("[name=pair]", "1")
        tab.focus("#query-list")
        tab.keyboard.press("ArrowDown")
        assert "pair=1" in tab.evaluate("location.hash")
        # The numbers under the figures are looked at on the page of a comparison.
        assert serious_violations(tab) == []
        tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert not scrolls_sideways(tab)


def test_a_finished_study_is_left_alone_and_shows_its_tables(people, blocks, finished, capsys):
    before = files(finished)
    assert study(settings(people, blocks, finished), QUIET) is Exit.DONE
    assert files(finished) == before
    assert capsys.readouterr().out == (finished / "study.md").read_text()


def test_cells_of_other_settings_are_refused_before_anything_is_trained(people, blocks, finished):
    before = files(finished)
    other = SMALL.model_copy(update={"batch_size": 4})
    with pytest.raises(UserError, match=r"seed-0: belongs to another run \(batch_size: 8, now 4"):
        study(settings(people, blocks, finished, seeds=(2, 0), train=other), QUIET)
    assert files(finished) == before


def test_other_settings_of_scoring_score_again_and_train_nothing(people, blocks, tmp_path):
    grid = {"fractions": (1.0,), "seeds": (0,), "controls": ("repeated-real",)}
    plan = settings(people, blocks, tmp_path, **grid)
    study(plan, QUIET)
    before = files(tmp_path)
    rows = pq.read_table(tmp_path / "study.parquet").to_pylist()
    assert [row["arm"] for row in rows] == ["none", "blocks", "repeated-real"]
    assert [row["seen_synthetic"] for row in rows] == [0, 2 * 4, 0]
    flipped = plan.model_copy(update={"score": CellScoring(flip_test=True)})
    with pytest.raises(UserError, match=r"belongs to another run \(flip_test: False, now True"):
        study(flipped.model_copy(update={"tables_only": True}), QUIET)
    assert study(flipped, QUIET) is Exit.DONE
    after = files(tmp_path)
    weights = [path for path in before if path.name == "last.safetensors"]
    assert len(weights) == 3
    assert all(after[path] == before[path] for path in weights)
    assert "flip test" in (tmp_path / "study.md").read_text()


def test_workers_share_the_cells_and_the_last_one_makes_the_table(
    people, blocks, finished, tmp_path, monkeypatch
):
    plan = settings(people, blocks, tmp_path, seeds=(0,), fractions=(1.0,))
    # As processes that share out cells are numbered; they are no group that trains one network.
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert study(plan, QUIET) is Exit.DONE
    assert not (tmp_path / "study.md").exists()
    assert [path.name for path in (tmp_path / "runs" / "f1").iterdir()] == ["blocks"]
    monkeypatch.setenv("RANK", "0")
    assert study(plan, QUIET) is Exit.DONE
    assert "ONE SEED" in (tmp_path / "study.md").read_text()
    for arm in ("none", "blocks"):
        name = Path("runs", "f1", arm, "seed-0", "last.safetensors")
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("first_has_bf16", [True, False])
def test_machines_of_two_kinds_compute_the_runs_of_a_study_alike(
    people, blocks, tmp_path, monkeypatch, first_has_bf16
):
    small = {"fractions": (1.0,), "seeds": (0,)}
    for worker, has_bf16 in enumerate((first_has_bf16, not first_has_bf16)):
        monkeypatch.setattr(precision, "has_bf16", lambda _device, found=has_bf16: found)
        mine = settings(people, blocks, tmp_path / "study", **small, worker=f"{worker}/2")
        assert study(mine, QUIET) is Exit.DONE
    records = sorted((tmp_path / "study").rglob("run.json"))
    found = [json.loads(path.read_text())["config"]["precision"] for path in records]
    assert found == ["bf16" if first_has_bf16 else "float32"] * 2
    assert (tmp_path / "study" / "study.md").is_file()


def test_a_killed_study_goes_on_and_ends_in_the_weights_of_a_straight_one(
    people, blocks, finished, tmp_path
):
    plan = settings(people, blocks, tmp_path / "killed")
    program = (
        "import sys; from manifests.runtime.console import Console;"
        "from reid.experiments.grid import StudySettings;"
        "from reid.experiments.study import study;"
        "study(StudySettings.from_json(sys.argv[1]), Console(quiet=True))"
    )
    root = Path(__file__).resolve().parents[3]
    process = subprocess.Popen(
        [sys.executable, "-c", program, plan.to_json()],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    first = plan.out / "runs" / "f0.5" / "none" / "seed-0" / "report.json"
    while not first.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (plan.out / "study.md").exists()
    written = first.stat().st_mtime_ns
    assert study(plan, QUIET) is Exit.DONE
    assert first.stat().st_mtime_ns == written
    assert (plan.out / "study.md").read_text() == (finished / "study.md").read_text()
    weights = sorted((finished / "runs").rglob("last.safetensors"))
    assert len(weights) == 8
    for path in weights:
        assert (plan.out / path.relative_to(finished)).read_bytes() == path.read_bytes()


def test_a_failed_cell_is_told_and_the_others_are_made(people, blocks, tmp_path, capsys):
    lost = tmp_path / "lost"
    for path in sorted(blocks.rglob("*")):
        if path.is_file() and path.parent.name != "data":
            copy = lost / path.relative_to(blocks)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    plan = settings(people, lost, tmp_path / "out", fractions=(1.0,), seeds=(0,))
    assert study(plan, Console()) is Exit.ROW_ERRORS
    said = capsys.readouterr().err
    assert "run runs/f1/blocks/seed-0 failed" in said
    assert "1 of 2 runs failed" in said
    assert (plan.out / "runs" / "f1" / "none" / "seed-0" / "report.json").is_file()


def test_a_set_is_taken_for_its_fraction_and_the_baseline_has_no_share(people, tmp_path):
    plan = settings(people, Path("syn-{fraction}"), tmp_path)
    none, made = variants_of(plan)
    cell = training_of(plan, Cell(0.5, made, 3))
    assert (cell.synthetic, cell.synthetic_share) == (Path("syn-0.5"), 0.5)
    assert (cell.real_fraction, cell.seed) == (0.5, 3)
    assert cell.out == tmp_path / "runs" / "f0.5" / "blocks" / "seed-3"
    cell = training_of(plan, Cell(1.0, none, 0))
    assert (cell.synthetic, cell.synthetic_share) == (None, None)
    assert type(cell) is TrainSettings


def test_one_camera_is_refused_before_anything_is_trained_unless_scored_by_its_protocol(
    blocks, tmp_path
):
    people = write_people(tmp_path / "people", cameras=1)
    plan = settings(people, blocks, tmp_path / "out")
    with pytest.raises(UserError, match=r"none of 4 queries .*\(--protocol all-cameras is for"):
        study(plan, QUIET)
    assert not plan.out.exists()
    own = plan.model_copy(update={"score": CellScoring(protocol="all-cameras")})
    assert training_of(own, cells_of(own)[0]).protocol == "all-cameras"


def test_equal_epochs_over_the_real_images_give_each_cell_its_steps(people, blocks, tmp_path):
    plan = settings(people, blocks, tmp_path, budget="epochs", epochs=4)
    steps = [training_of(plan, cell).steps for cell in cells_of(plan)[:4]]
    # 12 and 24 real images; 8 of them in a batch, or 4 beside 4 synthetic ones.
    assert steps == [6, 12, 12, 24]
    # Two people with two real and two synthetic images each: 0.4 of four images, not of eight.
    whole = {"train_sampler": "identity", "synthetic_share": 0.4}
    people_wise = plan.model_copy(update={"train": SMALL.model_copy(update=whole)})
    assert training_of(people_wise, cells_of(plan)[3]).steps == 24


def test_controls_replace_the_first_set(people, blocks, tmp_path):
    plan = settings(people, blocks, tmp_path, controls=("repeated-real",))
    names = [(variant.name, variant.control) for variant in variants_of(plan)]
    assert names == [("none", None), ("blocks", None), ("repeated-real", "repeated-real")]
    with pytest.raises(UserError, match="found no synthetic set that it could replace"):
        variants_of(plan.model_copy(update={"synthetic_sets": ()}))
    cell = training_of(plan, Cell(1.0, variants_of(plan)[2], 0))
    assert cell.model_dump()["control"] == "repeated-real"
    assert cell.synthetic == blocks


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": (0, 0)}, r"--seeds: found \[0, 0\], expected at least one, each once"),
        ({"fractions": ()}, r"--fractions: found \[\]"),
        ({"synthetic_sets": ("a=x", "a=y")}, "arm 'a' is named twice"),
        ({"synthetic_sets": ("none=x",)}, "arm 'none' is named twice"),
        ({"synthetic_sets": ("a/b=x",)}, "expected NAME=FOLDER"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(people, blocks, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        cells_of(settings(people, blocks, tmp_path, **changes))
