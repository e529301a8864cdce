"""``augment detect`` as a job: the same bytes after any kill, flat memory, bad input, who drew."""

import os
import resource
import signal
import sys
import traceback
import tracemalloc
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from augment.cli import PROGRAM
from augment.pose import detect as detect_module
from augment.pose.detect import Choices
from augment.pose.estimators.interface import Detection
from manifests import io, pixels
from manifests.centrality import (
    CentralityFacts,
    centrality_facts,
    centrality_of,
    with_centrality,
)
from manifests.io import Images, read_images
from manifests.masks import mask_makers
from manifests.pixels import PixelError
from manifests.runtime import run_record
from manifests.runtime.console import Console, Exit, UserError
from manifests.schema import IMAGES
from tests.helpers.estimators import ALL, Corner, last_column, written


@pytest.fixture(autouse=True)
def chunks_of_5_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect_module, "CHUNK_ROWS", 5)


class Killed(Corner):
    """Is interrupted at the sixth crop."""

    def detect(self, images: Sequence[np.ndarray]) -> list[Detection]:
        if self.seen >= 5:
            raise KeyboardInterrupt
        return super().detect(images)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def code_of_child(function: Callable[[], object]) -> int:
    """Run a function in a child; return its exit code, negative for a signal."""
    with warnings.catch_warnings():
        # From Python 3.12 on a warning: the parent has idle threads of libraries.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = Exit.DONE
    try:
        function()
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        code = Exit.REFUSED
    except BaseException:  # noqa: BLE001 - a child must never return into the parent's tests
        traceback.print_exc()
        code = Exit.BUG
    os._exit(code)


def killed_at(step: int) -> None:
    """Kill this process before it renames, links or removes a file or a folder a given time."""
    seen = 0

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def change(*arguments: object, **options: object) -> object:
            nonlocal seen
            seen += 1
            if seen > step:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return change

    for name in ("replace", "unlink", "rmdir"):
        setattr(Path, name, counted(getattr(Path, name)))
    os.link = counted(os.link)


def test_a_table_is_the_same_after_a_kill_at_any_step_and_nothing_is_left_beside_it(
    tiny_images: Images, tmp_path: Path
):
    straight = written(tiny_images, tmp_path / "straight", Corner())
    step = 0
    while True:
        folder = tmp_path / f"killed-{step}"
        folder.mkdir()
        io.write_images(tiny_images, folder / "images.parquet")

        def job(folder: Path = folder, step: int = step) -> None:
            killed_at(step)
            table = io.open_images(folder / "images.parquet")
            out = folder / "out.parquet"
            detect_module.write_joints(table, out, Corner(), ALL, Console(quiet=True))

        code = code_of_child(job)
        assert code in {-signal.SIGKILL, Exit.DONE}
        assert written(tiny_images, folder, Corner()) == straight
        assert names(folder) == ["images.parquet", "out.parquet"]
        if code == Exit.DONE:
            break
        step += 1
    # Record, three chunks, the table: rename or link, and remove what is temporary; move the table;
    # remove three chunks, the record, the folder.
    assert step >= 2 * 5 + 1 + 5


def test_any_number_of_threads_writes_the_same_bytes(tiny_images: Images, tmp_path: Path):
    first, second = (
        written(tiny_images, tmp_path / str(threads), Corner(), replace(ALL, threads=threads))
        for threads in (1, 3)
    )
    assert first == second


def test_chunks_that_are_done_are_not_estimated_again(tiny_images: Images, tmp_path: Path):
    straight = written(tiny_images, tmp_path / "straight", Corner())
    with pytest.raises(KeyboardInterrupt):
        written(tiny_images, tmp_path / "killed", Killed())
    again = Corner()
    assert written(tiny_images, tmp_path / "killed", again) == straight
    assert again.seen == 7


def test_a_damaged_chunk_and_one_of_other_rows_are_made_again(tiny_images: Images, tmp_path: Path):
    straight = written(tiny_images, tmp_path / "straight", Corner())
    for number, spoil in enumerate((lambda data: data[:-9], lambda data: b"")):
        folder = tmp_path / str(number)
        with pytest.raises(KeyboardInterrupt):
            written(tiny_images, folder, Killed())
        part = folder / "out.parquet.parts/part-000000.parquet"
        part.write_bytes(spoil(part.read_bytes()))
        assert written(tiny_images, folder, Corner()) == straight
    folder = tmp_path / "others"
    with pytest.raises(KeyboardInterrupt):
        written(tiny_images, folder, Killed())
    parts = folder / "out.parquet.parts"
    (parts / "part-000000.parquet").rename(parts / "part-000001.parquet")
    assert written(tiny_images, folder, Corner()) == straight


@pytest.mark.parametrize("annotated", [False, True])
def test_a_table_of_no_rows_and_one_with_all_joints_are_written_as_they_are(
    tiny_images: Images, tmp_path: Path, annotated: bool
):
    has_joints = np.flatnonzero(~tiny_images.table["keypoints"].is_null().to_numpy())
    images = tiny_images.take(has_joints if annotated else has_joints[:0])
    estimator = Corner()
    written(images, tmp_path / "job", estimator, Choices())
    assert estimator.seen == 0
    found = read_images(tmp_path / "job/out.parquet")
    # Missing joints are NaN, which equals nothing.
    np.testing.assert_array_equal(found.keypoints(), images.keypoints())
    assert found.table.drop(["keypoints"]).equals(images.table.drop(["keypoints"]))


NUM_ROWS = 400
LARGE = (256, 512)
MASK_BYTES = 256 * 512 // 8


class Noise(Corner):
    """Draws masks that no compression makes smaller."""

    def detect(self, images: Sequence[np.ndarray]) -> list[Detection]:
        random = np.random.default_rng(self.seen)
        self.seen += len(images)
        joints = last_column(*LARGE)
        masks = random.integers(0, 2, (len(images), *LARGE[::-1]), np.uint8).view(bool)
        return [Detection(joints, 1.0, mask) for mask in masks]


@pytest.fixture
def many_large(tiny_images: Images) -> Images:
    """Return a table whose rows all show one large crop."""
    crop = np.zeros((LARGE[1], LARGE[0], 3), np.uint8)
    (tiny_images.root / "large.jpg").write_bytes(pixels.encode_jpeg(crop))
    table = tiny_images.take(np.zeros(NUM_ROWS, int)).table
    columns = {
        "image_id": pa.array([f"{row:06d}.jpg" for row in range(NUM_ROWS)]),
        "path": pa.array(["large.jpg"] * NUM_ROWS),
        "width": pa.array([LARGE[0]] * NUM_ROWS, pa.int32()),
        "height": pa.array([LARGE[1]] * NUM_ROWS, pa.int32()),
        "keypoints": pa.nulls(NUM_ROWS, IMAGES.field("keypoints").type),
    }
    for name, column in columns.items():
        table = table.set_column(IMAGES.get_field_index(name), IMAGES.field(name), column)
    return replace(tiny_images, table=table)


def test_memory_does_not_grow_with_the_rows(
    many_large: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(detect_module, "CHUNK_ROWS", 16)
    monkeypatch.setattr(io, "ROW_GROUP_ROWS", 32)
    peaks: list[int] = []
    for count in (NUM_ROWS // 4, NUM_ROWS):
        told = tmp_path / f"peak-{count}"

        def job(count: int = count, told: Path = told) -> None:
            # The peak of a pool that nobody used before is that of this job.
            pa.set_memory_pool(pa.system_memory_pool())
            tracemalloc.start()
            written(many_large.take(np.arange(count)), tmp_path / str(count), Noise())
            arrow = pa.default_memory_pool().max_memory()
            told.write_text(str(arrow + tracemalloc.get_traced_memory()[1]))

        assert code_of_child(job) == Exit.DONE
        peaks.append(int(told.read_text()))
    # The masks of the rows more, held once, would be 4.9 MB; footers and ids are a tenth.
    assert peaks[1] - peaks[0] < 3 * NUM_ROWS // 4 * MASK_BYTES / 8, peaks


def test_centrality_goes_through(tiny_images: Images, tmp_path: Path):
    values = np.where(np.arange(len(tiny_images)) == 2, np.nan, 0.5).astype(np.float32)
    images = with_centrality(tiny_images, values, CentralityFacts("00", 1.0, 0))
    written(images, tmp_path, Corner(), ALL)
    found = read_images(tmp_path / "out.parquet")
    np.testing.assert_array_equal(centrality_of(found), values)
    assert centrality_facts(found.provenance) == CentralityFacts("00", 1.0, 0)


def test_masks_tell_what_made_them_through_later_commands(tiny_images: Images, tmp_path: Path):
    written(tiny_images, tmp_path / "first", Corner(), Choices(masks=True))
    masked = read_images(tmp_path / "first/out.parquet")
    (maker,) = mask_makers(masked.provenance)
    assert maker.pop("by").startswith("reid-augment ")
    assert maker == {
        "source": "blazepose",
        "network": "corner",
        "min_confidence": 0.0,
        "min_share": 0.12,
        "max_share": 0.75,
    }
    joints_only = Choices(replaces=True, min_confidence=0.7)
    written(masked, tmp_path / "joints", Corner(), joints_only)
    later = read_images(tmp_path / "joints/out.parquet")
    assert mask_makers(later.provenance) == mask_makers(masked.provenance)
    written(later, tmp_path / "again", Corner(), Choices(masks=True, min_confidence=0.5))
    both = mask_makers(read_images(tmp_path / "again/out.parquet").provenance)
    assert [one["min_confidence"] for one in both] == [0.0, 0.5]
    written(later, tmp_path / "same", Corner(), Choices(masks=True))
    same = read_images(tmp_path / "same/out.parquet")
    assert mask_makers(same.provenance) == mask_makers(masked.provenance)


class Halves(Corner):
    """Finds two people, one at either side."""

    def detect(self, images: Sequence[np.ndarray]) -> list[Detection]:
        found = super().detect(images)
        mask = np.ones((128, 64), bool)
        mask[:, 20:44] = False
        return [replace(one, mask=mask) for one in found]


def test_masks_in_two_large_parts_are_kept_and_told(
    tiny_images: Images, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.setattr(detect_module, "load_estimator", lambda *_: Halves())
    PROGRAM.run(command(tiny_root, tmp_path / "out.parquet", "--masks"))
    told = "12 with a mask (12 in two large parts: perhaps of two people), 0 with no sound one"
    assert told in capsys.readouterr().err


def command(root: Path, out: Path, *more: str) -> list[str]:
    return ["detect", "--images", str(root / "images.parquet"), "--out", str(out), *more]


def test_a_crop_that_cannot_be_read_is_named_and_mending_it_goes_on(
    tiny_images: Images, tmp_path: Path
):
    straight = written(tiny_images, tmp_path / "straight", Corner())
    file = tiny_images.file(8)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PixelError, match=f"{file.name}: the JPEG file is cut off"):
        written(tiny_images, tmp_path / "job", Corner())
    assert "part-000000.parquet" in names(tmp_path / "job/out.parquet.parts")
    file.write_bytes(whole)
    again = Corner()
    assert written(tiny_images, tmp_path / "job", again) == straight
    # The chunk of the broken crop; the one behind it was made already.
    assert again.seen == 5


def broken(images: Images, *rows: int) -> None:
    for row in rows:
        images.file(row).write_bytes(images.file(row).read_bytes()[:-30])


def test_all_broken_crops_are_named_at_once_over_all_chunks(tiny_images: Images, tmp_path: Path):
    broken(tiny_images, 1, 8, 11)
    with pytest.raises(PixelError) as refused:
        written(tiny_images, tmp_path / "job", Corner())
    told = str(refused.value)
    assert told.startswith("3 images cannot be used: ")
    assert all(tiny_images.file(row).name in told for row in (1, 8, 11))
    assert told.endswith("--skip-broken leaves such images out")


def test_broken_crops_are_left_out_on_demand_also_when_whole_chunks_are(
    tiny_images: Images, tmp_path: Path
):
    rows = [0, *range(5, 10)]
    sound = np.setdiff1d(np.arange(len(tiny_images)), rows)
    written(tiny_images.take(sound), tmp_path / "sound", Corner())
    broken(tiny_images, *rows)
    skipping = replace(ALL, skips_broken=True)
    written(tiny_images, tmp_path / "job", Corner(), skipping)
    assert read_images(tmp_path / "job/out.parquet").table.equals(
        read_images(tmp_path / "sound/out.parquet").table
    )


def test_a_crop_that_was_left_out_and_is_mended_before_the_end_is_taken(
    tiny_images: Images, tmp_path: Path
):
    straight = written(tiny_images, tmp_path / "straight", Corner())
    whole = tiny_images.file(2).read_bytes()
    broken(tiny_images, 2)
    skipping = replace(ALL, skips_broken=True)
    with pytest.raises(KeyboardInterrupt):
        written(tiny_images, tmp_path / "job", Killed(), skipping)
    parts = tmp_path / "job/out.parquet.parts"
    assert len(io.read_images(parts / "part-000000.parquet")) == 4
    tiny_images.file(2).write_bytes(whole)
    assert written(tiny_images, tmp_path / "job", Corner(), skipping) == straight


def test_the_command_counts_what_it_left_out(tiny_images: Images, tmp_path: Path, loaded, capsys):
    broken(tiny_images, 2, 3)
    out = tmp_path / "out.parquet"
    PROGRAM.run([*command(tiny_images.root, out, "--skip-broken"), "--replace"])
    assert "10 rows by corner" in (told := capsys.readouterr().err)
    assert "; 2 images that cannot be used left out" in told


def test_a_crop_of_another_size_than_its_row_says_is_refused(
    tiny_images: Images, tmp_path: Path, person
):
    tiny_images.file(3).write_bytes(pixels.encode_jpeg(person(0, (32, 64))))
    told = r"found 32 x 64 pixels, expected 64 x 128 as its row says; 'augment index' makes a new"
    with pytest.raises(UserError, match=told):
        written(tiny_images, tmp_path / "job", Corner())


def test_a_mask_needs_the_width_and_height_of_its_row(tiny_images: Images, tmp_path: Path):
    place = IMAGES.get_field_index("width")
    empty = pa.nulls(len(tiny_images), pa.int32())
    table = tiny_images.table.set_column(place, IMAGES.field("width"), empty)
    images = replace(tiny_images, table=table)
    with pytest.raises(UserError, match="has no width and height; expected both for a mask"):
        written(images, tmp_path / "job", Corner())
    written(images, tmp_path / "joints", Corner(), Choices())


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Corner:
    """Give the estimator that the command loads whatever its name."""
    estimator = Corner()
    monkeypatch.setattr(detect_module, "load_estimator", lambda *_: estimator)
    return estimator


def test_what_is_no_place_for_a_table_is_refused_before_any_crop_is_read(
    tiny_images: Images, tiny_root: Path, tmp_path: Path, loaded: Corner
):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "link.parquet").symlink_to(tiny_root / "images.parquet")
    (tmp_path / "file.parquet.parts").write_text("")
    for name, told in {
        "folder": "found a folder, expected the name of a table",
        "file/out.parquet": "cannot be written",
        "link.parquet": "is the input, expected another file",
        "file.parquet": r"file\.parquet\.parts: found a file, expected a folder or nothing",
    }.items():
        with pytest.raises(UserError, match=told):
            PROGRAM.run(command(tiny_root, tmp_path / name))
    assert loaded.seen == 0


def test_a_table_that_another_process_is_making_is_refused_and_not_disturbed(
    tiny_images: Images, tmp_path: Path
):
    class Other(Corner):
        def detect(self, images: Sequence[np.ndarray]) -> list[Detection]:
            if not self.seen:
                with pytest.raises(UserError, match=r"out.parquet.parts: another process is at w"):
                    written(tiny_images, tmp_path / "one", Corner())
            return super().detect(images)

    assert written(tiny_images, tmp_path / "one", Other()) == written(
        tiny_images, tmp_path / "straight", Corner()
    )


def test_tasks_of_srun_that_would_all_make_one_table_are_refused(
    tiny_root: Path, tmp_path: Path, loaded: Corner, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with pytest.raises(UserError, match=r"worker 1 of 4 .*: each would do all of the work"):
        PROGRAM.run(command(tiny_root, tmp_path / "out.parquet"))
    assert loaded.seen == 0
    assert not list(tmp_path.glob("out*"))


def test_files_of_others_in_the_folder_of_the_chunks_are_refused_and_left(
    tiny_images: Images, tiny_root: Path, tmp_path: Path, loaded: Corner
):
    parts = tmp_path / "out.parquet.parts"
    parts.mkdir()
    (parts / "thesis.txt").write_text("mine")
    told = r"found 'thesis\.txt' and no run\.json; expected the chunks of this command"
    with pytest.raises(UserError, match=told):
        PROGRAM.run(command(tiny_root, tmp_path / "out.parquet"))
    assert (parts / "thesis.txt").read_text() == "mine"


def test_chunks_of_another_estimator_choice_or_table_are_refused_by_what_differs(
    tiny_images: Images, tmp_path: Path
):
    folder = tmp_path / "job"
    with pytest.raises(KeyboardInterrupt):
        written(tiny_images, folder, Killed())
    other = Corner()
    other.provenance = {"network": "corner", "sha256": "77"}  # pyright: ignore
    with pytest.raises(UserError, match=r"another run \(estimator\.sha256: None, now '77'\)"):
        written(tiny_images, folder, other)
    with pytest.raises(UserError, match=r"another run \(min_confidence: 0\.0, now 0\.5\)"):
        written(tiny_images, folder, Corner(), replace(ALL, min_confidence=0.5))
    with pytest.raises(UserError, match=r"another run \(images_sha256: "):
        written(tiny_images.take(np.arange(9)), folder, Corner())
    assert names(folder / "out.parquet.parts") == ["part-000000.parquet", run_record.RUN_RECORD]


def test_a_disk_that_runs_full_keeps_whole_chunks_and_goes_on_when_there_is_room(
    tiny_images: Images, tmp_path: Path
):
    straight = written(tiny_images, tmp_path / "straight", Corner())
    folder = tmp_path / "job"
    with pytest.raises(KeyboardInterrupt):
        written(tiny_images, tmp_path / "chunk", Killed())
    largest = (tmp_path / "chunk/out.parquet.parts/part-000000.parquet").stat().st_size
    for limit, kept in ((largest - 1, 0), (len(straight) - 1, 3)):
        folder.mkdir(exist_ok=True)
        io.write_images(tiny_images, folder / "images.parquet")
        table = io.open_images(folder / "images.parquet")

        def starved(limit: int = limit, table: io.ImagesFile = table) -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            out = folder / "out.parquet"
            detect_module.write_joints(table, out, Corner(), ALL, Console(quiet=True))

        assert code_of_child(starved) == Exit.REFUSED
        found = names(folder / "out.parquet.parts")
        assert found == [f"part-{part:06d}.parquet" for part in range(kept)] + ["run.json"]
        assert not (folder / "out.parquet").exists()
    again = Corner()
    assert written(tiny_images, folder, again) == straight
    assert again.seen == 0
