"""``augment index --masks``: other tools' PNG masks, and masks drawn around joints."""

import io as bytes_io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from augment.cli import PROGRAM
from manifests.datasets.mask_files import add_masks
from manifests.datasets.skipped import Leniency
from manifests.io import Images, read_images
from manifests.masks import decode_mask, mask_from_joints, mask_makers
from manifests.pixels import PixelError
from manifests.pixels import decode_mask as decode_png
from manifests.runtime.console import UserError

SIZE = (64, 128)


def box(share: float = 0.5, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Return a mask of the upper rows."""
    mask = np.zeros((size[1], size[0]), bool)
    mask[: round(share * size[1])] = True
    return mask


def png(image: Image.Image) -> bytes:
    buffer = bytes_io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def grey(values: np.ndarray) -> bytes:
    return png(Image.fromarray(values.astype(np.uint8)))


def palette(indices: np.ndarray, colours: list[int]) -> bytes:
    image = Image.fromarray(indices.astype(np.uint8), "P")
    image.putpalette(colours)
    return png(image)


def save(folder: Path, files: dict[str, np.ndarray]) -> Path:
    for name, mask in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(grey(255 * mask))
    return folder


MASK = box(0.3)


@pytest.mark.parametrize(
    "data",
    [
        grey(255 * MASK),
        grey(MASK),
        grey(np.where(MASK, 128, 127)),
        png(Image.fromarray(MASK)),
        png(Image.fromarray(np.repeat(255 * MASK[..., None].astype(np.uint8), 3, axis=2))),
        palette(MASK, [0, 0, 0, 100, 0, 0]),
        palette(MASK, [0, 0, 0, 1, 1, 1]),
        palette(~MASK, [255, 255, 255, 0, 0, 0]),
    ],
    ids=["0/255", "0/1", "soft", "1 bit", "grey as colours", "red", "dark palette", "inverted"],
)
@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
def test_every_way_of_drawing_a_mask_gives_the_same_mask(data: bytes):
    assert np.array_equal(decode_png(data, "here"), MASK)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (grey(2 * MASK), "found grey values up to 2, expected 0 and 1, or 0 to 255"),
        (png(Image.fromarray(MASK.astype(np.uint16) * 65535)), "found 16 bits per value"),
        (png(Image.new("RGBA", SIZE)), "found an alpha channel"),
        (png(Image.new("LA", SIZE)), "found an alpha channel"),
        (png(Image.new("RGB", SIZE, (200, 10, 10))), "found a coloured picture"),
        (palette(MASK, [0, 0, 0, 100, 100, 100]), "found grey values up to 100, expected 0 and 1"),
        (grey(MASK)[:-20], "the PNG file is cut off"),
        (b"\xff\xd8\xff", "found no PNG"),
        (b"II*\x00", "found no PNG"),
    ],
)
@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
def test_what_is_no_mask_is_refused(data: bytes, sentence: str):
    with pytest.raises(PixelError, match=f"mask.png: {sentence}"):
        decode_png(data, "mask.png")


def test_masks_find_their_images_by_whole_name_or_without_its_ending(
    tiny_images: Images, tmp_path: Path
):
    ids = tiny_images.strings("image_id")
    whole, stem = ids[3], ids[5]
    folder = save(
        tmp_path / "masks",
        {f"{whole}.png": box(0.3), f"{Path(stem).stem}.png": box(0.6), "nobody.png": box()},
    )
    masked, report = add_masks(tiny_images, folder)
    stored = masked.table["mask"].to_pylist()
    assert [row for row, data in enumerate(stored) if data is not None] == [3, 5]
    assert np.array_equal(decode_mask(stored[3], SIZE, ""), box(0.3))
    assert np.array_equal(decode_mask(stored[5], SIZE, ""), box(0.6))
    assert masked.table["mask_source"].to_pylist()[3] == "files"
    assert masked.table["mask_source"].to_pylist()[4] is None
    assert (report.num_files, report.num_unknown) == (2, 1)
    assert "2 images with a mask from a file, 0 with one drawn from joints, 10 without" in (
        report.text()
    )
    assert "1 mask files name no image, ignored" in report.text()


def test_a_mask_of_another_size_is_refused_or_scaled_where_asked(
    tiny_images: Images, tmp_path: Path
):
    name = tiny_images.strings("image_id")[0]
    folder = save(tmp_path, {f"{name}.png": box(0.5, (32, 64))})
    told = r"found a mask of 32 x 64 pixels, expected 64 x 128 .* --scale-masks scales"
    with pytest.raises(UserError, match=told):
        add_masks(tiny_images, folder)
    masked, report = add_masks(tiny_images, folder, scales=True)
    assert np.array_equal(decode_mask(masked.table["mask"][0].as_py(), SIZE, ""), box(0.5))
    assert report.num_scaled == 1


def test_all_broken_masks_are_named_at_once_and_left_out_on_demand(
    tiny_images: Images, tmp_path: Path
):
    ids = tiny_images.strings("image_id")
    folder = save(tmp_path, {f"{name}.png": box() for name in ids[:4]})
    save(folder, {f"{ids[1]}.png": box(0.5, (32, 64))})
    (folder / f"{ids[3]}.png").write_bytes((folder / f"{ids[3]}.png").read_bytes()[:-20])
    with pytest.raises(UserError) as refused:
        add_masks(tiny_images, folder)
    told = str(refused.value)
    assert told.startswith(
        f"2 masks cannot be used: {folder / ids[1]}.png: found a mask of 32 x 64"
    )
    assert f"{folder / ids[3]}.png: the PNG file is cut off" in told
    assert told.endswith(
        "; --scale-masks scales those of another size, --skip-broken leaves such masks out"
    )

    masked, report = add_masks(tiny_images, folder, leniency=Leniency(skip_broken=True))

    stored = masked.table["mask"].to_pylist()
    assert [row for row, data in enumerate(stored) if data is not None] == [0, 2]
    assert report.num_files == 2
    said = f"left out of the masks: 2 masks that cannot be used (like {folder / ids[1]}.png: found"
    assert said in report.text()


def test_broken_masks_alone_are_refused_whatever_is_asked(tiny_images: Images, tmp_path: Path):
    name = tiny_images.strings("image_id")[0]
    (tmp_path / f"{name}.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"found no PNG.*; --skip-broken leaves such masks out"):
        add_masks(tiny_images, tmp_path, leniency=Leniency(skip_broken=True))


def test_masks_in_linked_folders_are_read_and_links_to_nothing_told(
    tiny_images: Images, tmp_path: Path
):
    ids = tiny_images.strings("image_id")
    inner = {f"{name}.png": box() for name in ids}
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "some").symlink_to(save(tmp_path / "elsewhere", inner))
    (tmp_path / "masks" / "gone.png").symlink_to(tmp_path / "nowhere")
    stems = [f"some/{name}" for name in ids]
    place = tiny_images.table.schema.get_field_index("image_id")
    table = tiny_images.table.set_column(place, tiny_images.table.schema.field(place), [stems])
    images = Images(table, tiny_images.root, {})
    with pytest.raises(
        UserError, match=r"--masks .*: took 12 images and left out 1 links to nothi"
    ):
        add_masks(images, tmp_path / "masks")
    report = add_masks(images, tmp_path / "masks", leniency=Leniency(allow_skipped=True))[1]
    assert report.num_files == 12
    assert "left out of the masks: 1 links to nothing (like gone.png)" in report.text()


def test_doubtful_masks_are_kept_and_counted(tiny_images: Images, tmp_path: Path):
    ids = tiny_images.strings("image_id")
    shares = [0.0, 1.0, 0.05, 0.9, 0.5]
    folder = save(
        tmp_path, {f"{name}.png": box(share) for name, share in zip(ids, shares, strict=False)}
    )
    masked, report = add_masks(tiny_images, folder)
    assert len(masked) - masked.table["mask"].null_count == 5
    assert (report.num_empty, report.num_full, report.num_small, report.num_large) == (1, 1, 1, 1)
    assert (
        "doubtful masks, kept as they are: 1 empty, 1 full, 1 below 12% of the crop, 1 above 75%"
        in report.text()
    )


def test_all_colours_of_a_palette_but_black_are_the_person():
    labels = np.arange(128 * 64).reshape(128, 64) % 4
    colours = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
    assert np.array_equal(decode_png(palette(labels, colours), "here"), labels > 0)


def test_masks_of_two_people_that_do_not_touch_are_kept_and_counted(
    tiny_images: Images, tmp_path: Path
):
    ids = tiny_images.strings("image_id")
    two = box(1.0)
    two[:, 16:48] = False
    masked, report = add_masks(tiny_images, save(tmp_path, {f"{ids[2]}.png": two}))
    assert np.array_equal(decode_mask(masked.table["mask"][2].as_py(), SIZE, ""), two)
    assert report.num_in_two_parts == 1
    assert "1 in two large parts (perhaps of two people)" in report.text()


@pytest.mark.parametrize("name", ["somebody.png", "masks.npy", "0002_c1s1_000451_03.tif"])
def test_a_folder_without_a_mask_of_these_images_is_refused(
    tiny_images: Images, tmp_path: Path, name: str
):
    folder = save(tmp_path / "masks", {name: box()})
    first = tiny_images.strings("image_id")[0]
    told = (
        rf"found no mask of these images among 1 files \('{name}' first\), .* like '{first}\.png'"
    )
    with pytest.raises(UserError, match=told):
        add_masks(tiny_images, folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"among 0 files \('nothing' first\)"):
        add_masks(tiny_images, tmp_path / "empty")


def test_files_beside_the_masks_are_counted(tiny_images: Images, tmp_path: Path):
    name = tiny_images.strings("image_id")[0]
    folder = save(tmp_path / "masks", {f"{name}.png": box(), "masks.json": box()})
    report = add_masks(tiny_images, folder)[1]
    assert report.num_no_png == 1
    assert "1 files beside the masks are no .png, ignored" in report.text()


def test_the_table_tells_where_its_masks_are_from_as_far_as_it_is_known(
    tiny_images: Images, tmp_path: Path
):
    name = tiny_images.strings("image_id")[0]
    folder = save(tmp_path / "masks", {f"{name}.png": box(0.5, (32, 64))})
    told, again, unknown = (
        mask_makers(
            add_masks(tiny_images, folder, tool=tool, scales=True, from_joints=True)[0].provenance
        )
        for tool in ("SAM 2", "SAM 2", None)
    )
    files, joints = told
    assert told == again
    assert files["source"] == "files"
    assert (files["tool"], files["num_files"], files["num_scaled"]) == ("SAM 2", 1, 1)
    assert files["folder"] == str(folder)
    assert (joints["source"], joints["radius_px_in_128_rows"]) == ("joints", 9.5)
    assert unknown[0] == files | {"tool": None}
    save(folder, {f"{name}.png": box(0.6, (32, 64))})
    other = mask_makers(add_masks(tiny_images, folder, scales=True)[0].provenance)[0]
    assert other["sha256"] != files["sha256"]


def test_two_masks_of_one_image_are_refused(tiny_images: Images, tmp_path: Path):
    name = tiny_images.strings("image_id")[0]
    folder = save(tmp_path, {f"{name}.png": box(), f"{Path(name).stem}.png": box()})
    with pytest.raises(UserError, match=rf"found a second mask of '{name}', beside "):
        add_masks(tiny_images, folder)


def test_a_mask_that_may_be_that_of_two_images_is_refused(tiny_images: Images, tmp_path: Path):
    names = tiny_images.strings("image_id")
    names[1] = f"{Path(names[0]).stem}.png"
    place = tiny_images.table.schema.get_field_index("image_id")
    field = tiny_images.table.schema.field(place)
    table = tiny_images.table.set_column(place, field, [names])
    twice = Images(table, tiny_images.root, {})
    folder = save(tmp_path, {names[1]: box()})
    with pytest.raises(UserError, match=rf"is a mask of '{names[0]}' or of '{names[1]}'"):
        add_masks(twice, folder)


def test_images_without_a_file_get_a_mask_from_their_joints_where_asked(
    tiny_images: Images, tmp_path: Path
):
    ids, joints = tiny_images.strings("image_id"), tiny_images.keypoints()
    drawable = [row for row in range(len(ids)) if not np.isnan(joints[row, [2, 5, 8, 11]]).any()]
    first, second = drawable[:2]
    folder = save(tmp_path, {f"{ids[first]}.png": box()})
    masked, report = add_masks(tiny_images, folder, from_joints=True)
    sources = masked.table["mask_source"].to_pylist()
    assert sources[first] == "files"
    assert {row for row, source in enumerate(sources) if source == "joints"} == set(drawable[1:])
    drawn = decode_mask(masked.table["mask"][second].as_py(), SIZE, "")
    assert np.array_equal(drawn, mask_from_joints(joints[second], SIZE))
    assert report.num_drawn == len(drawable) - 1 > 3


def test_the_command_keeps_masks_in_the_table_and_tells_of_them(
    tiny_root: Path, tiny_images: Images, tmp_path: Path, capsys
):
    name = tiny_images.strings("image_id")[7]
    folder = save(tmp_path / "masks", {f"{name}.png": box()})
    out = tmp_path / "masked.parquet"
    PROGRAM.run(
        ["index", str(tiny_root), "--masks", str(folder), "--masks-tool", "SAM", "--out", str(out)]
    )
    images = read_images(out)
    assert images.table["mask_source"].to_pylist() == [
        "files" if one == name else None for one in images.strings("image_id")
    ]
    assert mask_makers(images.provenance)[0]["tool"] == "SAM"
    assert "1 images with a mask from a file" in capsys.readouterr().err


def test_scaling_without_masks_is_refused(tiny_root: Path, tmp_path: Path):
    with pytest.raises(UserError, match="--scale-masks: found no --masks"):
        PROGRAM.run(
            ["index", str(tiny_root), "--scale-masks", "--out", str(tmp_path / "i.parquet")]
        )


def test_a_tool_without_masks_is_refused(tiny_root: Path, tmp_path: Path):
    out = str(tmp_path / "i.parquet")
    with pytest.raises(UserError, match="--masks-tool: found no --masks"):
        PROGRAM.run(["index", str(tiny_root), "--masks-tool", "SAM", "--out", out])


def test_a_folder_of_masks_that_is_not_there_is_refused(tiny_images: Images, tmp_path: Path):
    with pytest.raises(UserError, match="found nothing of this name, expected a folder"):
        add_masks(tiny_images, tmp_path / "nowhere")
