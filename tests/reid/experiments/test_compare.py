from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy import stats

from manifests.compute.statistics import Difference
from manifests.runtime.console import Console, Exit, UserError
from reid.cli import PROGRAM
from reid.evaluation.report import read_scored
from reid.experiments.compare import CompareSettings, compare
from reid.experiments.comparison import (
    Comparison,
    cautions,
    check_alike,
    compare_arms,
    compare_families,
    markdown,
    read_arm,
)
from reid.models import torchreid_adapter
from reid.models.features import Embedder, embed, load_network
from reid.models.network import ReidNetwork
from reid.models.run_folder import read_run, write_json
from tests.helpers.reid_people import write_people
from tests.helpers.scored_runs import write_first_ranks, write_run

QUIET = Console(quiet=True)
# Percentage points: the ends of an interval are quantiles of 5,000 resamples.
RESAMPLING = 0.5
GENERATED = {"eta": 0.5, "generated": {"generator": "patn", "manifest_sha256": "1a2b3c4d" * 8}}
COPIES = {"eta": 0.5, "copies": 8, "copies_for": GENERATED["generated"]}


def test_compare_tells_a_clear_gain_from_none(tmp_path, capsys):
    for seed in range(3):
        write_run(tmp_path / f"none-{seed}", seed)
        write_run(tmp_path / f"same-{seed}", seed, kind="same")
        write_run(tmp_path / f"gain-{seed}", seed, 0.3, kind="gain")
    table = tmp_path / "table.md"
    patterns = tuple(f"{name}={tmp_path}/{name}-*" for name in ("none", "same", "gain"))
    assert compare(CompareSettings(arms=patterns, markdown=table), QUIET) is Exit.DONE
    text = capsys.readouterr().out
    assert text == table.read_text()
    assert "- same: mAP +0.00 [+0.00, +0.00], rank-1 +0.00 [+0.00, +0.00]: compatible" in text
    assert "better than none" in text
    assert "ONE SEED" not in text
    assert text.count("standard deviation over seeds 0, 1, 2. 60 queries") == 1
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["none", "same", "gain"]


def test_a_comparison_names_the_command_of_its_page_unless_it_wrote_one(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for seed in range(2):
        write_run(tmp_path / f"none-{seed}", seed)
        write_run(tmp_path / f"gain-{seed}", seed, 0.3, kind="gain")
    compare(CompareSettings(arms=("none=none-*", "a gain=gain-*")), Console())
    last = capsys.readouterr().err.splitlines()[-1]
    expected = "reid compare 'none=none-*' 'a gain=gain-*' --html page.html"
    assert last == f"to look at it: {expected}"
    assert PROGRAM.run(shlex.split(expected)[1:]) is Exit.DONE
    assert (tmp_path / "page.html").is_file()
    assert "to look at it" not in capsys.readouterr().err


def test_arms_of_other_seeds_are_told_by_name(tmp_path):
    arms = [
        read_arm(f"{name}={write_run(tmp_path / name, seed, kind=name)}")
        for name, seed in (("none", 3), ("patn", 7))
    ]
    text = markdown(arms[0], compare_arms(arms[0], arms[1:]))
    assert "Percent, of seeds 3 (none), 7 (patn). " in text


def test_p_values_of_several_families_are_corrected_together(tmp_path):
    none = read_arm(str(write_run(tmp_path / "none", 0)))
    gain = read_arm(str(write_run(tmp_path / "gain", 0, 0.3, kind="gain")))
    (alone,) = compare_arms(none, [gain])
    families = compare_families([(none, [gain]), (none, [gain, gain])])
    assert [len(family) for family in families] == [1, 2]
    assert families[0][0].p_value == pytest.approx(3 * alone.p_value)
    assert families[0][0].mean_average_precision == alone.mean_average_precision


@pytest.mark.parametrize(
    ("p_value", "said"),
    [
        (0.049, "mAP +2.00 [+0.10, +4.00], rank-1 +2.00 [+0.10, +4.00]: better than none. "),
        (0.051, "better than none if it were the only arm, compatible with no effect among so"),
    ],
)
def test_a_gain_that_the_correction_takes_back_is_no_gain(tmp_path, p_value, said):
    none, arm = (read_arm(str(write_run(tmp_path / name, 0))) for name in ("none", "patn"))
    gain = Difference(0.02, 0.001, 0.04, 0.03, num_seeds=3)
    assert said in markdown(none, [Comparison(arm, gain, gain, p_value)])


@pytest.mark.parametrize(
    ("num_seeds", "steps", "low", "said"),
    [
        (2, 30, 0.01, "too little to tell: two seeds, trained for 30 steps. "),
        (1, 3000, -0.01, "too little to tell: one seed. "),
        (2, 3000, -0.01, "too little to tell: two seeds. "),
        (2, 3000, 0.01, "better than none for these two seeds. "),
        (3, 30, 0.01, "better than none. "),
        (3, 3000, -0.01, "compatible with no effect. "),
    ],
)
def test_few_seeds_and_hardly_any_training_are_too_little_to_tell(
    tmp_path, num_seeds, steps, low, said
):
    none, arm = (
        read_arm(str(write_run(tmp_path / name, 0, steps=steps))) for name in ("none", "patn")
    )
    gain = Difference(0.02, low, 0.03, 0.01, num_seeds)
    assert said in markdown(none, [Comparison(arm, gain, gain, 0.01)])


@pytest.mark.parametrize(
    ("steps", "said"),
    [((200, 200), " Trained for 200 steps."), ((200, 3000), " Trained for 200 to 3,000 steps.")],
)
def test_a_table_says_for_how_long_networks_were_trained(tmp_path, steps, said):
    none, arm = (
        read_arm(str(write_run(tmp_path / name, 0, steps=number)))
        for name, number in zip(("none", "patn"), steps, strict=True)
    )
    gain = Difference(0.02, 0.01, 0.03, 0.01, 3)
    assert said in markdown(none, [Comparison(arm, gain, gain, 0.01)])


def test_one_seed_is_said_loudly(tmp_path, capsys):
    arms = tuple(str(write_run(tmp_path / name, 0, kind=name)) for name in ("a", "b"))
    compare(CompareSettings(arms=arms), QUIET)
    assert "ONE SEED" in capsys.readouterr().out


def test_a_baseline_that_finds_nearly_everyone_is_said_to_leave_nothing_to_gain(tmp_path):
    def ranks(last: int) -> np.ndarray:
        return np.array([1] * 9 + [last])

    def cautions_at(first_rank: int) -> list[str]:
        runs = [
            write_first_ranks(tmp_path / f"{name}-{first_rank}", 0, ranks(first_rank), kind=name)
            for name in ("none", "patn")
        ]
        baseline, arm = (read_arm(str(run)) for run in runs)
        return cautions(baseline, compare_arms(baseline, [arm]))

    seed, ceiling = cautions_at(1)
    assert seed.startswith("ONE SEED")
    assert ceiling.startswith("none-1 finds nearly everyone (mAP 100.0)")
    (seed,) = cautions_at(20)
    assert seed.startswith("ONE SEED")


def test_arms_are_held_against_the_control_of_as_many_real_images_too(tmp_path, capsys):
    folders = {
        name: write_run(tmp_path / name, 0, gain, control=control)
        for name, gain, control in (
            ("real", 0.0, "none"), ("control", 0.1, "added-real"), ("streets", 0.2, "none")
        )
    }  # fmt: skip
    table, page = tmp_path / "table.csv", tmp_path / "page.html"
    arms = tuple(map(str, folders.values()))
    compare(CompareSettings(arms=arms, csv=table, html=page), Console(log_format="json"))
    said = capsys.readouterr()
    events = [json.loads(line) for line in said.err.splitlines()]
    held = [(event["arm"], event["baseline"]) for event in events if event["event"] == "comparison"]
    assert held == [("control", "real"), ("streets", "real"), ("streets", "control")]
    assert said.out.count("Against control, a control of real images:") == 1
    assert said.out.count("Gains are paired; 95 % intervals are over people; p by Holm.") == 1
    assert "Percent, of seed 0. 60 queries" in said.out
    rows = table.read_text().splitlines()
    assert rows[0].startswith("against,")
    assert [row.split(",")[0] for row in rows[1:]] == ["real"] * 3 + ["control"] * 2
    assert "What is better than real and control?" in page.read_text()
    assert page.read_text().count("Percent, of seed 0. 60 queries") == 1
    # p of three comparisons together, not of two and one.
    alone = compare_arms(read_arm(arms[1]), [read_arm(arms[2])])[0].p_value
    (together,) = [event["p"] for event in events if event.get("baseline") == "control"]
    assert together > alone


def test_without_a_control_there_is_one_table_and_no_column_for_it(tmp_path, capsys):
    arms = tuple(str(write_run(tmp_path / name, 0, kind=name)) for name in ("a", "b"))
    compare(CompareSettings(arms=arms, csv=tmp_path / "table.csv"), QUIET)
    assert "Against" not in capsys.readouterr().out
    assert (tmp_path / "table.csv").read_text().startswith("arm,")


def test_a_verdict_stands_once_on_a_terminal_and_as_an_event_for_programs(tmp_path, capsys):
    arms = tuple(str(write_run(tmp_path / name, 0, kind=name)) for name in ("a", "b"))
    compare(CompareSettings(arms=arms), Console())
    said = capsys.readouterr()
    assert said.out.count("this one seed") + said.out.count("too little to tell") == 1
    assert "against a" not in said.err
    compare(CompareSettings(arms=arms), Console(log_format="json"))
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (event,) = [event for event in events if event["event"] == "comparison"]
    assert (event["arm"], event["baseline"]) == ("b", "a")


def test_two_seeds_are_said_to_be_few(tmp_path):
    arms = []
    for name in ("none", "patn"):
        for seed in (0, 1):
            write_run(tmp_path / name / f"seed-{seed}", seed, kind=name)
        arms.append(read_arm(str(tmp_path / name)))
    assert "TWO SEEDS" in markdown(arms[0], compare_arms(arms[0], arms[1:]))


def test_a_folder_of_runs_is_one_arm_named_by_its_folder(tmp_path):
    for seed in (1, 0):
        write_run(tmp_path / "patn" / f"seed-{seed}", seed)
    arm = read_arm(str(tmp_path / "patn"))
    assert (arm.name, arm.seeds) == ("patn", [0, 1])


def test_unlike_protocols_are_refused(tmp_path):
    arms = (str(write_run(tmp_path / "a", 0)), str(write_run(tmp_path / "b", 0, flip=True)))
    with pytest.raises(UserError, match=r"another protocol .*flip_test: False, now True"):
        compare(CompareSettings(arms=arms), QUIET)


def write_features(folder: Path, num_won: tuple[int, ...]) -> tuple[str, ...]:
    """Write scores of networks, by seed, of 100 people whose one match stands at rank 2.

    Generated images bring so many people's match to rank 1, copies that of all people to rank 4.
    """
    second = np.full(100, 2)
    for seed, won in enumerate(num_won):
        run = write_first_ranks(folder / f"none-{seed}", seed, second)
        ranks = np.where(np.arange(100) < won, 1, 2)
        write_first_ranks(run / "scores" / "generated", seed, ranks, centralisation=GENERATED)
        write_first_ranks(run / "scores" / "copies", seed, 2 * second, centralisation=COPIES)
    arms = {"plain": "none-*", "patn": "none-*/scores/generated", "copies": "none-*/scores/copies"}
    return tuple(f"{name}={folder}/{pattern}" for name, pattern in arms.items())


def test_features_of_one_network_are_held_against_each_other_where_that_is_said(tmp_path, capsys):
    arms = write_features(tmp_path, (50,))
    hint = "; --other-features holds features of the same networks against each other"
    with pytest.raises(UserError, match=f"another protocol .*centralisation: None, now .*{hint}"):
        compare(CompareSettings(arms=arms), QUIET)
    with pytest.raises(UserError, match=rf"centralisation\.copies: None, now 8.*{hint}"):
        compare(CompareSettings(arms=arms[1:]), QUIET)

    page = tmp_path / "page.html"
    compare(CompareSettings(arms=arms, other_features=True, html=page), QUIET)
    assert "plus 0.5 times the mean of the set patn-1a2b3c4d; copies: plus" in page.read_text()
    # It is no part of the protocol that all share, nor of the settings of a training.
    assert "centralisation" not in page.read_text()
    text = capsys.readouterr().out
    assert "- copies: mAP -25.00 [-25.00, -25.00], rank-1 +0.00 [+0.00, +0.00]: worse than" in text
    assert "- patn: mAP +25.00 [" in text
    assert (
        "cosine distance. The same networks with other features (plain: as the network gives them; "
        "patn: plus 0.5 times the mean of the set patn-1a2b3c4d; copies: plus 0.5 times the mean "
        "of 8 copies of the images in the set patn-1a2b3c4d). Gains are paired"
    ) in text
    assert "ONE SEED" in text
    # Of gains of 0 and 50 points, as many of each, the mean has a standard error of 2.5.
    plain, patn, _ = map(read_arm, arms)
    (gain,) = compare_arms(plain, [patn])
    margin = 2.5 * stats.t.ppf(0.975, 99)
    found = gain.mean_average_precision
    assert 100 * found.low == pytest.approx(25 - margin, abs=RESAMPLING)
    assert 100 * found.high == pytest.approx(25 + margin, abs=RESAMPLING)


def test_the_interval_between_features_of_several_seeds_is_over_people_and_seeds(tmp_path):
    plain, patn, _ = map(read_arm, write_features(tmp_path, (40, 50, 60)))
    check_alike([plain, patn], other_features=True)
    (gain,) = compare_arms(plain, [patn])
    # Gains of people, means over seeds: 40 of 50 points, 10 of 33.3, 10 of 16.7, 40 of 0; gains of
    # seeds: 20, 25, 30.
    people = np.repeat([50, 100 / 3, 50 / 3, 0], [40, 10, 10, 40]).var() / 100
    seeds = 5**2 / 3
    freedom = (people + seeds) ** 2 / (people**2 / 99 + seeds**2 / 2)
    margin = np.sqrt(people + seeds) * stats.t.ppf(0.975, freedom)
    found = gain.mean_average_precision
    assert 100 * found.mean == pytest.approx(25)
    assert 100 * found.low == pytest.approx(25 - margin, abs=RESAMPLING)
    assert 100 * found.high == pytest.approx(25 + margin, abs=RESAMPLING)
    assert found.num_seeds == 3


def test_a_report_that_says_of_its_features_what_nobody_wrote_is_refused(tmp_path):
    folder = write_run(tmp_path / "run", 0, centralisation=GENERATED | {"generated": "patn"})
    with pytest.raises(UserError, match=r"entry 'protocol\.centralisation\.generated': input shou"):
        read_arm(str(folder))
    for name, entry, message in (
        ("nothing", {"eta": 0.5}, "found nothing that is added"),
        ("weightless", {"copies": 8}, "found no weight of what is added"),
        ("half", COPIES | GENERATED | {"eta": None, "copies_eta": 8.0}, "found no weight of"),
    ):
        folder = write_run(tmp_path / name, 0, centralisation=entry)
        with pytest.raises(UserError, match=message):
            read_arm(str(folder))


def test_one_protocol_that_is_centralised_is_said_in_the_table(tmp_path):
    arms = [
        read_arm(str(write_run(tmp_path / name, 0, centralisation=GENERATED, kind=name)))
        for name in ("none", "streets")
    ]
    check_alike(arms)
    said = "cosine distance, features plus 0.5 times the mean of the set patn-1a2b3c4d. Gains are"
    assert said in markdown(arms[0], compare_arms(arms[0], arms[1:]))


def test_other_features_of_other_networks_and_protocols_are_refused(tmp_path):
    write_run(tmp_path / "none-0", 0)
    write_run(tmp_path / "none-1", 1)
    for seed, eta in ((0, 0.5), (1, 1.0)):
        how = {**GENERATED, "eta": eta}
        write_run(tmp_path / f"none-{seed}" / "scores" / "mixed", seed, centralisation=how)
    other, flipped = tmp_path / "other", tmp_path / "flipped"
    write_run(other, 0, centralisation=GENERATED, steps=20)
    write_run(flipped, 0, centralisation=GENERATED, flip=True)
    first = f"{tmp_path}/none-0"
    report = json.loads((flipped / "report.json").read_text())
    write_json(report | {"config": read_scored(Path(first)).recipe}, flipped / "report.json")
    for arms, message in (
        (
            (first, f"{tmp_path}/none-1/scores/mixed"),
            r"'mixed' has other networks than 'none-0' \(seeds: \[0\], now \[1\]\); expected the",
        ),
        ((first, str(other)), r"'other' has other networks than 'none-0' \(steps: 3000, now 20\)"),
        (
            (f"{tmp_path}/none-*", f"mixed={tmp_path}/none-*/scores/mixed"),
            r"arm 'mixed': .* has other features than .* \(centralisation.eta: 0\.5, now 1\.0\)",
        ),
        ((first, str(flipped)), r"another protocol than .*none-0 \(flip_test: False, now True\)"),
    ):
        with pytest.raises(UserError, match=message):
            compare(CompareSettings(arms=arms, other_features=True), QUIET)


def test_runs_of_one_arm_must_share_a_recipe_and_differ_in_seed(tmp_path):
    write_run(tmp_path / "a-0", 0)
    write_run(tmp_path / "a-1", 1, steps=20)
    with pytest.raises(UserError, match=r"more than the seed \(steps: 3000, now 20\)"):
        read_arm(f"a={tmp_path}/a-*")
    write_run(tmp_path / "b-0", 0)
    write_run(tmp_path / "b-1", 0)
    with pytest.raises(UserError, match=r"seeds \[0, 0\]"):
        read_arm(f"b={tmp_path}/b-*")


def test_arms_without_runs_and_a_single_arm_are_refused(tmp_path):
    with pytest.raises(UserError, match="holds no scored run"):
        read_arm(f"none={tmp_path}/nothing-*")
    with pytest.raises(UserError, match="found 1 arm"):
        compare(CompareSettings(arms=("x",)), QUIET)


def test_a_run_that_is_not_scored_is_no_silent_gap_among_the_seeds(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"none-{seed}", seed)
    write_json({"config": {}, "people": []}, tmp_path / "none-2" / "run.json")
    with pytest.raises(UserError, match=r"none-2 holds no report\.json"):
        read_arm(f"none={tmp_path}/none-*")
    with pytest.raises(UserError, match=r"none-2 holds no report\.json"):
        read_arm(f"all={tmp_path}")


@pytest.mark.parametrize("name", ["rate=0.1", "[old] run"])
def test_a_folder_is_found_by_its_name_whatever_that_holds(tmp_path, name):
    write_run(tmp_path / name, 0)
    assert read_arm(f"{tmp_path}/{name}").name == name
    assert read_arm(f"old={tmp_path}/{name}").name == "old"


def test_which_weights_were_scored_is_among_the_differences(tmp_path):
    arms = []
    for name in ("last", "best"):
        folder = write_run(tmp_path / name, 0)
        report = json.loads((folder / "report.json").read_text())
        write_json(report | {"weights": name}, folder / "report.json")
        arms.append(read_arm(str(folder)))
    text = markdown(arms[0], compare_arms(arms[0], arms[1:]))
    assert "Trained differently in: weights: 'last', now 'best'." in text


@pytest.mark.parametrize(
    ("first", "then", "told"),
    [
        ((None, "replace"), ("ab", "add"), "synthetic"),
        (("ab", "replace"), (None, "add"), "synthetic"),
        (("ab", "replace"), ("ab", "add"), "synthetic_mix: 'replace', now 'add'"),
    ],
)
def test_how_images_are_mixed_in_is_a_difference_where_both_have_some(tmp_path, first, then, told):
    arms = [
        read_arm(str(write_run(tmp_path / name, 0, synthetic_sha256=digest, synthetic_mix=mix)))
        for name, (digest, mix) in (("first", first), ("then", then))
    ]
    text = markdown(arms[0], compare_arms(arms[0], arms[1:]))
    assert f"Trained differently in: {told}." in text
    page = tmp_path / "page.html"
    folders = tuple(str(tmp_path / name) for name in ("first", "then"))
    compare(CompareSettings(arms=folders, html=page), QUIET)
    assert ("synthetic_mix: " in page.read_text()) == (told != "synthetic")


def test_a_scoring_that_died_between_its_two_files_is_refused(tmp_path):
    folder, other = (write_run(tmp_path / name, seed) for seed, name in enumerate("ab"))
    (folder / "queries.parquet").write_bytes((other / "queries.parquet").read_bytes())
    with pytest.raises(UserError, match=r"queries\.parquet of another scoring than report\.json"):
        read_arm(str(folder))


def test_the_report_of_a_run_reads_back_with_one_row_per_query(tmp_path):
    scored = read_scored(write_run(tmp_path / "a", 0))
    assert len(scored.queries) == scored.report["num_matched"] == 60
    assert scored.report["scores"]["mAP"] == pytest.approx(scored.average_precision.mean())
    assert scored.report["protocol"]["query"]["num_people"] == 30


def test_the_whole_stage_from_the_command_line(tmp_path, capsys):
    images = str(write_people(tmp_path))
    sizes = ["--height", "64", "--width", "32", "--batch-size", "8", "--steps", "3"]
    sizes += ["--recipe", "short"]
    for seed in ("0", "1"):
        arguments = ["train", "--images", images, "--out", str(tmp_path / f"run-{seed}")]
        assert PROGRAM.run([*arguments, *sizes, "--seed", seed, "--quiet"]) is Exit.DONE
    report = json.loads((tmp_path / "run-0" / "report.json").read_text())
    assert report["num_queries"] == report["num_matched"] == 4 * 2
    assert report["protocol"]["gallery"]["num_junk"] == 1
    assert report["protocol"]["gallery"]["num_distractors"] == 1
    first = str(tmp_path / "run-0")
    flipped = ["score", first, "--images", images, "--flip-test", "--quiet"]
    assert PROGRAM.run(flipped) is Exit.DONE
    with pytest.raises(UserError, match="another protocol"):
        PROGRAM.run(["compare", f"{first}/scores/flip", str(tmp_path / "run-1")])
    assert PROGRAM.run(["compare", first, str(tmp_path / "run-1"), "--quiet"]) is Exit.DONE
    assert "8 queries of 4 people against 10 gallery images" in capsys.readouterr().out


def test_an_exported_network_gives_the_features_of_the_run_for_any_batch(tmp_path):
    images = str(write_people(tmp_path))
    run = str(tmp_path / "run")
    sizes = ["--height", "64", "--width", "32", "--batch-size", "8", "--steps", "2"]
    sizes += ["--recipe", "short"]
    PROGRAM.run(["train", "--images", images, "--out", run, *sizes, "--no-score", "--quiet"])
    file = tmp_path / "net.pt2"
    PROGRAM.run(["export", run, "--out", str(file), "--quiet"])
    program = torch.export.load(file).module()
    pixels = np.random.default_rng(0).integers(0, 256, (7, 64, 32, 3), np.uint8)
    network = load_network(read_run(Path(run)), "last")
    expected = embed(network, pixels, "features", QUIET)
    for count in (1, 7):
        inputs = torch.from_numpy(pixels[:count]).permute(0, 3, 1, 2) / 127.5 - 1
        found = program(inputs).detach().numpy()
        # float32 rounding through some forty layers.
        np.testing.assert_allclose(found, expected[:count], atol=1e-4 * abs(expected).max())
    assert Embedder(network)(inputs).shape == (7, 512)


def test_features_that_are_not_finite_are_refused():
    network = torchreid_adapter.build_model("osnet_x0_25", 3)
    torch.nn.init.constant_(network.fc[0].weight, float("nan"))
    pixels = np.zeros((4, 64, 32, 3), np.uint8)
    with pytest.raises(UserError, match="4 of 4 features are not finite"):
        embed(ReidNetwork(network), pixels, "query", QUIET)


def test_the_flip_test_makes_a_mirrored_image_equal():
    network = torchreid_adapter.build_model("osnet_x0_25", 3)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 32, 3), np.uint8)
    pixels[1] = pixels[0, :, ::-1]
    one, other = embed(ReidNetwork(network), pixels, "query", QUIET, flip_test=True)
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_an_unfinished_run_is_not_scored(tmp_path):
    write_json(
        {
            "config": {
                "val_people": 0,
                "model": "osnet_x0_25",
                "width": 32,
                "height": 64,
                "images_sha256": "0",
                "synthetic_sha256": None,
                "real_fraction": 1.0,
                "data_seed": 0,
            },
            "people": [],
            "num_real": 0,
        },
        tmp_path / "run.json",
    )
    with pytest.raises(UserError, match="expected a finished run"):
        load_network(read_run(tmp_path), "last")
    with pytest.raises(UserError, match=r"found no run\.json"):
        read_run(tmp_path / "nowhere")
    write_json({"config": {"per_id": 10}}, tmp_path / "synthetic" / "run.json")
    with pytest.raises(UserError, match="run of another command, expected one of 'reid train'"):
        read_run(tmp_path / "synthetic")


@pytest.fixture
def fresh_adapter(monkeypatch):
    torchreid_adapter._torchreid.cache_clear()
    yield monkeypatch
    torchreid_adapter._torchreid.cache_clear()


def stub(name: str, version: str) -> ModuleType:
    module = ModuleType(name)
    module.__version__ = version
    return module


def test_a_missing_torchreid_is_one_sentence_with_the_command_that_installs_it(fresh_adapter):
    fresh_adapter.setitem(sys.modules, "torchreid", None)
    with pytest.raises(UserError, match=r"pip install torchreid==0\.2\.5"):
        torchreid_adapter.version()


def test_the_authors_layout_is_accepted_and_other_versions_are_not(fresh_adapter):
    fresh_adapter.setitem(sys.modules, "torchreid", stub("torchreid", "1.4.0"))
    assert torchreid_adapter.version() == "1.4.0"
    torchreid_adapter._torchreid.cache_clear()
    fresh_adapter.setitem(sys.modules, "torchreid", stub("torchreid", "2.0"))
    with pytest.raises(UserError, match=r"torchreid 2\.0 .* is installed; expected 0\.2\.5"):
        torchreid_adapter.version()


def test_an_unknown_network_is_refused_with_the_names_that_exist():
    with pytest.raises(UserError, match=r"no network 'osnet'; it has .*osnet_x0_25"):
        torchreid_adapter.build_model("osnet", 3)


def test_arms_that_a_table_could_not_tell_apart_are_refused(tmp_path):
    for folder in ("a", "b"):
        write_run(tmp_path / folder / "none" / "seed-0", 0, kind=folder)
    both = [str(tmp_path / folder / "none") for folder in ("a", "b")]
    with pytest.raises(UserError, match="two arms called 'none', expected a name for each"):
        PROGRAM.run(["compare", *both])
    with pytest.raises(UserError, match=r"none/\*': found no name of the arm, expected NAME="):
        PROGRAM.run(["compare", *(f"{one}/*" for one in both)])
    named = [f"{name}={one}/*" for name, one in zip("ab", both, strict=True)]
    assert PROGRAM.run(["compare", *named]) is Exit.DONE
    with pytest.raises(UserError, match="--images: found no --html"):
        PROGRAM.run(["compare", *named, "--images", "people.parquet"])
    with pytest.raises(UserError, match=r"--csv and --html: found .* for both"):
        PROGRAM.run(["compare", *named, "--csv", "same", "--html", "same"])
