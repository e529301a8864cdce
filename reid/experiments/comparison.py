"""Arms of scored runs held against a baseline: differences, their table, and what they mean."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from jaxtyping import Float

from manifests.compute.statistics import Difference, holm, paired_difference
from manifests.runtime.console import UserError
from manifests.runtime.run_record import RUN_RECORD, differences
from manifests.runtime.tables import Cell, Column, Number, Table
from reid.evaluation.report import (
    CENTRALISATION,
    SCORES,
    Scored,
    features_in_words,
    read_scored,
    unknown_cameras,
)
from reid.models.run_folder import REPORT

_ONE_SEED: Final = (
    "ONE SEED: the noise of training is not in these intervals; a second seed may turn them. Three "
    "('reid study --seeds 0 1 2') would tell more."
)
_TWO_SEEDS: Final = (
    "TWO SEEDS: they hardly tell how large the noise of training is; a third one may turn these "
    "intervals."
)
_AS_MANY_REAL: Final = frozenset({"added-real", "repeated-real"})
"""Controls that see as many images as the arm whose part they take, all of them real."""
_SIGNIFICANT: Final = 0.05
_ENOUGH_SEEDS: Final = 3
"""From so many on the interval holds the noise of training well enough to say "no effect"."""
_FEW_STEPS: Final = 500
"""Of optimisation: a network trained for fewer has hardly begun to learn."""
_NEAR_CEILING: Final = 0.95
"""mAP of a baseline from which on hardly anything is left to gain."""
_SEEDS_SAID: Final = {1: "one seed", 2: "two seeds"}
_HOW_TO_COMPARE_FEATURES: Final = (
    "; --other-features holds features of the same networks against each other"
)
COLUMNS: Final = ("mAP", "rank_1", "rank_5", "rank_10", "mINP")


@dataclass(frozen=True, slots=True)
class Arm:
    """Runs that differ in their seed only."""

    name: str
    runs: tuple[Scored, ...]

    @property
    def seeds(self) -> list[int]:
        """Return the seeds of the runs, in their order."""
        return [run.recipe["seed"] for run in self.runs]

    @property
    def average_precision(self) -> Float[np.ndarray, "seeds queries"]:
        """Return every query's average precision for every seed."""
        return np.stack([run.average_precision for run in self.runs])

    @property
    def is_first(self) -> Float[np.ndarray, "seeds queries"]:
        """Return 1 where the first image is a match, else 0."""
        return np.stack([(run.first_rank == 1).astype(np.float64) for run in self.runs])

    def scores(self, name: str) -> Float[np.ndarray, " seeds"]:
        """Return one summary number for every seed."""
        return np.array([run.report["scores"][name] for run in self.runs])


@dataclass(frozen=True, slots=True)
class Comparison:
    """One arm held against the baseline."""

    arm: Arm
    mean_average_precision: Difference
    rank_1: Difference
    p_value: float
    """Of the difference in mAP, corrected for the number of arms (Holm)."""


def read_arm(text: str) -> Arm:
    """Return the arm that an argument names: ``[NAME=]RUN``, a folder of runs, or a pattern.

    A folder may have a "=" or "[" in its name: what exists as it is written is no pattern.

    Raises:
        UserError: If no scored run is found, a run is not scored, or the runs differ in more than
            their seeds, or the pattern ends in no name.
    """
    name, pattern = "", text
    found = _matching(text)
    if not found and "=" in text:
        name, _, pattern = text.partition("=")
        found = _matching(pattern)
    folders = [run for folder in found for run in _runs_in(folder)]
    if not folders:
        raise UserError(
            f"'{pattern}' holds no scored run; expected a folder of reid train with a {REPORT}, a "
            "folder of such folders, or a pattern"
        )
    name = name or Path(pattern).name.rstrip("-_*")
    if not name:
        raise UserError(f"'{pattern}': found no name of the arm, expected NAME={pattern}")
    return arm_of(name, folders)


def check_names(arms: Sequence[Arm]) -> None:
    """Check that tables can tell arms apart.

    Raises:
        UserError: If two have one name.
    """
    names = [arm.name for arm in arms]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(
            f"found two arms called '{twice}', expected a name for each: NAME={twice}, or "
            "NAME='PATTERN'"
        )


def _matching(pattern: str) -> list[Path]:
    if Path(pattern).exists():
        return [Path(pattern)]
    return [Path(path) for path in sorted(glob.glob(pattern))]  # noqa: PTH207 - may be absolute


def _runs_in(folder: Path) -> list[Path]:
    """Return the folder if it is a run, else the runs in it, those without a score too."""
    return [folder] if _is_run(folder) else sorted(filter(_is_run, folder.glob("*")))


def _is_run(folder: Path) -> bool:
    return (folder / REPORT).exists() or (folder / RUN_RECORD).exists()


def arm_of(name: str, folders: Sequence[Path]) -> Arm:
    """Return the arm of some scored runs, by seed.

    Raises:
        UserError: If one is not scored, or the runs differ in more than their seeds.
    """
    runs = sorted((read_scored(folder) for folder in folders), key=lambda run: run.recipe["seed"])
    arm = Arm(name, tuple(runs))
    _check_seeds(arm)
    return arm


def _check_seeds(arm: Arm) -> None:
    first, *rest = arm.runs
    for run in rest:
        differing = differences(training_of(first), training_of(run))
        if differing:
            raise UserError(
                f"arm '{arm.name}': {run.folder} differs from {first.folder} in more than the seed "
                f"({'; '.join(differing)}); expected one recipe per arm"
            )
    if len(set(arm.seeds)) < len(arm.seeds):
        raise UserError(f"arm '{arm.name}' has the seeds {arm.seeds}; expected each once")


def training_of(run: Scored) -> dict[str, Any]:
    """Return how a run was trained but for its seed, and which of its weights were scored."""
    return run.recipe | {"seed": None, "weights": run.report["weights"]}


def check_alike(arms: Sequence[Arm], *, other_features: bool = False) -> None:
    """Check that all runs were scored under one protocol and on the same queries.

    Args:
        arms: All arms, the baseline first.
        other_features: Whether the arms are the same networks, with features centralised in
            different ways: then that entry of the protocol may differ from arm to arm.

    Raises:
        UserError: If not; the message names the entries that differ.
    """
    first = arms[0].runs[0]
    for arm in arms:
        if other_features:
            _check_features_alone_differ(arms[0], arm)
        for run in arm.runs:
            differing = differences(first.report["protocol"], run.report["protocol"])
            of_features = [one for one in differing if one.startswith(CENTRALISATION)]
            if other_features:
                differing = [one for one in differing if one not in of_features]
            if differing:
                raise UserError(
                    f"{run.folder} was scored under another protocol than {first.folder} "
                    f"({'; '.join(differing)}); expected the same, so score it again, or name the "
                    f"folders of one protocol in RUN/{SCORES}"
                    + (_HOW_TO_COMPARE_FEATURES if differing == of_features else "")
                )
            if not np.array_equal(first.queries, run.queries):
                raise UserError(
                    f"{run.folder} was scored on other queries than {first.folder}; expected the "
                    "same ones"
                )


def _check_features_alone_differ(baseline: Arm, arm: Arm) -> None:
    first, *rest = arm.runs
    for run in rest:
        features = differences(_features(first), _features(run), f"{CENTRALISATION}.")
        if features:
            raise UserError(
                f"arm '{arm.name}': {run.folder} has other features than {first.folder} "
                f"({'; '.join(features)}); expected one kind of features per arm"
            )
    seeds = differences({"seeds": baseline.seeds}, {"seeds": arm.seeds})
    trained = differences(training_of(baseline.runs[0]), training_of(arm.runs[0]))
    if seeds or trained:
        raise UserError(
            f"--other-features: arm '{arm.name}' has other networks than '{baseline.name}' "
            f"({'; '.join(seeds + trained)}); expected the same, so that features alone differ"
        )


def _features(run: Scored) -> dict[str, Any]:
    """Return what was added to the features; nothing where they are plain."""
    return run.report["protocol"].get(CENTRALISATION) or {}


@dataclass(frozen=True, slots=True)
class Part:
    """Arms held against one of them."""

    baseline: Arm
    comparisons: list[Comparison]
    table: Table


def held_against(arms: Sequence[Arm], named: str | None = None) -> list[tuple[Arm, Sequence[Arm]]]:
    """Return what arms are held against, each with those that are.

    All others against the first; and against every control of as many real images those that are
    none, since more images a step alone may help.

    Args:
        arms: The baseline first.
        named: Name of an arm to hold all others against in the controls' place.
    """
    baseline, *others = arms
    if named is not None:
        chosen = [arm for arm in others if arm.name == named]
        return [
            (baseline, others),
            *((arm, [other for other in others if other is not arm]) for arm in chosen),
        ]
    controls = [arm for arm in others if _is_control(arm)]
    tried = [arm for arm in others if arm not in controls]
    return [(baseline, others), *((arm, tried) for arm in controls if tried)]


def _is_control(arm: Arm) -> bool:
    return arm.runs[0].recipe.get("control") in _AS_MANY_REAL


def against(baseline: Arm) -> str:
    """Return the heading of what is held against an arm."""
    return f"Against {baseline.name}{', a control of real images' * _is_control(baseline)}"


def compare_arms(baseline: Arm, others: Sequence[Arm]) -> list[Comparison]:
    """Return every arm's difference from the baseline, p values corrected for their number."""
    return compare_families([(baseline, others)])[0]


def compare_families(families: Sequence[tuple[Arm, Sequence[Arm]]]) -> list[list[Comparison]]:
    """Return every arm's difference from its own baseline.

    Args:
        families: Baselines, each with the arms held against it. The p values are corrected for
            the number of arms in all families together.
    """
    found = [[_differences(baseline, arm) for arm in others] for baseline, others in families]
    corrected = iter(holm([precision.p_value for family in found for _, precision, _ in family]))
    return [[Comparison(*row, next(corrected)) for row in family] for family in found]


def _differences(baseline: Arm, arm: Arm) -> tuple[Arm, Difference, Difference]:
    people = baseline.runs[0].people
    same = arm.seeds == baseline.seeds
    pairs = (
        (baseline.average_precision, arm.average_precision),
        (baseline.is_first, arm.is_first),
    )
    precision, first = (
        paired_difference(left, right, people, same_seeds=same) for left, right in pairs
    )
    return arm, precision, first


def table_of(
    baseline: Arm, comparisons: Sequence[Comparison], title: str = "", group: str = "against"
) -> Table:
    """Return the scores of all arms in percent, and their gains over the baseline.

    ``title`` tells it from other tables of one report, ``group`` is what the titles are.
    """
    heads = [name.replace("_", "-") for name in COLUMNS]
    columns = (
        Column("arm"),
        Column("seeds"),
        *(Column(head, best="highest") for head in heads),
        Column("mAP gain", best="highest"),
        Column("p"),
    )
    rows: list[tuple[Cell, ...]] = [(*_cells(baseline), "baseline", "")]
    for comparison in comparisons:
        p_value = Number(comparison.p_value, ".3g")
        rows.append(
            (*_cells(comparison.arm), in_percent(comparison.mean_average_precision), p_value)
        )
    note = how_to_read(baseline, comparisons)
    return Table(columns, tuple(rows), title, note, group)


def markdown(baseline: Arm, comparisons: Sequence[Comparison], *, with_reading: bool = True) -> str:
    """Return the table and what it means, as Markdown that reads well on a terminal too.

    ``with_reading`` adds what several tables share.
    """
    lines = [table_of(baseline, comparisons).to_markdown(padded=True), ""]
    for comparison in comparisons:
        lines += [_verdict(comparison, baseline), ""]
    if with_reading:
        lines += reading(baseline, comparisons)
    return "\n".join(lines).rstrip() + "\n"


def reading(baseline: Arm, comparisons: Sequence[Comparison]) -> list[str]:
    """Return the lines on how sure its numbers are, and how to read them."""
    lines = [line for said in cautions(baseline, comparisons) for line in (f"**{said}**", "")]
    return [*lines, how_to_read(baseline, comparisons)]


def how_to_read(baseline: Arm, comparisons: Sequence[Comparison]) -> str:
    """Return what the numbers of a table are, and under which protocol."""
    arms = [baseline, *(comparison.arm for comparison in comparisons)]
    protocol = baseline.runs[0].report["protocol"]
    cameras = unknown_cameras(protocol)
    most = max(len(arm.runs) for arm in arms)
    noise = "people" if min(len(arm.runs) for arm in arms) == 1 else "people and seeds"
    return (
        f"Percent, {'mean +- standard deviation over' if most > 1 else 'of'} {_seeds(arms)}. "
        f"{protocol['query']['num_images']:,} queries of "
        f"{protocol['query']['num_people']:,} people against "
        f"{protocol['gallery']['num_images']:,} gallery images, rule {protocol['rule']}, "
        f"{protocol['average_precision']} AP, {protocol['distance']} distance"
        f"{', flip test' if protocol['flip_test'] else ''}"
        f"{', re-ranked' if protocol.get('reranking') else ''}{_features_said(arms)}. Gains are "
        f"paired; 95 % intervals are over {noise}; p by Holm."
        f"{_steps_said(arms)}{f' {cameras}.' if cameras else ''}"
    )


def _steps_said(arms: Sequence[Arm]) -> str:
    """Return for how long networks were trained, with a space before it; empty if not by steps."""
    recipes = [run.recipe for arm in arms for run in arm.runs]
    found: set[int] = {recipe["steps"] for recipe in recipes if "steps" in recipe}
    if not found:
        return ""
    fewest, most = min(found), max(found)
    steps = f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"
    return f" Trained for {steps} steps."


def _features_said(arms: Sequence[Arm]) -> str:
    """Return what was added to features, by arm where that differs; empty if nothing."""
    features = [features_in_words(_features(arm.runs[0])) for arm in arms]
    if len(set(features)) == 1:
        return f", features {features[0]}" if _features(arms[0].runs[0]) else ""
    named = "; ".join(f"{arm.name}: {said}" for arm, said in zip(arms, features, strict=True))
    return f". The same networks with other features ({named})"


def cautions(baseline: Arm, comparisons: Sequence[Comparison]) -> list[str]:
    """Return what stands beside the verdict: too few seeds, a baseline near its ceiling."""
    arms = [baseline, *(comparison.arm for comparison in comparisons)]
    seeds = {1: _ONE_SEED, 2: _TWO_SEEDS}.get(min(len(arm.runs) for arm in arms))
    precision = float(baseline.scores("mAP").mean())
    ceiling = (
        f"{baseline.name} finds nearly everyone (mAP {100 * precision:.1f}): these test images "
        "leave hardly anything to gain; harder ones, or fewer train images (--real-fraction), "
        "would tell more."
    )
    return [*([seeds] if seeds else []), *([ceiling] if precision > _NEAR_CEILING else [])]


def _seeds(arms: Sequence[Arm]) -> str:
    """Return the seeds by number, once where all arms have the same."""
    named = {arm.name: ", ".join(map(str, arm.seeds)) for arm in arms}
    if len(set(named.values())) == 1:
        return f"{'seeds' if len(arms[0].runs) > 1 else 'seed'} {named[arms[0].name]}"
    return "seeds " + ", ".join(f"{seeds} ({name})" for name, seeds in named.items())


def _cells(arm: Arm) -> tuple[Cell, ...]:
    numbers: list[Number] = []
    for name in COLUMNS:
        values = arm.scores(name) * 100
        deviation = float(values.std(ddof=1)) if len(values) > 1 else None
        numbers.append(Number(float(values.mean()), deviation=deviation))
    return (arm.name, len(arm.runs), *numbers)


def in_percent(difference: Difference) -> Number:
    """Return a gain with its interval, in percentage points."""
    mean, low, high = (100 * v for v in (difference.mean, difference.low, difference.high))
    return Number(mean, "+.2f", interval=(low, high))


def _verdict(comparison: Comparison, baseline: Arm) -> str:
    gain = comparison.mean_average_precision
    name = comparison.arm.name
    changed = training_changes(baseline, comparison.arm)
    return (
        f"- {name}: mAP {in_percent(gain)}, rank-1 {in_percent(comparison.rank_1)}: "
        f"{meaning(comparison, baseline)}. "
        f"Trained differently in: {'; '.join(map(_short, changed)) or 'nothing'}."
    )


def training_changes(baseline: Arm, arm: Arm) -> list[str]:
    """Return in what two arms were trained differently; how images are mixed in, where both are."""
    first, second = training_of(baseline.runs[0]), training_of(arm.runs[0])
    if None in {first.get("synthetic_sha256"), second.get("synthetic_sha256")}:
        for training in (first, second):
            training.pop("synthetic_mix", None)
    return differences(first, second)


Verdict = Literal["better", "worse", "undecided", "too little"]


def verdict_of(comparison: Comparison, baseline: Arm) -> Verdict:
    """Return what a gain is, as its interval, its corrected p value and its runs allow.

    ``too little``: of one or two seeds, and either the interval leaves it open or the networks have
    hardly been trained. From three seeds on an open interval is ``undecided``.
    """
    gain = comparison.mean_average_precision
    is_open = gain.is_null or comparison.p_value > _SIGNIFICANT
    if gain.num_seeds < _ENOUGH_SEEDS and (is_open or _num_few_steps(comparison, baseline)):
        return "too little"
    if is_open:
        return "undecided"
    return "better" if gain.mean > 0 else "worse"


def meaning(comparison: Comparison, baseline: Arm) -> str:
    """Return in words what a gain is; see ``verdict_of``."""
    gain = comparison.mean_average_precision
    verdict = verdict_of(comparison, baseline)
    if verdict == "too little":
        return f"too little to tell: {how_little(comparison, baseline)}"
    if gain.is_null:
        return "compatible with no effect"
    if verdict == "undecided":
        alone = f"{'better' if gain.mean > 0 else 'worse'} than {baseline.name}"
        return f"{alone} if it were the only arm, compatible with no effect among so many (Holm)"
    return f"{verdict} than {baseline.name}{of_few_seeds(gain)}"


def how_little(comparison: Comparison, baseline: Arm) -> str:
    """Return how few seeds and steps there are."""
    steps = _num_few_steps(comparison, baseline)
    seeds = _SEEDS_SAID[comparison.mean_average_precision.num_seeds]
    return seeds + (f", trained for {steps:,} steps" if steps else "")


def of_few_seeds(gain: Difference) -> str:
    """Return for which seeds a gain is known, if those are few; with a space before it."""
    said = {1: " for this one seed", 2: " for these two seeds"}
    return said.get(gain.num_seeds, "")


def _num_few_steps(comparison: Comparison, baseline: Arm) -> int:
    """Return the steps of the shortest training if they are hardly any, else 0."""
    runs = [*baseline.runs, *comparison.arm.runs]
    # Reports of networks that were not trained by steps have none.
    steps = min(run.recipe.get("steps", _FEW_STEPS) for run in runs)
    return steps if steps < _FEW_STEPS else 0


def _short(change: str) -> str:
    name = change.partition(":")[0]
    return name.removesuffix("_sha256") if name.endswith("_sha256") else change
