"""What a training starts from: images, a network, the files that its weights owe something to."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from augment import generators
from augment.checkpoints import store
from augment.interface.system import PoseTransfer
from augment.objectives.exported_features import ExportedFeatures
from augment.objectives.features import Features, sha256_of_features
from augment.objectives.identity import IdentityLoss
from augment.objectives.imagenet_features import ImageNetFeatures
from augment.pose.bank import joints_in
from augment.training.pairs import TrainingImages
from augment.training.settings import TrainSettings, config_of
from manifests import io, keypoints, pixels, subset
from manifests.compute.exported_networks import sha256_of_network
from manifests.masks import read_masks
from manifests.runtime.console import Console, UserError
from manifests.scenes import take_apart

Facts = dict[str, str | int | float]
"""What the header of the weights says of their training, beside the settings of the system."""


def load_images(
    settings: TrainSettings, network: PoseTransfer, device: torch.device, console: Console
) -> tuple[TrainingImages, Facts]:
    """Return the train images, stretched to the network's, and what the weights owe to them.

    Raises:
        UserError: If an image cannot be read, or the network needs masks and there are none.
    """
    images = io.read_images(settings.images, settings.root)
    images = subset.subset_train(images, settings.real_fraction, settings.data_seed).only("train")
    height, width = network.image_size
    joints = joints_in(images, (width, height))
    decoded = pixels.read_all(images, (width, height))
    people = images.strings("person_id")
    scenes = None
    if network.needs & {"mask", "background"}:
        scenes = take_apart(decoded, *read_masks(images, (width, height)))
        if not len(scenes.rows):
            raise UserError(
                f"--generator {settings.generator}: found no train image with a mask, which it "
                "needs; 'augment detect --masks' adds them"
            )
        console.say(
            f"{len(scenes.rows):,} of {len(images):,} train images have a mask and a street"
        )
    training = TrainingImages(decoded, joints, people, device, scenes)
    num_people = len(set(people))
    console.say(
        f"{len(images):,} train images of {num_people:,} people, "
        f"{int(keypoints.has_torso(joints).sum()):,} with shoulders and hips, "
        f"{training.index.num_pairs:,} pairs"
    )
    return training, {
        "train_images": len(images),
        "train_people": num_people,
        "train_pairs": training.index.num_pairs,
        "train_sha256": subset.sha256_of_images(images),
        "train_split": "train",
        "real_fraction": settings.real_fraction,
        "data_seed": settings.data_seed,
        "seed": settings.seed,
    }


def facts_of_files(settings: TrainSettings) -> Facts:
    """Return which files the weights owe something to, by their digests.

    Raises:
        UserError: If one is missing, or ``--init`` names weights of another system.
    """
    facts: Facts = {}
    config = config_of(settings)
    identity: str | None = getattr(config, "identity", None)
    if identity is not None:
        facts["identity_sha256"] = sha256_of_network(identity, "--config.identity")
    features: str | None = getattr(config, "features", None)
    digest = None if features is None else sha256_of_features(features)
    if digest is not None:
        facts["features_sha256"] = digest
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


def build_network(settings: TrainSettings, device: torch.device) -> PoseTransfer:
    """Return the network with its first weights: random, or those of ``--init``."""
    torch.manual_seed(settings.seed)
    network = generators.system(settings.generator)(config_of(settings))
    if settings.init is not None:
        load_initial_weights(network, store.find(settings.init))
    network.to(device)
    if settings.compile:
        compile_children(network)
    return network


def compile_children(module: nn.Module) -> None:
    """Compile the children of a module that are called, those within containers one by one."""
    for child in module.children():
        if type(child).forward is nn.Module.forward:
            compile_children(child)
        else:
            child.compile()


def load_frozen_networks(network: PoseTransfer, device: torch.device) -> None:
    """Read the feature and identity networks of the losses, which else the first step does.

    Raises:
        UserError: If one cannot be had, or was made for images of another size.
    """
    blank = torch.zeros(1, 3, *network.image_size, device=device)
    for module in network.modules():
        for value in vars(module).values():
            if isinstance(value, IdentityLoss):
                value(blank, blank)
            elif isinstance(value, Features | ExportedFeatures | ImageNetFeatures):
                value(blank)


def load_initial_weights(network: PoseTransfer, path: Path) -> None:
    """Load the weights of a file, with the discriminators that it holds.

    Raises:
        UserError: If its tensors are not those of the system.
    """
    tensors = store.read_tensors(path)
    store.check_same_tensors(tensors, store.expected_tensors(network, tensors), str(path))
    network.load_state_dict(tensors, strict=False)
