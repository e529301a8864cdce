"""Arms of a study that are flags of ``reid train``."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from manifests.runtime.console import Console, Exit, UserError
from reid.experiments.arms import CellTraining, arm_training
from reid.experiments.grid import Cell, StudySettings, cells_of, training_of, variants_of
from reid.experiments.study import study
from tests.helpers.reid_people import write_people

QUIET = Console(quiet=True)
SMALL = CellTraining(steps=2, batch_size=8, height=64, width=32, device="cpu", synthetic_added=4)
PLAN = StudySettings(images=Path("i"), out=Path("o"), train=SMALL)
SCENES = "scenes=--scene-added 3"


def plan(**changes: object) -> StudySettings:
    return PLAN.model_copy(update=changes)


def test_an_arm_has_its_flags_and_else_what_all_arms_share():
    common = CellTraining(recipe="bot", batch_size=32)
    flags = "--augmentation.scene 0.5 --learning-rate=1e-4 --milestones 0.25 0.5"
    found = arm_training("a", flags, common)
    assert (found.augmentation.scene, found.learning_rate) == (0.5, 1e-4)
    assert found.milestones == (0.25, 0.5)
    assert (found.augmentation.pad, found.batch_size, found.recipe) == (10, 32, "bot")
    same = {"learning_rate", "milestones", "augmentation"}
    assert found.model_dump(exclude=same) == common.model_dump(exclude=same)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--seed 3", "found --seed, which is the same for all arms; expected --seeds of 'reid st"),
        ("--images=x", "found --images, which is .* expected --images of 'reid study'"),
        ("--synthetic-mix add", "found --synthetic-mix, .*; expected --train.synthetic-mix of"),
        ("--real_fraction 0.5", "found --real_fraction, .*; expected --fractions of"),
        ("--no-score", "found --no-score, .*; expected --score.NAME of"),
        ("--flip-test", "found --flip-test, .*; expected --score.flip-test of"),
        ("--recipe bot", "found --recipe, .*; expected --train.recipe of"),
        (
            "--scene-adedd 3",
            "found --scene-adedd, 3, expected what 'reid train --help' lists, perhaps",
        ),
        ("--scene-added many", "--scene-added: .*found 'many'"),
        ("--augmentation.scene 2", r"setting 'augmentation\.scene': .* equal to 1, found 2"),
        ("scene", "found scene, expected what"),
        ("--help", "found --help, expected flags that 'reid train --help' lists"),
        ("--quiet", "found flags of output, expected them after 'reid study'"),
        ("--neck 'bn", r"found '--neck 'bn' \(No closing quotation\)"),
        (
            "--control repeated-real",
            "found --control repeated-real, which replaces synthetic images; expected --controls ",
        ),
    ],
)
def test_what_no_arm_can_have_is_refused_with_what_to_say_instead(flags, message):
    with pytest.raises(UserError, match=f"^--arms a: {message}"):
        variants_of(plan(arms=(f"a={flags}",)))


def test_an_arm_without_flags_or_with_the_name_of_another_is_refused():
    with pytest.raises(UserError, match="--arms: found 'a=', expected NAME='FLAGS' with a name"):
        variants_of(plan(arms=("a=",)))
    with pytest.raises(UserError, match="--arms: found '--scene-added 3', expected NAME='FLAGS'"):
        variants_of(plan(arms=("--scene-added 3",)))
    with pytest.raises(UserError, match="arm 'scenes' is named twice"):
        variants_of(plan(arms=(SCENES, SCENES)))


def test_added_real_takes_the_place_of_the_first_arm_that_adds_images():
    arms = ("swapped=--augmentation.scene 0.5", SCENES, "more=--scene-added 5")
    grid = plan(arms=arms, controls=("added-real",))
    variants = variants_of(grid)
    assert [variant.name for variant in variants] == [
        "none", "swapped", "scenes", "more", "added-real"
    ]  # fmt: skip
    found = [training_of(grid, Cell(1.0, variant, 0)) for variant in variants]
    counts = [(cell.scene_added, cell.augmentation.scene, cell.control) for cell in found]
    assert counts == [
        (0, 0.0, "none"), (0, 0.5, "none"), (3, 0.0, "none"), (5, 0.0, "none"),
        (3, 0.0, "added-real"),
    ]  # fmt: skip
    with pytest.raises(UserError, match="--controls added-real: found no arm that adds images"):
        variants_of(plan(arms=arms[:1], controls=("added-real",)))
    added = SMALL.model_copy(update={"synthetic_mix": "add"})
    both = plan(arms=arms, controls=("added-real",), synthetic_sets=("s=x",), train=added)
    cell = training_of(both, Cell(1.0, variants_of(both)[-1], 0))
    assert (cell.synthetic, cell.synthetic_mix, cell.scene_added) == (Path("x"), "add", 0)


@pytest.mark.parametrize(
    ("controls", "train", "expected"),
    [
        ((), {}, "add"),
        (("added-real",), {}, "add"),
        (("repeated-real",), {}, "replace"),
        ((), {"synthetic_share": 0.25}, "replace"),
        ((), {"synthetic_mix": "replace"}, "replace"),
    ],
)
def test_all_arms_of_sets_and_their_controls_are_mixed_in_alike(controls, train, expected):
    grid = plan(synthetic_sets=("s=x",), controls=controls, train=SMALL.model_copy(update=train))
    baseline, *others = (training_of(grid, Cell(1.0, arm, 0)) for arm in variants_of(grid))
    assert baseline.synthetic_mix == "replace"
    assert {cell.synthetic_mix for cell in others} == {expected}


def test_an_arm_may_have_a_set_of_its_fraction_and_streets_and_a_control_adds_as_many_real_images():
    grid = plan(
        arms=("both=--synthetic made-{fraction} --scene-added 3",), controls=("added-real",)
    )
    _, *arms = variants_of(grid)
    both, control = (training_of(grid, Cell(0.2, arm, 0)) for arm in arms)
    for cell in (both, control):
        assert cell.synthetic == Path("made-0.2")
        assert (cell.synthetic_mix, cell.synthetic_added, cell.scene_added) == ("add", 4, 3)
    assert (both.control, control.control) == ("none", "added-real")


def test_an_arm_that_is_not_there_is_none_to_be_held_against():
    with pytest.raises(
        UserError, match="--against: found 'scens', expected one of the arms scenes; did you mean"
    ):
        variants_of(plan(arms=(SCENES,), against="scens"))
    with pytest.raises(UserError, match="--against: found 'none', expected one of the arms scenes"):
        cells_of(plan(arms=(SCENES,), against="none"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> StudySettings:
    """Return a finished study of two arms of flags, one of them held against the other."""
    folder = tmp_path_factory.mktemp("study")
    settings = plan(
        images=write_people(folder / "people"),
        out=folder / "out",
        fractions=(1.0,),
        seeds=(0, 1),
        arms=("slow=--learning-rate 1e-5", "added=--control added-real"),
        against="added",
    )
    assert study(settings, QUIET) is Exit.DONE
    return settings


def test_the_tables_hold_every_arm_against_none_and_against_the_named_one(finished):
    rows = pq.read_table(finished.out / "study.parquet").to_pylist()
    assert [(row["arm"], row["flags"]) for row in rows[:3]] == [
        ("none", None), ("slow", "--learning-rate 1e-5"), ("added", "--control added-real")
    ]  # fmt: skip
    text = (finished.out / "study.md").read_text()
    assert "corrected together, for 3 comparisons (Holm)" in text
    first, second = text.split("### Against added, a control of real images\n")
    assert [line.split()[1] for line in first.splitlines() if line.startswith("| ")] == [
        "arm", "none", "slow", "added"
    ]  # fmt: skip
    assert "learning_rate: 0.002, now 1e-05." in first
    assert "Trained differently in: control: 'none', now 'added-real'." in first
    listed = [line.split()[1] for line in second.splitlines() if line.startswith("| ")]
    assert listed == ["arm", "added", "slow"]
    assert "- slow: reid train --learning-rate 1e-5.\n" in second
    assert "synthetic images" not in text


def test_the_tables_are_written_again_from_reports_alone(finished, tmp_path):
    for report in finished.out.rglob("report.json"):
        copy = tmp_path / report.parent.relative_to(finished.out)
        copy.mkdir(parents=True)
        for name in ("report.json", "queries.parquet"):
            shutil.copy(report.parent / name, copy)
    alone = finished.model_copy(
        update={"out": tmp_path, "images": tmp_path / "nowhere", "tables_only": True}
    )
    assert study(alone, QUIET) is Exit.DONE
    for name in ("study.md", "study.parquet"):
        assert (tmp_path / name).read_bytes() == (finished.out / name).read_bytes()
    other = alone.model_copy(update={"arms": ("slow=--learning-rate 1e-4", alone.arms[1])})
    with pytest.raises(UserError, match=r"slow/seed-0: belongs to another run \(learning_rate: 1e"):
        study(other, QUIET)
    with pytest.raises(UserError, match=r"seed-2 holds no report\.json"):
        study(alone.model_copy(update={"seeds": (0, 1, 2)}), QUIET)


def test_an_arm_that_needs_masks_is_refused_before_another_one_is_trained(finished, tmp_path):
    grid = finished.model_copy(update={"out": tmp_path / "out", "arms": (SCENES,), "against": None})
    with pytest.raises(
        UserError, match="found 0 of 24 train images with a mask, expected at least"
    ):
        study(grid, QUIET)
    assert not grid.out.exists()
