"""A training run's folder: what was asked for, how far it came, what it made.

``run.json`` is written once; ``state.pt`` holds all that the next step depends on;
``weights.safetensors`` the averaged weights; ``log.jsonl`` and ``samples/`` are for people.
"""

from __future__ import annotations

import hashlib
import math
import pickle
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field

from augment import generators
from augment.checkpoints import store
from augment.interface.condition import as_pixels
from augment.interface.system import PoseTransfer
from augment.objectives.features import BUILT_IN
from augment.pose.bank import joints_in
from augment.quality import contact_sheets
from augment.training.loop import LoopSettings, Trainer, check_finite_losses
from augment.training.pairs import TrainingImages
from manifests import io, keypoints, pixels, subset
from manifests.compute.devices import pick_device
from manifests.compute.distributed import ProcessGroup, init_distributed, rank_device
from manifests.compute.exported_networks import sha256_of_network
from manifests.compute.training_log import Progress, TrainingLog
from manifests.runtime import run_record
from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.settings import Frozen, NotNegative, Positive

Facts = dict[str, str | int | float]
"""What the header of the weights says of their training, beside the settings of the system."""


class TrainSettings(LoopSettings):
    """Train a pose-transfer network on the train rows of an images table."""

    generator: str = "patn"
    """System to train; its own settings follow as --config.NAME."""
    images: Path
    """Images table that 'augment index' made."""
    out: Path
    """Folder of this run; the same command goes on with it."""
    root: Path | None = None
    """Where the images lie, if not where the table says."""
    init: str | None = None
    """Weights to start from: a shipped name or a file of the same system and settings.
    Discriminators that the file holds start from it too."""
    first_step: int | None = None
    """Step of the plan at which to begin with --init: where those weights stand in it."""
    real_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Train on this part of the train rows, spread over all people."""
    data_seed: int = 0
    """Draws that part; 'augment generate' and 'reid train' draw the same for the same seed."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    save_every: Positive = 250
    """Steps between two checkpoints."""
    log_every: Positive = 50
    """Steps between two lines of the log."""
    samples_every: Positive = 1_000
    """Steps between two contact sheets."""
    stop_after_minutes: NotNegative | None = None
    """Save and leave with exit code 75 after so long; the same command goes on."""
    fp16: bool = True
    """Store the weights in half precision."""


NOT_PART_OF_THE_RUN = (
    "images",
    "out",
    "root",
    "device",
    "save_every",
    "log_every",
    "samples_every",
    "stop_after_minutes",
)
"""Settings that a resumed run may change; the images are compared by their digests."""

DECIDING_FACTS = (
    "train_sha256",
    "identity_sha256",
    "features_sha256",
    "init_sha256",
    "processes",
)
"""Facts that a resumed run must share, where they apply."""

OWN_FILES = ("state.pt", "weights.safetensors", "log.jsonl", "samples", "_SUCCESS")
"""What a run writes beside ``run.json``; where that is missing, these are somebody else's."""

NUM_SAMPLES = 8
SAMPLES_STREAM = 1 << 20
"""A stream of draws that no step of a training run uses."""


def settings_for(words: Sequence[str]) -> type[TrainSettings]:
    """Return the settings of ``augment train``, with those of the system that the words name.

    Raises:
        UserError: If there is no such system.
    """
    return generators.with_config(TrainSettings, words)


def train(settings: TrainSettings, console: Console) -> Exit:
    """Train, or go on, until the plan's end.

    Args:
        settings: Of the class that ``settings_for`` gives.
        console: Where progress goes.

    Raises:
        UserError: If the folder belongs to a run with other settings, or the input is unusable.
    """
    deadline = _Deadline(settings.stop_after_minutes)
    device = pick_device(rank_device(settings.device))
    with init_distributed(device) as group:
        if not group.is_primary:
            console = Console(quiet=True)
        return _train(settings, device, group, deadline, console)


def _train(
    settings: TrainSettings,
    device: torch.device,
    group: ProcessGroup,
    deadline: _Deadline,
    console: Console,
) -> Exit:
    out = settings.out
    facts = _sources(settings) | ({"processes": group.size} if group.size > 1 else {})
    network = _network(settings, device)
    training, of_images = _load_images(settings, network.image_size, device, console)
    facts |= of_images
    trainer = Trainer(network, training, settings, device, group)
    trainer.step = _first_step(settings, trainer.num_steps)
    # Last of the checks: what is refused before shall not make the folder that of another run.
    _claim(settings, facts)
    if group.is_primary:
        _clear_leftovers(out)
    if (out / "_SUCCESS").exists():
        console.say(f"{out}: already complete")
        return Exit.DONE
    state = out / "state.pt"
    if state.exists():
        trainer.restore(_read_state(state, device))
        console.say(f"{out}: goes on from step {trainer.step:,}")
    if _walk(trainer, settings, deadline, lambda: _save(trainer, settings, facts), console):
        if group.is_primary:
            io.write_bytes(b"", out / "_SUCCESS")
        console.say(f"{out / 'weights.safetensors'}: trained {trainer.step:,} steps")
        return Exit.DONE
    console.say(f"{out}: stopped at step {trainer.step:,}; the same command goes on")
    return Exit.STOPPED_EARLY


def _claim(settings: TrainSettings, facts: Facts) -> None:
    """Make the folder the home of this run, or check that it is.

    Raises:
        UserError: If it is that of another run, holds files that this one would overwrite, or
            cannot be written.
    """
    out = settings.out
    expected = "a new folder or a run of 'augment train'"
    run_record.check_no_unexpected_files(
        out, (name for name in OWN_FILES if (out / name).exists()), expected
    )
    if (out / run_record.RUN_RECORD).is_file() and "config" not in run_record.read(
        out / run_record.RUN_RECORD
    )["config"]:
        raise UserError(f"{out}: found the run of another command, expected {expected}")
    asked = settings.model_dump(mode="json", exclude=set(NOT_PART_OF_THE_RUN)) | {
        name: facts[name] for name in DECIDING_FACTS if name in facts
    }
    run_record.write(out, asked, {"versions": run_record.versions("torch", "numpy")})


def _save(trainer: Trainer, settings: TrainSettings, facts: Facts) -> None:
    """Write the averaged weights and the state; every process has to call it."""
    content = trainer.state()
    if not trainer.group.is_primary:
        return
    header = store.Header(
        generator=settings.generator,
        config=_config(settings).model_dump(mode="json"),
        facts={**facts, "steps": trainer.step, "images_seen": trainer.images_seen},
    )
    weights = settings.out / "weights.safetensors"
    store.save_weights(trainer.ema.tensors, weights, header, fp16=settings.fp16)
    # Last: what a killed run finds here, all other files already stand for.
    with io.replacing(settings.out / "state.pt") as file:
        torch.save(_unshared(content), file)


def _read_state(path: Path, device: torch.device) -> dict[str, object]:
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(
            f"{path}: found no readable training state, expected the file that this command "
            "wrote; put it back, or remove it to begin at the first step"
        ) from error


def _config(settings: TrainSettings) -> Frozen:
    return getattr(settings, "config")  # noqa: B009 - the class is made by settings_for


def _unshared(value: Any) -> Any:
    """Return an equal value whose pickle depends on what it says alone.

    Pickle writes an object that it meets again as a reference, so two equal strings are one or two
    objects by how a process came by them: a straight run and a resumed one would differ in bytes.
    """
    if isinstance(value, str):
        return sys.intern(value)
    if isinstance(value, Mapping):
        return {_unshared(key): _unshared(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_unshared(entry) for entry in value])
    return value


def _walk(
    trainer: Trainer,
    settings: TrainSettings,
    deadline: _Deadline,
    save: Callable[[], None],
    console: Console,
) -> bool:
    """Make the remaining steps; return whether the plan's end was reached."""
    out, group = settings.out, trainer.group
    log = TrainingLog(out / "log.jsonl", trainer.step, trainer.num_steps, group=group)
    stop = _StopAsked()
    with stop, console.progress("train", trainer.num_steps, "step", trainer.step) as bar:
        for terms in trainer.steps():
            step = trainer.step
            log.add(terms, trainer.stage.batch_size)
            bar.advance()
            last = step == trainer.num_steps
            if last or step % settings.log_every == 0:
                progress = log.progress(step)
                line = _line(progress)
                log.write(step, line)
                check_finite_losses(progress.losses, step)
                text = _sentence(progress, step, trainer.num_steps)
                console.say(text, event="train", step=step, **line)
            if group.is_primary and (last or step % settings.samples_every == 0):
                io.write_bytes(_samples(trainer), out / "samples" / f"step-{step:06d}.png")
            stopping = group.any(stop.asked or deadline.passed())
            if last or stopping or step % settings.save_every == 0:
                save()
            if stopping and not last:
                return False
    return True


class _Deadline:
    """When a command that was given some minutes has to stop."""

    def __init__(self, minutes: float | None) -> None:
        self._end = math.inf if minutes is None else time.monotonic() + 60 * minutes

    def passed(self) -> bool:
        return time.monotonic() >= self._end


class _StopAsked:
    """Notes SIGTERM instead of dying of it."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> None:
        self._previous = signal.signal(signal.SIGTERM, self._note)

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._previous)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.asked = True


def _load_images(
    settings: TrainSettings, image_size: tuple[int, int], device: torch.device, console: Console
) -> tuple[TrainingImages, Facts]:
    """Return the train images, stretched to (height, width), and what the weights owe to them."""
    images = io.read_images(settings.images, settings.root)
    images = subset.subset_train(images, settings.real_fraction, settings.data_seed).only("train")
    height, width = image_size
    joints = joints_in(images, (width, height))
    decoded = pixels.read_all(images, (width, height))
    people = images.strings("person_id")
    training = TrainingImages(decoded, joints, people, device)
    num_people = len(set(people))
    console.say(
        f"{len(images):,} train images of {num_people:,} people, "
        f"{int(keypoints.has_torso(joints).sum()):,} with shoulders and hips, "
        f"{training.index.num_pairs:,} pairs"
    )
    digests = "\n".join(map(str, images.strings("sha256")))
    return training, {
        "train_images": len(images),
        "train_people": num_people,
        "train_pairs": training.index.num_pairs,
        "train_sha256": hashlib.sha256(digests.encode()).hexdigest(),
        "train_split": "train",
        "real_fraction": settings.real_fraction,
        "data_seed": settings.data_seed,
        "seed": settings.seed,
    }


def _sources(settings: TrainSettings) -> Facts:
    """Return which files the weights owe something to, by their digests."""
    facts: Facts = {}
    for name in ("identity", "features"):
        network: str | None = getattr(_config(settings), name, None)
        if network is not None and network not in BUILT_IN:
            facts[f"{name}_sha256"] = sha256_of_network(network, f"--config.{name}")
    if settings.init is not None:
        path = store.find(settings.init)
        header = store.read_header(path)
        if header.generator != settings.generator:
            raise UserError(
                f"--init: {path} holds weights of {header.generator}, expected those of "
                f"{settings.generator}"
            )
        before = header.facts.get("steps", "unknown")
        facts |= {"init_sha256": io.sha256_file(path), "init_steps": before}
        if "terms" in header.facts:
            # What is trained on from weights under somebody's terms stays under them.
            facts["terms"] = header.facts["terms"]
    return facts


def _first_step(settings: TrainSettings, num_steps: int) -> int:
    first = settings.first_step
    if first is None:
        return 0
    if settings.init is None:
        raise UserError(f"--first-step {first}: found no --init, expected weights to begin with")
    if not 0 <= first < num_steps:
        raise UserError(f"--first-step {first}: expected a step from 0 to {num_steps - 1:,}")
    return first


def _clear_leftovers(out: Path) -> None:
    """Remove the half-written files of a process that was killed."""
    for name in ("state.pt", "weights.safetensors", "log.jsonl", "samples/step-*.png", "_SUCCESS"):
        folder, _, last = name.rpartition("/")
        for path in sorted((out / folder).glob(f".{last}.*.tmp")):
            path.unlink()


def _network(settings: TrainSettings, device: torch.device) -> PoseTransfer:
    torch.manual_seed(settings.seed)
    network = generators.system(settings.generator)(_config(settings))
    if settings.init is not None:
        _start_from(network, store.find(settings.init))
    network.to(device)
    if settings.compile:
        for child in network.children():
            child.compile()
    return network


def _start_from(network: PoseTransfer, path: Path) -> None:
    tensors = store.read_tensors(path)
    store.check_same_tensors(tensors, store.expected_tensors(network, tensors), str(path))
    network.load_state_dict(tensors, strict=False)


def _line(progress: Progress) -> dict[str, float]:
    """Return what a line of ``log.jsonl`` says beside the step."""
    return {
        "images_per_second": round(progress.images_per_second, 2),
        "seconds_left": round(progress.seconds_left),
        **progress.losses,
    }


def _sentence(progress: Progress, step: int, num_steps: int) -> str:
    losses = "  ".join(
        f"{name.split('/')[-1]} {value:.3f}" for name, value in progress.losses.items()
    )
    return (
        f"step {step:,}/{num_steps:,}  {progress.images_per_second:.1f} img/s  "
        f"{progress.seconds_left / 60:.0f} min left  {losses}"
    )


def _samples(trainer: Trainer) -> bytes:
    """Return a contact sheet of a few fixed pairs, made with the averaged weights, as PNG."""
    rows = trainer.images.index.draw(0, 0, NUM_SAMPLES, stream=SAMPLES_STREAM)
    pair = trainer.images.pair(rows)
    condition = pair.condition
    network = trainer.network
    noise = torch.zeros(NUM_SAMPLES, network.noise_width(), device=trainer.device)
    with trainer.ema.in_place_of(network), torch.inference_mode():
        network.eval()
        made = network.generate(condition, noise if network.noise_width() else None)
    columns = [
        ("source", as_pixels(condition.image)),
        ("target pose", None),
        ("generated", as_pixels(made)),
        ("real", as_pixels(pair.target)),
    ]
    height, width = network.image_size
    poses = np.stack(
        [
            contact_sheets.draw_pose(joints, (width, height))
            for joints in condition.target_pose.joints.cpu().numpy()
        ]
    )
    return contact_sheets.as_png(
        contact_sheets.contact_sheet(
            [
                (title, poses if images is None else images.cpu().numpy())
                for title, images in columns
            ]
        )
    )
