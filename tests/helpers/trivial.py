"""A generator that is fast and depends on all its inputs, and people for it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from pydantic import create_model

from augment.generation.resolve import Weights
from augment.generation.settings import GenerateSettings
from augment.interface.system import PoseTransfer
from manifests import io, pixels
from manifests.io import Images
from manifests.masks import encode_mask
from manifests.runtime.settings import Frozen
from manifests.schema import IMAGES
from tests.helpers.poses import upright


class Trivial(PoseTransfer):
    """Shifts the colours of the source by the mean joint of the target pose."""

    sampling = ()
    width = 0

    class Config(Frozen):
        pass

    def stages(self):
        return ()

    def run(self, pair, stage):
        raise NotImplementedError

    def losses(self, phase, pair, outputs):
        raise NotImplementedError

    @classmethod
    def from_official(cls, weights):
        raise NotImplementedError

    def generate(self, condition, random, options):
        joints = torch.nan_to_num(condition.target_pose.joints)
        shift = joints.mean(dim=(1, 2)) / 64 - 0.5
        if self.width:
            shift = shift + 0.1 * random.normal(self.width).mean(dim=1)
        return 0.6 * condition.image + 0.4 * shift[:, None, None, None].clamp(-1, 1)


def trivial_weights(sha256="0" * 64, network=Trivial):
    return Weights(
        "trivial",
        sha256,
        (128, 64),
        lambda device: network().to(device),
        system=network,
        needs=network.needs,
    )


def table_of(rows, joints, root):
    """Return an images table of dictionaries and joints."""
    table = pa.Table.from_pylist([{**row, "keypoints": None} for row in rows], IMAGES)
    index = IMAGES.get_field_index("keypoints")
    column = io.keypoint_column(np.asarray(joints, np.float32))
    return Images(table.set_column(index, IMAGES.field("keypoints"), column), Path(root), {})


def made_up(
    num_people=4,
    images_per_person=3,
    *,
    split="train",
    first=2,
    seed=0,
    root=".",
    missing=(),
    masked=False,
):
    """Return an images table without files: names of Market-1501, random poses."""
    generator = np.random.default_rng(seed)
    rows = [
        {
            "image_id": f"{first + person:04d}_c{image + 1}s1_{image:06d}_01.jpg",
            "path": f"{first + person:04d}_c{image + 1}s1_{image:06d}_01.jpg",
            "split": split,
            "person_id": f"{first + person:04d}",
            "camera_id": image + 1,
            "sequence": 1,
            "frame": image,
            "width": 64,
            "height": 128,
            "sha256": None,
            "mask": encode_mask(box(person + image)) if masked else None,
            "mask_source": "files" if masked else None,
        }
        for person in range(num_people)
        for image in range(images_per_person)
    ]
    joints = upright(generator.uniform(0, 64, (len(rows), 18, 2)))
    joints[:, list(missing)] = np.nan
    return table_of(rows, joints, root)


def box(number):
    """Return a mask of 128 x 64 pixels that differs from number to number."""
    mask = np.zeros((128, 64), bool)
    mask[20 + number : 100 + number, 20 - number : 44] = True
    return mask


def write_people(folder, **kinds):
    """Write a table and its images; return the table's path."""
    folder.mkdir(parents=True, exist_ok=True)
    images = made_up(root=folder, **kinds)
    for row in range(len(images)):
        colour = np.random.default_rng(row).integers(0, 256, (16, 8, 3)).astype(np.uint8)
        pixel = np.kron(colour, np.ones((8, 8, 1), np.uint8))
        images.file(row).write_bytes(pixels.encode_jpeg(pixel))
    io.write_images(images, folder / "images.parquet")
    return folder / "images.parquet"


def job_settings(images, out, **changes):
    """Return settings of a small job: 4 people x 5 images in 5 shards of 4 rows, batches of 2."""
    chosen = {
        "per_id": 5,
        "batch_size": 2,
        "rows_per_shard": 4,
        "precision": "float32",
        "threads": 1,
        **changes,
    }
    settings = GenerateSettings
    if "options" in chosen:
        options = chosen["options"]
        settings = create_model(
            "GenerateSettings", __base__=GenerateSettings, options=(type(options), options)
        )
    return settings(images=images, out=out, device="cpu", **chosen)


def files_of(out):
    """Return the bytes of all that a run leaves, except what it has of its command line."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in {"run.json", "settings.yaml"}
    }
