"""Workers: rows to images."""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from augment.generation import reading
from augment.generation.encoding import encode
from augment.generation.job import generate
from augment.generation.plan import GenerationPlan
from augment.generation.run_config import Encoding
from augment.generation.shard_actor import ShardActor
from augment.interface.condition import as_floats, as_pixels
from manifests import io, pixels
from manifests.runtime.console import Console, Exit, UserError
from manifests.runtime.prefetch import prefetch
from manifests.schema import SHARD
from tests.helpers import trivial

QUIET = Console(quiet=True)


@pytest.fixture
def people(tmp_path):
    return trivial.write_people(tmp_path / "people")


def run(people, out, weights=None, **changes):
    return generate(
        trivial.job_settings(people, out, **changes), QUIET, weights or trivial.trivial_weights()
    )


def shard_rows(out):
    shards = sorted((out / "data").iterdir())
    return [row for shard in shards for row in pq.read_table(shard).to_pylist()]


def test_an_image_is_the_network_s_answer_to_its_source_and_target_pose(people, tmp_path):
    run(people, tmp_path / "out", image_format="png")

    images = io.read_images(people)
    row_of = {name: row for row, name in enumerate(images.strings("image_id"))}
    joints = images.keypoints()
    for row in shard_rows(tmp_path / "out"):
        source = pixels.read(images.file(row_of[row["source_id"]]))
        shift = joints[row_of[row["pose_id"]]].mean() / np.float32(64) - np.float32(0.5)
        floats = as_floats(torch.from_numpy(source)[None])
        expected = as_pixels(0.6 * floats + 0.4 * torch.tensor(shift).clamp(-1, 1))[0].numpy()
        found = pixels.decode(row["image"]["bytes"], row["image_id"])
        # The mean of the joints may differ in its last bit, which truncation can turn into a level.
        assert np.abs(found.astype(int) - expected).max() <= 1
        assert (found == expected).mean() > 0.99


def test_a_row_says_where_its_image_comes_from(people, tmp_path):
    run(people, tmp_path / "out")

    images = io.read_images(people)
    by_name = {row["image_id"]: row for row in images.table.to_pylist()}
    rows = shard_rows(tmp_path / "out")
    assert len(rows) == 20
    for number, row in enumerate(rows):
        source, pose = by_name[row["source_id"]], by_name[row["pose_id"]]
        assert row["image_id"] == f"{source['image_id'][:-4]}_aug{number % 5:05d}.jpg"
        assert row["image"]["path"] == row["image_id"]
        assert row["sha256"] == hashlib.sha256(row["image"]["bytes"]).hexdigest()
        for name in ("person_id", "camera_id", "sequence", "frame"):
            assert row[name] == source[name]
        assert row["keypoints"] == pose["keypoints"]
        assert (row["width"], row["height"], row["split"]) == (64, 128, "train")
        assert (row["generator"], row["weights_sha256"]) == ("trivial", "0" * 64)
        assert (row["path"], row["weight"], row["error"]) == (None, 1.0, None)


def test_shards_have_the_schema_of_shards_and_their_keys_in_the_footer(people, tmp_path):
    run(people, tmp_path / "out")

    file = pq.ParquetFile(tmp_path / "out/data/part-000003.parquet")
    assert file.schema_arrow.equals(SHARD)
    footer = file.schema_arrow.metadata
    assert footer[b"shard"] == b"3"
    assert footer[b"device"].startswith(b"cpu ")
    assert len(footer[b"content_key"]) == len(footer[b"layout_key"]) == 64


def test_poses_and_sources_of_another_size_are_stretched_to_the_network_s(people, tmp_path):
    small = io.read_images(people)
    rows, root = small.table.to_pylist(), tmp_path / "large"
    root.mkdir()
    for row in range(len(small)):
        pixel = pixels.read(small.file(row))
        big = np.kron(pixel, np.ones((2, 2, 1), np.uint8))
        (root / rows[row]["path"]).write_bytes(pixels.encode_png(big))
    larger = [{**row, "width": 128, "height": 256} for row in rows]
    joints = (small.keypoints() + 0.5) * 2 - 0.5
    io.write_images(trivial.table_of(larger, joints, root), root / "images.parquet")

    run(root / "images.parquet", tmp_path / "out", image_format="png")
    run(people, tmp_path / "straight", image_format="png")

    for found, straight in zip(
        shard_rows(tmp_path / "out"), shard_rows(tmp_path / "straight"), strict=True
    ):
        np.testing.assert_allclose(found["keypoints"], straight["keypoints"], atol=1e-4)
        images = [pixels.decode(row["image"]["bytes"], "") for row in (found, straight)]
        assert np.abs(images[0].astype(int) - images[1]).max() <= 1


class Noisy(trivial.Trivial):
    width = 3


def test_noise_of_a_row_does_not_depend_on_its_batch(people, tmp_path):
    weights = trivial.trivial_weights(network=Noisy)
    for batch_size in (2, 4):
        run(people, tmp_path / f"by{batch_size}", weights, batch_size=batch_size)
    run(people, tmp_path / "without")

    by2, by4, without = (
        [row["sha256"] for row in shard_rows(tmp_path / name)] for name in ("by2", "by4", "without")
    )
    assert by2 == by4
    # The noise of a row may be nearly zero.
    differing = sum(one != other for one, other in zip(by2, without, strict=True))
    assert differing >= 0.9 * len(without)


class Broken(trivial.Trivial):
    """Gives no number for person 0003, whose rows are 5 to 9."""

    calls = 0

    def generate(self, condition, random, options):
        made = super().generate(condition, random, options)
        first = 2 * Broken.calls
        Broken.calls += 1
        for position, row in enumerate(range(first, first + 2)):
            if 5 <= row < 10:
                made[position, 0, 0, 0] = torch.nan
        return made


def test_an_output_that_is_not_finite_is_an_error_of_its_row(people, tmp_path):
    Broken.calls = 0

    code = run(people, tmp_path / "out", trivial.trivial_weights(network=Broken))

    assert code == Exit.ROW_ERRORS
    for number, row in enumerate(shard_rows(tmp_path / "out")):
        broken = 5 <= number < 10
        assert row["error"] == ("the network's output is not finite" if broken else None)
        assert (row["image"] is None) == broken


def truncate(people, name):
    path = people.parent / name
    path.write_bytes(path.read_bytes()[:-200])


def test_a_truncated_source_is_an_error_of_its_rows_and_of_no_other(people, tmp_path):
    run(people, tmp_path / "straight")
    truncate(people, "0003_c1s1_000000_01.jpg")

    code = run(people, tmp_path / "out")

    assert code == Exit.ROW_ERRORS
    failed = 0
    for row, straight in zip(
        shard_rows(tmp_path / "out"), shard_rows(tmp_path / "straight"), strict=True
    ):
        if row["source_id"] == "0003_c1s1_000000_01.jpg":
            failed += 1
            assert row["error"].startswith("0003_c1s1_000000_01.jpg: the JPEG file is cut off")
            assert row["image"] is row["sha256"] is None
        else:
            assert row == straight
    assert failed > 0


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda path: path.unlink(), "cannot be read (No such file or directory)"),
        (lambda path: path.write_bytes(b""), "found an empty file, expected a JPEG or PNG image"),
        (
            lambda path: path.write_bytes(b"GIF89a.."),
            "found a file that begins with b'GIF89a..', expected a JPEG or PNG image",
        ),
    ],
)
def test_errors_name_the_image_and_no_folder(people, tmp_path, damage, error):
    damage(people.parent / "0002_c1s1_000000_01.jpg")

    run(people, tmp_path / "out")

    errors = {row["error"] for row in shard_rows(tmp_path / "out")} - {None}
    assert errors == {f"0002_c1s1_000000_01.jpg: {error}"}


def test_a_source_that_changed_since_it_was_indexed_is_an_error(people, tmp_path):
    images = io.read_images(people)
    rows = images.table.to_pylist()
    for row in range(len(rows)):
        rows[row]["sha256"] = io.sha256_file(images.file(row))
    rows[0]["sha256"] = "f" * 64
    io.write_images(trivial.table_of(rows, images.keypoints(), images.root), people)

    run(people, tmp_path / "out")

    for row in shard_rows(tmp_path / "out"):
        changed = row["source_id"] == rows[0]["image_id"]
        assert (row["error"] or "").endswith("changed since the images table was made") == changed


def test_on_error_fail_ends_the_job_without_a_mark_of_success(people, tmp_path):
    truncate(people, "0003_c1s1_000000_01.jpg")

    with pytest.raises(UserError, match=r"--on-error fail: 0003_c1s1_000000_01\.jpg: the JPEG"):
        run(people, tmp_path / "out", on_error="fail")

    assert not (tmp_path / "out/_SUCCESS").exists()


def test_a_source_is_decoded_once_for_all_poses_of_its_person(people, tmp_path, monkeypatch):
    decoded = []
    decode = pixels.decode
    monkeypatch.setattr(
        pixels, "decode", lambda data, where: decoded.append(where) or decode(data, where)
    )

    run(people, tmp_path / "out", per_id=11, rows_per_shard=44)

    assert sorted(decoded) == sorted({row["source_id"] for row in shard_rows(tmp_path / "out")})


class Counting(trivial.Trivial):
    sizes: ClassVar[list[int]] = []

    def generate(self, condition, random, options):
        Counting.sizes.append(len(condition.image))
        return super().generate(condition, random, options)


def test_batches_never_cross_shards_and_the_last_one_is_padded(people, tmp_path):
    Counting.sizes = []

    run(
        people,
        tmp_path / "out",
        trivial.trivial_weights(network=Counting),
        rows_per_shard=8,
        batch_size=3,
    )

    # Shards of 8, 8 and 4 rows.
    assert Counting.sizes == [3] * (3 + 3 + 2)


class Prefetching(trivial.Trivial):
    """Computes a batch only when so many more have been read."""

    num_ahead = 0
    reads: ClassVar[list[int]] = []
    """Of each batch that was read, how many were computed before."""
    computed = 0
    progress = threading.Condition()

    def generate(self, condition, random, options):
        with Prefetching.progress:
            Prefetching.computed += 1
            num_reads = min(Prefetching.computed + Prefetching.num_ahead, 10)
            assert Prefetching.progress.wait_for(
                lambda: len(Prefetching.reads) >= num_reads, timeout=5
            )
        return super().generate(condition, random, options)


@pytest.fixture
def recorded(monkeypatch):
    """Let ``Prefetching`` know of every batch that is read."""
    Prefetching.reads, Prefetching.computed = [], 0
    read = reading.BatchReader.read

    def record(*arguments):
        images = read(*arguments)
        with Prefetching.progress:
            Prefetching.reads.append(Prefetching.computed)
            Prefetching.progress.notify()
        return images

    monkeypatch.setattr(reading.BatchReader, "read", record)


def test_the_next_shards_are_read_while_one_computes_and_only_so_many(people, tmp_path, recorded):
    # Some in the queue, one with the reader.
    Prefetching.num_ahead = reading.BATCHES_PREFETCHED + 1

    # Five shards of two batches.
    run(people, tmp_path / "out", trivial.trivial_weights(network=Prefetching))

    assert len(Prefetching.reads) == 10
    # One more may be on its way from the queue to the network.
    assert (
        max(number - computed for number, computed in enumerate(Prefetching.reads))
        <= Prefetching.num_ahead
    )


def test_an_actor_reads_the_shard_that_it_is_given_next_while_one_computes(
    people, tmp_path, recorded
):
    run(people, tmp_path / "straight")
    Prefetching.reads.clear()
    # The other batch of the shard at hand, or else the first one of the next.
    Prefetching.num_ahead = 1
    settings = trivial.job_settings(people, tmp_path / "out")
    actor = ShardActor(settings, trivial.trivial_weights(network=Prefetching))
    actor.begin()

    with ThreadPoolExecutor(2) as calls:
        made = list(calls.map(actor.make, range(5)))

    assert made == [4] * 5
    assert shard_rows(tmp_path / "out") == shard_rows(tmp_path / "straight")


def test_an_actor_that_sees_none_of_the_images_makes_no_shard(people, tmp_path):
    (tmp_path / "empty").mkdir()
    settings = trivial.job_settings(people, tmp_path / "out", root=tmp_path / "empty")
    actor = ShardActor(settings, trivial.trivial_weights())
    actor.begin()
    with pytest.raises(UserError, match="found none of 12 source images that were looked for"):
        actor.make(0)


def test_a_worker_plans_no_rows_but_those_of_its_own_shards(people, tmp_path, monkeypatch):
    planned = []
    rows = GenerationPlan.rows
    monkeypatch.setattr(
        GenerationPlan, "rows", lambda plan, *part: planned.append(part) or rows(plan, *part)
    )

    run(people, tmp_path / "out", worker="1/3")

    # Shards 1 and 4 of the five, of four rows each.
    assert planned == [(4, 8), (16, 20)]


@pytest.mark.parametrize(
    ("encoding", "start"),
    [
        (Encoding(), b"\xff\xd8\xff"),
        (Encoding(image_format="png", quality=None, subsampling=None), b"\x89PNG"),
    ],
)
def test_images_are_stored_in_the_asked_format(encoding, start):
    image = np.zeros((8, 8, 3), np.uint8)

    assert encode(image, encoding).startswith(start)


def test_quality_and_subsampling_reach_the_encoder():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)

    sizes = [
        len(encode(image, Encoding(quality=quality, subsampling=subsampling)))
        for quality, subsampling in ((75, "4:2:0"), (95, "4:2:0"), (95, "4:4:4"))
    ]

    assert sizes == sorted(set(sizes))


def test_drawing_ahead_gives_the_same_items_and_stops_at_its_depth():
    drawn = []

    def items():
        for item in range(100):
            drawn.append(item)
            yield item

    given = prefetch(items(), depth=2)
    assert [next(given) for _ in range(3)] == [0, 1, 2]
    given.close()

    # Three given, two waiting, one in the hand of the thread.
    assert len(drawn) <= 6


def test_an_error_while_drawing_ahead_comes_up_after_the_items_before_it():
    def items():
        yield 1
        raise ValueError("spoilt")

    given = prefetch(items(), depth=2)

    assert next(given) == 1
    with pytest.raises(ValueError, match="spoilt"):
        next(given)


def test_no_thread_is_left_behind(people, tmp_path):
    before = threading.active_count()

    run(people, tmp_path / "out")

    assert threading.active_count() == before
