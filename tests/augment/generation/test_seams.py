"""What a system may ask for: random numbers of its rows, run-time options, the target's image."""

from typing import ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from augment.checkpoints import store
from augment.generation import launch
from augment.generation.job import generate
from augment.generation.run_config import read_run_config
from augment.generators.dpig import Dpig
from augment.generators.patn import Patn
from augment.interface.condition import as_floats, condition_of
from augment.interface.randomness import RowRandom
from augment.quality.evaluate import score_pairs
from augment.quality.protocol import EvaluationProtocol
from augment.training.loop import LoopSettings, Trainer
from augment.training.samples import contact_sheet
from manifests import io, pixels
from manifests.runtime.command_line import arguments_of, parse
from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.settings import Frozen
from tests.helpers import trivial
from tests.helpers.estimators import last_column
from tests.helpers.training import TINY, made_up_images

QUIET = Console(quiet=True)


class Noisy(trivial.Trivial):
    """An image of one colour, drawn by its row; what was drawn is kept for the test."""

    drawn: ClassVar[list[torch.Tensor]] = []

    def generate(self, condition, random, options):
        colour = 2 * random.uniform(3) - 1
        assert not torch.equal(colour, 2 * random.uniform(3) - 1), "a second draw is another one"
        Noisy.drawn.append(colour)
        return colour[:, :, None, None].expand_as(condition.image).contiguous()


class Dimmed(trivial.Trivial):
    """The source, darkened as much as is chosen at run time."""

    class Options(Frozen):
        brightness: float = 0.5

    def generate(self, condition, random, options):
        return condition.image * options.brightness


class Elsewhere(trivial.Trivial):
    """The image that the target pose was seen in."""

    needs = frozenset({"target_image"})

    def generate(self, condition, random, options):
        return condition.target_image.clone()


@pytest.fixture
def people(tmp_path):
    return trivial.write_people(tmp_path / "people", num_people=4)


@pytest.fixture(autouse=True)
def nothing_drawn(monkeypatch):
    monkeypatch.setattr(Noisy, "drawn", [])


def run(people, out, network, **changes):
    settings = trivial.job_settings(people, out, image_format="png", **changes)
    return generate(settings, QUIET, trivial.trivial_weights(network=network))


def images_of(out):
    shards = sorted((out / "data").glob("*.parquet"))
    rows = [row for shard in shards for row in pq.read_table(shard).to_pylist()]
    return [
        (row, row["image"] and pixels.decode(row["image"]["bytes"], row["image_id"]))
        for row in rows
    ]


def colours_of(out):
    return [tuple(image[0, 0]) for _, image in images_of(out)]


def test_every_row_of_a_job_draws_numbers_of_its_own_whatever_the_batch_size(people, tmp_path):
    assert run(people, tmp_path / "twos", Noisy) == Exit.DONE
    assert run(people, tmp_path / "fours", Noisy, batch_size=4) == Exit.DONE

    colours = colours_of(tmp_path / "twos")
    assert len(set(colours)) == 20
    assert colours_of(tmp_path / "fours") == colours


def test_one_image_follows_from_its_seed():
    image, pose = np.zeros((128, 64, 3), np.uint8), last_column(64, 128)
    made = [Noisy().transfer(image, pose, pose, seed=seed) for seed in (0, 0, 2**64 - 1)]

    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])


def test_every_sample_of_a_training_draws_numbers_of_its_own_the_same_in_every_sheet():
    class NoisyPatn(Patn):
        generate = Noisy.generate

    loop = LoopSettings(precision="float32")
    trainer = Trainer(NoisyPatn(TINY), made_up_images(), loop, torch.device("cpu"))
    sheets = [contact_sheet(trainer) for _ in range(2)]

    first, second = Noisy.drawn
    assert len(first) == len(torch.unique(first, dim=0)) == 8
    assert torch.equal(first, second)
    assert sheets[0] == sheets[1]


def test_every_pair_of_an_evaluation_draws_numbers_of_its_own(people):
    images = io.read_images(people)
    for batch_size in (4, 3):
        Noisy.drawn.clear()
        protocol = EvaluationProtocol(split="train", count=8, batch_size=batch_size)
        score_pairs(images, {"noisy": Noisy().eval()}, protocol)
        drawn = torch.cat(Noisy.drawn)
        assert len(drawn) == len(torch.unique(drawn, dim=0)) == 8
        if batch_size == 4:
            first = drawn
    assert torch.equal(drawn, first)


def test_an_option_changes_the_key_the_images_and_is_told_when_it_differs(people, tmp_path):
    weights = trivial.trivial_weights(network=Dimmed)
    dark, darker = (
        trivial.job_settings(people, tmp_path / "out", options=Dimmed.Options(brightness=value))
        for value in (0.5, 0.25)
    )
    assert generate(dark, QUIET, weights) == Exit.DONE
    assert read_run_config(tmp_path / "out").content.options == {"brightness": 0.5}

    with pytest.raises(UserError, match=r"content\.options\.brightness: 0\.5, now 0\.25"):
        generate(darker, QUIET, weights)

    other = darker.model_copy(update={"out": tmp_path / "other"})
    assert generate(other, QUIET, weights) == Exit.DONE
    # Darker is nearer to the middle of [-1, 1].
    assert colours_of(tmp_path / "out") != colours_of(tmp_path / "other")


class Another(Dimmed):
    """Its option shows somebody else, or another pose, than the rows say."""

    options_beyond_labels = ("brightness",)


@pytest.mark.parametrize("purpose", ["training", "test-time"])
def test_an_option_that_shows_another_than_the_rows_say_is_refused(people, tmp_path, purpose):
    settings = trivial.job_settings(
        people, tmp_path / "out", options=Another.Options(brightness=0.5), purpose=purpose
    )
    with pytest.raises(UserError, match=r"--options\.brightness: found it with 'augment generate'"):
        generate(settings, QUIET, trivial.trivial_weights(network=Another))
    assert not (tmp_path / "out").exists()
    assert {"sample_foreground", "sample_pose"} == set(Dpig.options_beyond_labels)
    assert set(Dpig.options_beyond_labels) <= set(Dpig.Options.model_fields)


def test_the_defaults_of_a_system_are_options_too(people, tmp_path):
    assert run(people, tmp_path / "out", Dimmed) == Exit.DONE
    assert read_run_config(tmp_path / "out").content.options == {"brightness": 0.5}


def test_options_of_another_system_are_refused(people, tmp_path):
    settings = trivial.job_settings(people, tmp_path / "out", options=Dimmed.Options())
    with pytest.raises(UserError, match="--options: unknown setting 'brightness'"):
        generate(settings, QUIET, trivial.trivial_weights())
    assert not (tmp_path / "out").exists()


def test_options_are_flags_of_the_command_once_the_weights_name_their_system(monkeypatch):
    monkeypatch.setattr(store, "system_of", lambda weights: Dimmed)
    arguments = ["--weights", "dimmed.safetensors", "--options.brightness", "0.25"]
    settings, _ = parse(launch.settings_for(arguments), "augment generate", "", arguments)
    assert settings.job.options == Dimmed.Options(brightness=0.25)
    # A Slurm script has them too.
    assert arguments_of(settings.job)[-2:] == ["--options.brightness", "0.25"]


def test_a_system_without_options_has_the_key_that_it_had(people, tmp_path):
    assert run(people, tmp_path / "out", trivial.Trivial) == Exit.DONE
    assert "options" not in read_run_config(tmp_path / "out").model_dump(mode="json")["content"]


def test_a_system_that_asks_for_it_gets_the_image_of_its_target_pose(people, tmp_path):
    images = io.read_images(people)
    files = dict(zip(images.strings("image_id"), range(len(images)), strict=True))
    assert run(people, tmp_path / "out", Elsewhere) == Exit.DONE

    made = images_of(tmp_path / "out")
    assert len(made) == 20
    for row, image in made:
        target = pixels.read(images.file(files[row["pose_id"]])).astype(int)
        # Truncated, not rounded, on the way back from [-1, 1].
        assert np.abs(image.astype(int) - target).max() <= 1


def test_training_pairs_have_the_image_of_their_target_pose():
    images = made_up_images()
    rows = images.index.draw(seed=0, step=0, count=4)
    condition = images.pair(rows).condition
    source, target = (as_floats(images._pixels[side]) for side in rows.T)
    assert torch.equal(condition.image, source)
    assert torch.equal(condition.target_image, target)


def test_one_image_may_need_the_image_of_its_target_pose():
    image, pose = np.zeros((128, 64, 3), np.uint8), last_column(64, 128)
    seen = np.full((64, 32, 3), 200, np.uint8)
    made = Elsewhere().transfer(image, pose, pose, target_image=seen)
    assert made.shape == (128, 64, 3)
    # Truncated, not rounded, on the way back from [-1, 1].
    assert np.abs(made.astype(int) - 200).max() <= 1
    with pytest.raises(UserError, match="Elsewhere: found no target_image, expected the image"):
        Elsewhere().transfer(image, pose, pose)


def poses_of_digest(people, digest):
    """Write a table of poses beside the people, whose images are said to have a digest."""
    images = io.read_images(people)
    rows = [{**row, "sha256": digest} for row in images.table.to_pylist()]
    path = people.with_name(f"poses-{digest[:1]}.parquet")
    io.write_images(trivial.table_of(rows, images.keypoints(), images.root), path)
    return path


def test_target_images_are_part_of_a_run_only_for_systems_that_look_at_them(people, tmp_path):
    first, second = (poses_of_digest(people, digit * 64) for digit in "ab")
    # The files have other digests: every row fails, which is not the question here.
    assert run(people, tmp_path / "looks", Elsewhere, poses=first) == Exit.ROW_ERRORS
    with pytest.raises(
        UserError, match=r"content\.target_images_sha256: '[0-9a-f]{8}\.\.\.', now '"
    ):
        run(people, tmp_path / "looks", Elsewhere, poses=second)

    assert run(people, tmp_path / "does not", trivial.Trivial, poses=first) == Exit.DONE
    assert run(people, tmp_path / "does not", trivial.Trivial, poses=second) == Exit.DONE
    content = read_run_config(tmp_path / "does not").model_dump(mode="json")["content"]
    assert "target_images_sha256" not in content


def test_a_run_with_target_images_goes_on_where_it_was_killed_with_the_same_bytes(people, tmp_path):
    io.read_images(people).file(0).write_bytes(b"no image")
    assert run(people, tmp_path / "straight", Elsewhere) == Exit.ROW_ERRORS
    out = tmp_path / "out"
    assert run(people, out, Elsewhere, worker="0/2") == Exit.DONE
    # A writer died within a shard, another one left its file unpublished.
    whole = (out / "data/part-000002.parquet").read_bytes()
    (out / "data/part-000002.parquet").write_bytes(whole[: len(whole) // 2])
    (out / "data/.part-000001.parquet.0.tmp").write_bytes(whole)

    assert run(people, out, Elsewhere) == Exit.ROW_ERRORS

    assert len(list((out / "data").iterdir())) == 5
    assert trivial.files_of(out) == trivial.files_of(tmp_path / "straight")


def test_a_folder_with_none_of_the_target_images_is_refused(people, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    poses = trivial.made_up(num_people=3, first=60, root=tmp_path / "elsewhere")
    io.write_images(poses, tmp_path / "poses.parquet")
    sentence = "elsewhere: found none of 9 images of target poses that were looked for"
    with pytest.raises(UserError, match=sentence):
        run(people, tmp_path / "out", Elsewhere, poses=tmp_path / "poses.parquet")


def test_a_target_image_that_cannot_be_read_is_an_error_of_its_rows_alone(people, tmp_path):
    images = io.read_images(people)
    images.file(0).write_bytes(b"no image")
    gone = images.strings("image_id")[0]
    assert run(people, tmp_path / "out", Elsewhere) == Exit.ROW_ERRORS

    rows = [row for row, _ in images_of(tmp_path / "out")]
    failed = [row for row in rows if row["error"]]
    needing = [row for row in rows if gone in (row["pose_id"], row["source_id"])]
    assert failed == needing
    assert 0 < len(failed) < len(rows)
    assert all(gone in row["error"] for row in failed)


def test_systems_that_ask_for_nothing_open_no_target_image(people, tmp_path):
    images = io.read_images(people)
    assert run(people, tmp_path / "straight", trivial.Trivial) == Exit.DONE
    used = {row["source_id"] for row, _ in images_of(tmp_path / "straight")}
    for row, name in enumerate(images.strings("image_id")):
        if name not in used:
            images.file(row).unlink()
    assert run(people, tmp_path / "out", trivial.Trivial) == Exit.DONE


def test_a_condition_is_the_same_from_arrays_and_from_tensors():
    image = np.random.default_rng(0).integers(0, 256, (2, 128, 64, 3)).astype(np.uint8)
    joints = np.random.default_rng(1).uniform(0, 64, (2, 18, 2)).astype(np.float32)
    arrays = condition_of(image, joints, joints, device="cpu", target_image=image)
    tensors = condition_of(
        torch.from_numpy(image), torch.from_numpy(joints), torch.from_numpy(joints), device="cpu"
    )
    assert torch.equal(arrays.image, tensors.image)
    assert torch.equal(arrays.target_image, arrays.image)
    assert torch.equal(arrays.pose.joints, tensors.target_pose.joints)
    assert tensors.target_image is None
    assert len(RowRandom.numbered(2, "cpu")) == 2
