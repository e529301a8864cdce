"""Pixels: codecs that say when a file is cut off, and exact sizes."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, JpegImagePlugin

from manifests import pixels
from manifests.pixels import PixelError

PHOTO = np.random.default_rng(0).integers(0, 256, (128, 64, 3), np.uint8)


def saved(mode: str = "RGB", **settings: object) -> bytes:
    """Encode the photo by Pillow, as files of other programs are."""
    file = io.BytesIO()
    Image.fromarray(PHOTO).convert(mode).save(file, **settings)
    return file.getvalue()


def with_thumbnail(data: bytes) -> bytes:
    """Put a whole JPEG file, with an end of its own, into an APP1 segment."""
    inside = saved(format="JPEG", quality=20)
    return data[:2] + b"\xff\xe1" + (len(inside) + 2).to_bytes(2, "big") + inside + data[2:]


FILES = {
    "ours": pixels.encode_jpeg(PHOTO),
    "ours 4:4:4": pixels.encode_jpeg(PHOTO, 75, "4:4:4"),
    "progressive": saved(format="JPEG", progressive=True),
    "restart markers": saved(format="JPEG", restart_marker_blocks=2),
    "grey": saved("L", format="JPEG"),
    "thumbnail": with_thumbnail(saved(format="JPEG")),
    "png": pixels.encode_png(PHOTO),
    "png of another program": saved(format="PNG", optimize=True),
}


@pytest.mark.parametrize("data", FILES.values(), ids=FILES.keys())
def test_a_whole_file_is_read(data):
    image = pixels.decode(data, "here")
    assert image.shape == (128, 64, 3)
    assert image.dtype == np.uint8
    assert pixels.size(data, "here") == (64, 128)
    pillow = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.int16)
    # Decoders round the colour transform differently, and smooth coarse colours differently.
    assert np.abs(pillow - image).mean() < 1.5


@pytest.mark.parametrize("data", FILES.values(), ids=FILES.keys())
@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_an_error_that_names_it(data, place):
    with pytest.raises(PixelError, match=r"^crop\.jpg: (.* is missing|found .* expected a JPEG)"):
        pixels.decode(data[: int(place * len(data))], "crop.jpg")


@pytest.mark.parametrize("missing", [1, 2, 3, 10])
@pytest.mark.parametrize("data", FILES.values(), ids=FILES.keys())
def test_a_file_without_its_last_bytes_is_an_error(data, missing):
    with pytest.raises(PixelError, match="cut off, its end is missing"):
        pixels.decode(data[:-missing], "crop.jpg")


def jpeg(image: np.ndarray, **options: object) -> bytes:
    written = io.BytesIO()
    Image.fromarray(image).save(written, "JPEG", quality=90, **options)
    return written.getvalue()


KINDS = [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 4}]
NOISE = np.random.default_rng(0).integers(0, 256, (128, 64, 3), np.uint8)


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
def test_a_jpeg_cut_off_before_its_end_marker_is_an_error(options, place):
    data = jpeg(NOISE, **options)
    cut = data[: int(len(data) * place)].rstrip(b"\xff") + b"\xff\xd9"
    with pytest.raises(PixelError, match=r"a\.jpg: the JPEG file is cut off before its end marker"):
        pixels.decode(cut, "a.jpg")


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("image", [NOISE, NOISE * 0, NOISE[:50, :33], NOISE[:4, :4], NOISE[..., 0]])
def test_a_whole_jpeg_is_no_cut_one_also_where_it_ends_in_one_colour(options, image):
    data = jpeg(image, **options)
    assert pixels.decode(data, "a.jpg").shape[:2] == image.shape[:2]
    assert pixels.decode(data + b"more", "a.jpg").shape[:2] == image.shape[:2]


def test_bytes_after_the_end_do_no_harm():
    data = FILES["ours"]
    assert np.array_equal(pixels.decode(data + bytes(100), "x"), pixels.decode(data, "x"))


@pytest.mark.parametrize("data", [b"", b"GIF89a....", b"<html>", b"\xff\xd8\xff\xd9"])
def test_a_file_that_is_no_image_is_an_error(data):
    with pytest.raises(PixelError, match=r"expected a JPEG or PNG|without an image"):
        pixels.decode(data, "x")


def test_a_frame_without_a_scan_is_an_error():
    data = FILES["ours"]
    start = data.index(b"\xff\xda")
    with pytest.raises(PixelError, match="cannot be decoded"):
        pixels.decode(data[:start] + b"\xff\xd9", "x")


@pytest.mark.parametrize("side", [2**31 - 1, 30_000])
def test_a_header_that_claims_an_enormous_picture_is_not_believed(side):
    sides = side.to_bytes(4, "big")
    data = pixels.encode_png(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(PixelError, match=rf"a: found {side:,} x {side:,} pixels, expected at most"):
        pixels.decode(data[:16] + 2 * sides + data[24:], "a")


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(
        PixelError, match=re.escape(f"{tmp_path / 'no.jpg'}: found nothing of this name")
    ):
        pixels.read(tmp_path / "no.jpg")


def test_png_keeps_every_pixel_and_the_order_of_colours():
    assert np.array_equal(pixels.decode(pixels.encode_png(PHOTO), "x"), PHOTO)
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    pillow = np.asarray(Image.open(io.BytesIO(pixels.encode_png(red))))
    assert np.array_equal(pillow, red)


def test_a_turned_image_keeps_the_pixels_of_the_file():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = saved(format="JPEG", exif=exif.tobytes())
    assert np.array_equal(pixels.decode(turned, "x"), pixels.decode(saved(format="JPEG"), "x"))


@pytest.mark.parametrize(("subsampling", "code"), [("4:4:4", 0), ("4:2:0", 2)])
@pytest.mark.parametrize("quality", [75, 95])
def test_quality_and_subsampling_are_those_asked_for(quality, subsampling, code):
    data = pixels.encode_jpeg(PHOTO, quality, subsampling)
    expected = Image.open(io.BytesIO(saved(format="JPEG", quality=quality)))
    found = Image.open(io.BytesIO(data))
    assert JpegImagePlugin.get_sampling(found) == code
    assert found.quantization == expected.quantization


def test_shrinking_averages_areas():
    image = np.repeat(np.repeat(np.array([[0, 40], [80, 120]], np.uint8), 4, 0), 4, 1)
    small = pixels.resize(np.dstack([image] * 3), (1, 1))
    assert small.tolist() == [[[60, 60, 60]]]


def test_resize_gives_the_size_asked_for_and_leaves_a_fitting_image_alone():
    assert pixels.resize(PHOTO, (32, 64)).shape == (64, 32, 3)
    assert pixels.resize(PHOTO, (128, 256)).shape == (256, 128, 3)
    assert pixels.resize(PHOTO, (64, 128)) is PHOTO


def test_growing_is_bilinear_between_pixel_centres():
    image = np.zeros((1, 2, 3), np.uint8)
    image[0, 1] = 100
    assert pixels.resize(image, (4, 1))[0, :, 0].tolist() == [0, 25, 75, 100]


def test_read_all_equals_reading_one_by_one(tiny_images):
    pile = pixels.read_all(tiny_images, (32, 64), threads=3)
    assert pile.shape == (12, 64, 32, 3)
    for row in range(len(tiny_images)):
        one = pixels.resize(pixels.read(tiny_images.file(row)), (32, 64))
        assert np.array_equal(pile[row], one)


def test_read_all_refuses_a_file_that_is_not_the_tables(tiny_images):
    file = tiny_images.file(5)
    file.write_bytes(pixels.encode_jpeg(PHOTO))
    told = f"{file}: the file has changed since the images table was made"
    with pytest.raises(PixelError, match=re.escape(told)):
        pixels.read_all(tiny_images, (64, 128))


def test_read_all_names_all_damaged_files(tiny_images):
    for row in (2, 5, 9):
        file = tiny_images.file(row)
        file.write_bytes(file.read_bytes()[:-7])
    names = [re.escape(tiny_images.file(row).name) for row in (2, 5, 9)]
    told = "^3 images cannot be used: .*" + ".*; .*".join(names) + ".*'augment index --skip-broken'"
    with pytest.raises(PixelError, match=told):
        pixels.read_all(tiny_images, (64, 128))
    with (
        pytest.raises(PixelError, match=told),
        pixels.naming_all_broken(tiny_images),
    ):
        pixels.read(tiny_images.file(5))


def test_of_many_broken_images_ten_are_named():
    errors = [PixelError(f"{number}.jpg: gone") for number in range(1234)]
    told = str(pixels.broken_images(errors, "mend them"))
    assert told.startswith("1,234 images cannot be used: 0.jpg: gone; 1.jpg: gone; ")
    assert told.endswith("; 9.jpg: gone; and 1,224 more; mend them")
