"""Train a re-ID network on real and synthetic images: ``reid train``.

Everything random in a step follows from (seed, step): which rows, how they are cropped, dropout.
So a run that was stopped and continued ends with the same bits as a straight one (on CPU, with
the same number of threads).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from manifests.compute.devices import pick_device
from manifests.compute.distributed import init_distributed, rank_device
from manifests.compute.imagenet import imagenet_file
from manifests.compute.precision import settled_precision
from manifests.compute.training_log import TrainingLog
from manifests.compute.training_state import check_finite_weights
from manifests.io import Images
from manifests.masks import read_masks
from manifests.pixels import naming_all_broken, read_all
from manifests.runtime import run_record, storage
from manifests.runtime.console import Console, Exit, Stopped, UserError
from manifests.runtime.files import check_file
from manifests.runtime.one_process import alone_in
from manifests.runtime.signals import SOON, recording
from manifests.scenes import Scenes, take_apart
from manifests.synthetic import Synthetic, finished_manifest
from reid.data.controls import controlled
from reid.data.dataset import Selection, TrainingSet, load_training_set, select
from reid.data.inputs import Inputs
from reid.data.labels import labels_of
from reid.data.streamed import StreamedPixels, StreamedScenes, streamed_scenes
from reid.evaluation.ranking import check_matches, distance_of, rank
from reid.evaluation.report import read_report
from reid.evaluation.score import check_rankable, score
from reid.evaluation.score_settings import ScoreSettings, other_scoring
from reid.models import torchreid_adapter
from reid.models.backbone import BackboneOptions, source_of
from reid.models.features import embed
from reid.models.network import build_network, check_size
from reid.models.run_folder import REPORT, STATE, TrainingRun, read_run
from reid.models.weights import download_imagenet, start_from
from reid.training.added import needs_scenes
from reid.training.batches import Batch, Batches, Destination, count_seen
from reid.training.log import log_step, open_log
from reid.training.loop import Trainer, needs_features
from reid.training.recipes import RECIPES
from reid.training.settings import CHOOSING_THE_BEST, NOT_IN_RECIPE, TrainSettings, settings_for

__all__ = ["TrainSettings", "settings_for", "train"]

_PACKAGES: Final = ("torch", "torchreid", "numpy", "pyarrow")

_INPUTS: Final = {
    "images": "the table that 'augment index' wrote (.parquet)",
    "synthetic": "the finished folder of 'augment generate'",
    "weights": "a state file (.pth or .safetensors)",
}


def train(
    settings: TrainSettings,
    console: Console,
    inputs: Inputs | None = None,
    *,
    distributed: bool = True,
) -> Exit:
    """Train to the last step, from the saved state if there is one, and score the result.

    Under torchrun every process takes its part of each batch and the primary one writes; not so
    if it is no ``distributed`` training, but one of many that the processes share out. ``inputs``
    holds what the command has read before.

    Raises:
        UserError: If an input cannot be used, or the folder holds another run or is
            another process's.
    """
    inputs = inputs or Inputs()
    folder = settings.out
    environ = os.environ if distributed else {}
    device = pick_device(rank_device(settings.device, environ))
    with init_distributed(device, environ) as group:
        if not group.is_primary:
            console = Console(quiet=True)
        if settings.recipe_note:
            console.say(settings.recipe_note)
        precision = settled_precision(settings.precision, device, [folder / run_record.RUN_RECORD])
        settings = settings.model_copy(update={"precision": precision})
        recipe = recipe_of(settings, inputs)
        if (folder / run_record.RUN_RECORD).exists():
            run_record.check_same_config(folder / run_record.RUN_RECORD, recipe)
        if TrainingRun(folder, {}).is_complete:
            console.say(f"{folder}: training is already complete ({settings.steps:,} steps)")
        else:
            _train(settings, recipe, inputs, Destination(device, group), console)
    code = _score(settings, inputs, console) if group.is_primary else Exit.DONE
    if distributed:
        console.suggest("reid", "report", folder, "--html", folder.with_name(f"{folder.name}.html"))
    return code


def _train(
    settings: TrainSettings,
    recipe: dict[str, Any],
    inputs: Inputs,
    destination: Destination,
    console: Console,
) -> None:
    group = destination.group
    images = inputs.images(settings.images, settings.root)
    selection, synthetic = select_rows(settings, inputs)
    _check_rankable(images, selection, settings)
    check_masks(selection.train, settings)
    with naming_all_broken(images):
        data = _load(selection, synthetic, settings, console)
        if settings.score and group.is_primary:
            # Scoring looks for near-duplicates of the same images.
            _keep_hashes(inputs, selection.train, data)
    data = controlled(data, settings.control, settings.seed)
    console.say(
        f"training on {len(data.labels) - data.num_synthetic:,} real and "
        f"{data.num_synthetic:,} synthetic images of {len(data.people):,} people"
        + _added_said(settings)
    )
    trainer = make_trainer(settings, len(data.people), destination, console)
    destination = replace(destination, normalisation=trainer.network.normalisation)
    scenes = scenes_of(selection.train, data, settings, console)
    batches = Batches(data, settings, destination, trainer.restore(settings.out), scenes)
    if group.is_primary:
        facts = {
            "versions": run_record.versions(*{*_PACKAGES, source_of(settings.model).PACKAGE}),
            "num_real": len(selection.train),
            "num_synthetic": data.num_synthetic,
            "num_validation": len(selection.validation),
            "seen": count_seen(data, settings, scenes),
            "leakage": selection.leakage,
            "people": list(data.people),
            "validation_people": sorted(set(selection.validation.strings("person_id"))),
            "processes": group.size,
        }
        run_record.write(settings.out, recipe, facts)
    with alone_in(settings.out) if group.is_primary else nullcontext():
        _train_in(trainer, batches, selection, settings, console)


def select_rows(settings: TrainSettings, inputs: Inputs) -> tuple[Selection, Synthetic | None]:
    """Return the rows of a run, and the synthetic images that some of them are of.

    Raises:
        UserError: As ``reid.data.dataset.select``.
    """
    synthetic = None if settings.synthetic is None else inputs.synthetic(settings.synthetic)
    selection = select(
        inputs.images(settings.images, settings.root),
        synthetic,
        real_fraction=settings.real_fraction,
        num_validation_people=settings.val_people,
        data_seed=settings.data_seed,
    )
    return selection, synthetic


def make_trainer(
    settings: TrainSettings, num_people: int, destination: Destination, console: Console
) -> Trainer:
    """Return a training before its first step.

    Raises:
        UserError: If the network takes no images of that size, or its weights cannot be read.
    """
    torch.manual_seed(settings.seed)
    network = build_network(
        settings.model,
        BackboneOptions(num_people, settings.height, settings.width, settings.last_stride),
        neck=settings.neck,
        with_features=needs_features(settings),
    )
    check_size(network.module, settings.model, settings.height, settings.width)
    weights = weights_of(settings)
    if weights is not None:
        loaded = start_from(network.module, weights)
        console.say(
            f"started from {_weights_said(settings)}{weights} (tensors matched by {loaded.by}); "
            "untrained so far: "
            f"{', '.join(loaded.skipped)}"
        )
    return Trainer(network, settings, destination.device, destination.group)


def _train_in(
    trainer: Trainer,
    batches: Batches,
    selection: Selection,
    settings: TrainSettings,
    console: Console,
) -> None:
    """Train in a folder that is ours alone."""
    group = trainer.group
    if group.is_primary:
        for left_by_a_killed_run in storage.unpublished(settings.out):
            left_by_a_killed_run.unlink(missing_ok=True)
    _loop(trainer, batches, selection, settings, console)
    if group.is_primary:
        trainer.save(settings.out)
        trainer.export(TrainingRun(settings.out, {}).weights("last"))


def _load(
    selection: Selection, synthetic: Synthetic | None, settings: TrainSettings, console: Console
) -> TrainingSet:
    """Return what is trained on, in memory if there is room for it."""
    size, most = (settings.width, settings.height), settings.max_decoded_gb
    data = load_training_set(selection, synthetic, size, most * 1e9)
    if isinstance(data.pixels, StreamedPixels):
        console.say(
            f"{len(data.pixels):,} images would take more than --max-decoded-gb {most:g} when "
            "decoded: each step reads its own"
        )
    return data


def _keep_hashes(inputs: Inputs, train: Images, data: TrainingSet) -> None:
    if isinstance(data.pixels, StreamedPixels):
        inputs.hashes(train, data.pixels.size)
    else:
        inputs.keep_hashes(train, data.pixels[: len(train)])


def scenes_of(
    train: Images, data: TrainingSet, settings: TrainSettings, console: Console
) -> Scenes | StreamedScenes | None:
    """Return people and streets of the real train images, if the run puts people before others.

    Raises:
        UserError: If too few of the images have a mask.
    """
    if not needs_scenes(settings):
        return None
    size = (settings.width, settings.height)
    scenes = (
        streamed_scenes(train, size)
        if isinstance(data.pixels, StreamedPixels)
        else take_apart(data.pixels[: len(train)], *read_masks(train, size))
    )
    console.say(
        f"new streets: {len(scenes.rows):,} of {len(train):,} real images have a mask and a street"
    )
    return scenes


def check_masks(train: Images, settings: TrainSettings) -> None:
    """Check that people can be put before new streets, before an image is read.

    Raises:
        UserError: If fewer than two train images have a mask where the settings need some.
    """
    found = len(train) - train.table["mask"].null_count
    if needs_scenes(settings) and found < 2:
        raise UserError(
            f"{settings.images}: found {found} of {len(train):,} train images with a mask, "
            "expected at least 2 for --scene-added and --augmentation.scene; 'augment detect "
            "--estimator blazepose --masks' adds masks"
        )


def _check_rankable(images: Images, selection: Selection, settings: TrainSettings) -> None:
    """Check now what would end the run at its first validation or after its last step."""
    if settings.score:
        check_rankable(images, settings.images, settings.protocol)
    if len(selection.validation):
        labels = labels_of(selection.validation)
        try:
            check_matches(labels, labels, settings.protocol)
        except UserError as error:
            raise UserError(f"the {settings.val_people} validation people: {error}") from error


def recipe_of(settings: TrainSettings, inputs: Inputs | None = None) -> dict[str, Any]:
    """Return the settings that decide the weights, with inputs by their sha256.

    Raises:
        UserError: If there is no such network, or an input is missing.
    """
    source_of(settings.model)
    inputs = inputs or Inputs()
    recipe = choices_of(settings)
    paths = {
        "images": settings.images,
        "synthetic": settings.synthetic and finished_manifest(settings.synthetic),
        "weights": weights_of(settings),
    }
    for name, path in paths.items():
        if path is not None:
            check_file(path, _INPUTS[name], f"--{name}")
        recipe[f"{name}_sha256"] = None if path is None else inputs.digest(path)
    return recipe


def choices_of(settings: TrainSettings) -> dict[str, Any]:
    """Return the settings that decide the weights, but for the inputs.

    Without the precision as long as that is left to the machine.
    """
    choices = settings.model_dump(mode="json", exclude=NOT_IN_RECIPE)
    if settings.precision == "auto":
        del choices["precision"]
    choices["synthetic_mix"] = settings.mix
    if settings.val_people:
        choices |= {name: getattr(settings, name) for name in CHOOSING_THE_BEST}
    return choices


def _added_said(settings: TrainSettings) -> str:
    """Return what a step sees besides its batch, and the control; empty if there is neither."""
    kind = "more real ones" if settings.control == "added-real" else "before other streets"
    count = settings.scene_added
    control = "" if settings.control == "none" else f" (control {settings.control})"
    return (f", {count} {kind} added to each step" if count else "") + control


def _weights_said(settings: TrainSettings) -> str:
    return "ImageNet weights, " if settings.weights in {"imagenet", "torchvision"} else ""


def weights_of(settings: TrainSettings) -> Path | None:
    """Return the file that training starts from, downloaded if the settings ask for it.

    Raises:
        UserError: If it cannot be downloaded, or the recipe needs a file that is not given.
    """
    if settings.weights is None and RECIPES[settings.recipe].needs_weights:
        raise UserError(
            f"the recipe {settings.recipe} starts from ImageNet weights and found none; expected "
            "--weights FILE, from torchreid's model zoo"
        )
    if settings.weights == "imagenet":
        return imagenet_file(settings.model)
    if settings.weights == "torchvision":
        return download_imagenet(settings.model)
    return settings.weights


def _loop(
    trainer: Trainer,
    batches: Batches,
    selection: Selection,
    settings: TrainSettings,
    console: Console,
) -> None:
    """Make the remaining steps; a process that is told to end saves after the one it is at.

    Raises:
        Stopped: If this or another process was told to end.
        UserError: If a loss or a weight is not finite, or a file cannot be written.
    """
    if not len(batches):
        return
    group = trainer.group
    log = open_log(settings, trainer.done, group)
    validate = _validator(trainer, selection, settings, log, console)
    with (
        closing(log),
        console.progress("training", settings.steps, "step", trainer.done) as bar,
        recording(*SOON) as received,
    ):

        def save() -> None:
            log.check()
            check_finite_weights(trainer.network.module, settings.out / STATE)
            if group.is_primary:
                trainer.save(settings.out)

        def end_if_told() -> None:
            if group.any(bool(received)):
                save()
                # Whoever leaves first with an error code has the others killed.
                group.barrier()
                raise Stopped(Exit.STOPPED_EARLY)

        def step(batch: Batch) -> None:
            loss = trainer.update(batch)
            rate = trainer.optimizer.param_groups[0]["lr"]
            log_step(log, settings, trainer.done, loss, rate)
            bar.advance()
            if trainer.done % settings.checkpoint_every == 0 or trainer.done == settings.steps:
                validate()
                save()
            end_if_told()

        torchreid_adapter.train(trainer.network.module, batches, step)
        end_if_told()


def _validator(
    trainer: Trainer,
    selection: Selection,
    settings: TrainSettings,
    log: TrainingLog,
    console: Console,
) -> Callable[[], None]:
    """Return what scores the validation people and keeps the best weights."""
    if not len(selection.validation) or not trainer.group.is_primary:
        return lambda: None
    images = read_all(selection.validation, (settings.width, settings.height))
    labels = labels_of(selection.validation)

    def validate() -> None:
        features = embed(trainer.network, images, "validation", console)
        trainer.network.module.train()
        try:
            distances = distance_of(features, features, "cosine")
            value = rank(distances, labels, labels, settings.protocol).mean_average_precision
        except ValueError as error:
            raise UserError(f"validation at step {trainer.done:,}: {error}") from error
        log.write(trainer.done, {"validation_mAP": value})
        console.say(
            f"step {trainer.done:,}: validation mAP {value:.1%}",
            event="validation",
            step=trainer.done,
            mean_average_precision=value,
        )
        if value > trainer.best:
            trainer.best = value
            trainer.export(TrainingRun(settings.out, {}).weights("best"))

    return validate


def _score(settings: TrainSettings, inputs: Inputs, console: Console) -> Exit:
    if not settings.score:
        return Exit.DONE
    scoring = ScoreSettings(
        run=settings.out,
        images=settings.images,
        root=settings.root,
        protocol=settings.protocol,
        device=settings.device,
        flip_test=settings.flip_test,
    )
    if (settings.out / REPORT).exists():
        run = read_run(settings.out)
        if not other_scoring(read_report(settings.out), scoring, run):
            console.say(f"{settings.out}: already scored ('reid score' does it again)")
            return Exit.DONE
    return score(scoring, console, inputs, replaces=True)
