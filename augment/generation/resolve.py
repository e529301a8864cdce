"""From settings and environment to what a run is: its weights, its plan, its ``RunConfig``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch

from augment.checkpoints import store
from augment.generation.at_test_time import test_time_plan
from augment.generation.choices import Choices
from augment.generation.new_people import check_new_people, new_people_plan
from augment.generation.options import options_of
from augment.generation.plan import GenerationPlan, make_plan
from augment.generation.run_config import (
    Content,
    Encoding,
    RunConfig,
    Sampling,
    default_rows_per_shard,
    masks_digest,
    table_digest,
)
from augment.generation.sampler import repays_compiling
from augment.generation.settings import GenerateSettings
from augment.generation.target_poses import camera_numbers
from augment.interface.system import Need, PoseTransfer
from augment.pose.bank import PoseBank, pose_bank
from augment.pose.canonical import canonical_bank
from manifests import io, subset
from manifests.centrality import centrality_facts, centrality_of
from manifests.compute.devices import device_class, own_gpu, pick_device
from manifests.compute.precision import fast_precision
from manifests.runtime import cluster
from manifests.runtime.console import UserError
from manifests.schema import UNKNOWN_CAMERA

CPU_BATCH_SIZE: Final = 16
GPU_BATCH_SIZE: Final = 256


@dataclass(frozen=True, slots=True)
class Weights:
    """A trained network that is loaded when it is needed."""

    generator: str
    sha256: str
    image_size: tuple[int, int]
    """(height, width)."""
    load: Callable[[torch.device], PoseTransfer]
    facts: Mapping[str, str | int | float] = field(default_factory=dict[str, str | int | float])
    """What the weights say of their training."""
    system: type[PoseTransfer] = PoseTransfer
    """Its ``Options``, and what it can do."""
    needs: frozenset[Need] = frozenset()
    """Of this very network: a system may leave it to its settings."""
    about: str = ""
    """Their name and terms, for people."""


def open_weights(name: str) -> Weights:
    """Return shipped weights or those of a file.

    Raises:
        UserError: If there is no such file or it is none of ours.
    """
    path = store.find(name)
    network = store.load(path)
    header = store.read_header(path)
    return Weights(
        generator=header.generator,
        sha256=io.sha256_file(path),
        image_size=network.image_size,
        load=network.to,
        facts=header.facts,
        system=type(network),
        needs=network.needs,
        about=store.name_and_terms(name),
    )


def plan_of(settings: GenerateSettings, weights: Weights) -> GenerationPlan:
    """Return the plan of a job.

    Args:
        settings: Where the tables are, how many images, which seed.
        weights: The size of their images, and what they need of sources and poses.

    Raises:
        UserError: If a table is bad, the bank too small, or a choice makes no difference.
    """
    assert settings.images is not None, "made-up people are drawn before"
    images = io.read_images(settings.images, settings.root)
    _check_no_new_people(settings)
    if not settings.people.new_people:
        _check_options(settings, weights)
    if settings.purpose == "test-time":
        _check_test_time(settings, weights)
        return test_time_plan(
            images,
            _bank_size(weights),
            settings.choices,
            settings.seed,
            weights.needs,
        )
    images = subset.subset_train(images, settings.real_fraction, settings.data_seed)
    # Most systems never open the poses' own images, so they may lie anywhere or nowhere.
    poses = images if settings.poses is None else io.read_images(settings.poses, settings.root)
    if settings.people.new_people:
        check_new_people(settings.people, weights.system, settings.choices, images)
        _check_plain(settings, weights)
    else:
        _check_choices(settings.choices, weights, images, poses)
        if settings.choices.source == "most-central":
            _check_centrality(settings, images)
    needs = weights.needs
    size = _bank_size(weights)
    own_streets = settings.choices.pose_choice == "canonical" and "background" in needs
    bank = _bank(settings, poses, size, streets="background" in needs)
    if settings.people.new_people:
        return new_people_plan(images, bank, settings.people, settings.per_id, settings.seed)
    return make_plan(
        images,
        bank,
        settings.per_id,
        settings.seed,
        size,
        masked="mask" in needs,
        keeps_pose=weights.system.keeps_pose,
        own_streets=own_streets,
        choices=settings.choices,
    )


def resolve(
    settings: GenerateSettings, plan: GenerationPlan, weights: Weights, found: RunConfig | None
) -> RunConfig:
    """Return the run that the settings ask for; what is 'auto' is as in ``found``, if given.

    Raises:
        UserError: If a number is out of range or the device is not there.
    """
    _check_numbers(settings)
    height, width = weights.image_size
    choices = settings.choices
    if settings.purpose == "test-time":
        choices = choices.model_copy(update={"pose_choice": "canonical"})
    lossy = settings.image_format == "jpg"
    content = Content(
        generator=weights.generator,
        weights_sha256=weights.sha256,
        images_sha256=table_digest(plan.sources),
        poses_sha256=plan.bank.digest,
        target_images_sha256=_target_images(plan, weights),
        masks_sha256=_masks(plan, weights),
        centrality_sha256=_centrality(plan),
        rows=len(plan),
        per_id=plan.per_id,
        purpose=settings.purpose,
        seed=settings.seed,
        **choices.model_dump(),
        **settings.people.model_dump(),
        options=options_of(settings, weights.system).model_dump(mode="json"),
        width=width,
        height=height,
        encoding=Encoding(
            image_format=settings.image_format,
            quality=settings.quality if lossy else None,
            subsampling=settings.subsampling if lossy else None,
        ),
        sampling=_sampling(settings, found, len(plan)),
    )
    return RunConfig(content=content, rows_per_shard=_rows_per_shard(settings, found, content))


def resolve_again(run: RunConfig, settings: GenerateSettings, found: RunConfig) -> RunConfig:
    """Return the run with what is 'auto' as in ``found``; no table is hashed again.

    Raises:
        UserError: If the device of ``found`` is not there.
    """
    sampling = _sampling(settings, found, run.content.rows)
    content = run.content.model_copy(update={"sampling": sampling})
    return RunConfig(content=content, rows_per_shard=_rows_per_shard(settings, found, content))


def _bank_size(weights: Weights) -> tuple[int, int]:
    """Return (width, height) of the images, to which poses are stretched."""
    height, width = weights.image_size
    return width, height


def _bank(
    settings: GenerateSettings, poses: io.Images, size: tuple[int, int], *, streets: bool
) -> PoseBank:
    if settings.choices.pose_choice != "canonical":
        return pose_bank(poses, size, streets=streets)
    if settings.poses is not None:
        raise UserError(
            f"--poses {settings.poses}: found with --pose-choice canonical, which brings poses of "
            "its own; expected one of them"
        )
    return canonical_bank(size)


def _check_test_time(settings: GenerateSettings, weights: Weights) -> None:
    """Refuse what means nothing where every test image is shown in the same poses."""
    fields, choices = GenerateSettings.model_fields, Choices.model_fields
    found_by_flag = {
        **{name: (getattr(settings, name), fields[name].default) for name in _OF_TRAINING},
        **{name: (getattr(settings.choices, name), choices[name].default) for name in _OF_CHOICE},
    }
    for name, (found, default) in found_by_flag.items():
        if found != default:
            raise UserError(
                f"--{name.replace('_', '-')}: found {found} with --purpose test-time, expected "
                "none: every query and gallery image is shown in each of the eight canonical poses"
            )
    if settings.people.new_people:
        raise UserError(
            f"--new-people {settings.people.new_people}: found with --purpose test-time, which "
            "shows query and gallery images; expected one of them"
        )
    if settings.choices.pose_choice not in {"uniform", "canonical"}:
        raise UserError(
            f"--pose-choice: found {settings.choices.pose_choice} with --purpose test-time, "
            "expected canonical"
        )
    _check_canonical("--purpose test-time", weights)


_OF_TRAINING: Final = ("per_id", "poses", "real_fraction", "data_seed")
_OF_CHOICE: Final = ("source", "candidate_poses", "backgrounds")


def _check_canonical(flag: str, weights: Weights) -> None:
    """Refuse systems that canonical poses say too little to."""
    if weights.system.keeps_pose:
        raise UserError(
            f"{flag}: found weights of {weights.generator}, which shows people in their own poses; "
            "expected weights of a system that moves people, such as patn or posewarp"
        )
    if "target_image" in weights.needs:
        raise UserError(
            f"{flag}: found weights of {weights.generator}, which looks at the image that a target "
            "pose was seen in; canonical poses have none, expected weights of patn or posewarp, say"
        )


def _check_options(settings: GenerateSettings, weights: Weights) -> None:
    """Refuse options whose images show another person or pose than their rows would say."""
    options = options_of(settings, weights.system)
    for name in weights.system.options_beyond_labels:
        if getattr(options, name):
            raise UserError(
                f"--options.{name.replace('_', '-')}: found it with 'augment generate', whose rows "
                "say who is shown in which pose, and this draws another; expected it with "
                "'augment transfer', or --new-people, which draws people with labels of their own"
            )


def _check_no_new_people(settings: GenerateSettings) -> None:
    if settings.people.first_person != 1 and not settings.people.new_people:
        raise UserError(
            f"--first-person {settings.people.first_person}: found no --new-people, expected how "
            "many people to draw"
        )


def _check_plain(settings: GenerateSettings, weights: Weights) -> None:
    """Refuse what new people are not drawn by."""
    if options_of(settings, weights.system) != weights.system.Options():
        raise UserError(
            "--options: found some that are not the defaults beside --new-people, which draws "
            "people and backgrounds anyway; expected none"
        )
    if settings.compile == "yes":
        raise UserError("--compile yes: found --new-people, expected --compile no or auto")


def _check_choices(choices: Choices, weights: Weights, images: io.Images, poses: io.Images) -> None:
    """Refuse what could choose nothing: a run that ignores a flag is taken for what it is not."""
    if choices.backgrounds != "any" and "background" not in weights.needs:
        raise UserError(
            f"--backgrounds {choices.backgrounds}: found weights of {weights.generator}, which "
            "shows no street of another image; expected --backgrounds any, or weights of posewarp "
            "or recompose"
        )
    if choices.pose_choice == "canonical":
        _check_canonical("--pose-choice canonical", weights)
        if choices.backgrounds != "any":
            raise UserError(
                f"--backgrounds {choices.backgrounds}: found with --pose-choice canonical, whose "
                "poses are shown before the source's own street; expected --backgrounds any"
            )
    elif choices.same_scale and "background" in weights.needs:
        raise UserError(
            f"--same-scale: found weights of {weights.generator}, which shows people in the place "
            "where somebody stood in a street; expected --pose-choice canonical, or weights of a "
            "system without streets, such as patn"
        )
    if choices.same_scale and weights.system.keeps_pose:
        raise UserError(
            f"--same-scale: found weights of {weights.generator}, which shows people in their own "
            "poses; expected no --same-scale"
        )
    if choices.pose_choice != "uniform" and weights.system.keeps_pose:
        raise UserError(
            f"--pose-choice {choices.pose_choice}: found weights of {weights.generator}, which "
            "shows people in their own poses; expected --pose-choice uniform"
        )
    for flag, looks, table in (
        (f"--backgrounds {choices.backgrounds}", choices.backgrounds != "any", poses),
        ("--source each-camera", choices.source == "each-camera", images),
    ):
        train = camera_numbers(table.only("train"))
        if looks and (train == UNKNOWN_CAMERA).all():
            raise UserError(
                f"{flag}: found no camera in {len(train):,} train images, expected some (camera_id)"
            )


def _check_centrality(settings: GenerateSettings, images: io.Images) -> None:
    """Refuse a table without it, and one where images outside the fraction had a say in it."""
    flag = "--source most-central"
    facts = centrality_facts(images.provenance)
    if facts is None or np.isnan(centrality_of(images)).all():
        raise UserError(
            f"{flag}: found no centrality of any of {len(images.only('train')):,} train images, "
            f"expected some; 'reid centrality RUN --images {settings.images} --out FILE' adds it"
        )
    wanted = (settings.real_fraction, settings.data_seed)
    found = (facts.real_fraction, facts.data_seed)
    if wanted != found and not wanted[0] == found[0] == 1:
        raise UserError(
            f"{flag}: found centrality by --real-fraction {found[0]:g} --data-seed {found[1]} in "
            f"{settings.images}, expected --real-fraction {wanted[0]:g} --data-seed {wanted[1]}: "
            "else other images had a say in it"
        )


def _centrality(plan: GenerationPlan) -> str | None:
    if plan.picker.choices.source != "most-central":
        return None
    return hashlib.sha256(centrality_of(plan.sources).astype("<f4").tobytes()).hexdigest()


def _target_images(plan: GenerationPlan, weights: Weights) -> str | None:
    needed = weights.needs & {"target_image", "background"} and not plan.own_streets
    return subset.sha256_of_images(plan.bank.images) if needed else None


def _masks(plan: GenerationPlan, weights: Weights) -> str | None:
    needs = weights.needs
    sources = [plan.sources] if "mask" in needs else []
    seen = [plan.bank.images] if "background" in needs and not plan.own_streets else []
    return masks_digest([*sources, *seen]) if sources or seen else None


def _rows_per_shard(settings: GenerateSettings, found: RunConfig | None, content: Content) -> int:
    if settings.rows_per_shard != "auto":
        return settings.rows_per_shard
    if found is not None:
        return found.rows_per_shard
    return default_rows_per_shard(content.rows, content.sampling.batch_size)


def _sampling(settings: GenerateSettings, run: RunConfig | None, num_rows: int) -> Sampling:
    found = None if run is None else run.content.sampling
    name = found.device if found is not None and settings.device == "auto" else settings.device
    device = own_device(name)
    on_cpu = device.type == "cpu"
    precision, batch_size, threads = settings.precision, settings.batch_size, settings.threads
    if precision == "auto":
        precision = fast_precision(device) if found is None else found.precision
    if batch_size == "auto":
        best = CPU_BATCH_SIZE if on_cpu else GPU_BATCH_SIZE
        batch_size = best if found is None else found.batch_size
    if threads == "auto":
        threads = torch.get_num_threads() if found is None else found.threads
    compiled = settings.compile == "yes"
    if settings.compile == "auto":
        # Every worker compiles for itself.
        share = (
            num_rows
            // cluster.worker_index(settings.worker, os.environ, settings.num_workers).count
        )
        repays = not settings.people.new_people and repays_compiling(device, share)
        compiled = repays if found is None else found.compiled
    return Sampling(
        device=device.type,
        precision=precision,
        batch_size=batch_size,
        threads=threads,
        cpu=device_class(device) if on_cpu else None,
        torch=torch.__version__,
        compiled=compiled,
    )


def own_device(name: str) -> torch.device:
    """Return the device of a name; of several GPUs, that of this process's local rank.

    Raises:
        UserError: If there is no such device.
    """
    return pick_device(own_gpu(name, os.environ, torch.cuda.device_count()))


def _check_numbers(settings: GenerateSettings) -> None:
    for name in ("batch_size", "threads", "rows_per_shard"):
        value = getattr(settings, name)
        if value != "auto" and value < 1:
            raise UserError(f"--{name.replace('_', '-')}: found {value}, expected at least 1")
    if not 1 <= settings.quality <= 100:
        raise UserError(f"--quality: found {settings.quality}, expected 1 to 100")
