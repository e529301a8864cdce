"""Pixels from image files and back; the only file that touches codecs."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from manifests.io import Images
from manifests.runtime.console import UserError
from manifests.runtime.files import read_file as read_any_file
from manifests.runtime.thread_pool import thread_pool

Subsampling = Literal["4:2:0", "4:4:4"]

# One image per thread: OpenCV's own threads would compete with those of the callers.
cv2.setNumThreads(0)

MOST_PIXELS: Final = 1 << 26
"""Of an image; a header that claims more is not believed."""
JPEG: Final = b"\xff\xd8\xff"
"""How the data of a JPEG begins."""
_PNG = b"\x89PNG\r\n\x1a\n"
_PALETTE = 3
_WITH_ALPHA = (4, 6)
"""Colour types of the PNG standard."""
_SUBSAMPLING: Final = {
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
}

# Inside a scan FF 00 is a data byte and FF D0..D7 restarts the coder; anything else ends the scan.
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
_END_OF_IMAGE = 0xD9
_START_OF_SCAN = 0xDA
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


INDEX_WITHOUT: Final = "'augment index --skip-broken' makes a table without such images"
_MOST_NAMED: Final = 10


class PixelError(UserError):
    """An image that cannot be read."""


def broken_images(
    errors: Sequence[UserError], remedy: str = INDEX_WITHOUT, what: str = "images"
) -> PixelError:
    """Return one error of all files that cannot be used: the first of them, and how many.

    Args:
        errors: What is wrong, at least one.
        remedy: How to go on without them.
        what: What they were to hold.
    """
    first = "; ".join(str(error) for error in errors[:_MOST_NAMED])
    if len(errors) == 1:
        return PixelError(f"{first}; {remedy}")
    more = len(errors) - _MOST_NAMED
    rest = f"; and {more:,} more" if more > 0 else ""
    return PixelError(f"{len(errors):,} {what} cannot be used: {first}{rest}; {remedy}")


def decode(data: bytes, where: str) -> UInt8[np.ndarray, "height width 3"]:
    """Return the RGB pixels of a JPEG or PNG file as stored, whatever EXIF says of turning it.

    Raises:
        PixelError: If the data are no JPEG or PNG, cut off, or damaged; names ``where``.
    """
    size(data, where)
    try:
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise PixelError(f"{where}: the image cannot be decoded") from error
    # OpenCV reports most failures by giving nothing.
    if image is None:  # pyright: ignore[reportUnnecessaryComparison]
        raise PixelError(f"{where}: the image cannot be decoded")
    if data.startswith(JPEG) and _may_be_cut(data, image) and _is_cut(data, where):
        raise PixelError(
            f"{where}: the JPEG file is cut off before its end marker, the rest of the picture is "
            "missing"
        )
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def decode_mask(data: bytes, where: str) -> Bool[np.ndarray, "height width"]:
    """Return which pixels a PNG mask marks.

    Grey: values above 127, or 1 where there are only 0 and 1. Palette and colours that are grey:
    the same for their brightness; other colours of a palette: all that is not black.

    Raises:
        PixelError: If the data are no whole PNG, or no mask (16 bits, transparency, a coloured
            picture, other grey values); names ``where``.
    """
    if not data.startswith(_PNG):
        raise PixelError(f"{where}: found no PNG, expected a mask as PNG")
    size(data, where)
    bits, colours = data[24], data[25]
    if bits == 16 or colours in _WITH_ALPHA:
        found = "16 bits per value" if bits == 16 else "an alpha channel"
        raise PixelError(f"{where}: found {found}, expected a mask of grey values or a palette")
    image = decode(data, where)
    is_coloured = bool((image != image[..., :1]).any())
    if is_coloured and colours != _PALETTE:
        raise PixelError(f"{where}: found a coloured picture, expected a mask")
    values = image.max(axis=2)
    if is_coloured or values.max() <= 1:
        return np.asarray(values > 0)
    if values.max() <= 127:
        raise PixelError(
            f"{where}: found grey values up to {values.max()}, expected 0 and 1, or 0 to 255 with "
            "the person above 127"
        )
    return np.asarray(values > 127)


def as_rgb(image: Any, name: str = "image") -> UInt8[np.ndarray, "height width 3"]:
    """Return the RGB pixels of what a caller calls an image, where that is unambiguous.

    Taken are arrays and tensors of uint8, height x width, with 1, 3 or 4 channels last (grey, RGB,
    RGB and alpha, which is dropped), tensors with channels first as well, and PIL images of 8 bits.

    Args:
        image: The image.
        name: What the caller calls it, for messages.

    Raises:
        PixelError: If it is anything else; says what.

    >>> as_rgb(np.zeros((128, 64), np.uint8)).shape
    (128, 64, 3)
    """
    expected = f"expected {name} as height x width x 3 of uint8, RGB from 0 to 255"
    if isinstance(image, Image.Image):
        if image.mode.startswith(("I", "F")):
            raise PixelError(f"{name}: found a PIL image of mode {image.mode}, {expected}")
        return np.array(image.convert("RGB"))
    is_tensor = hasattr(image, "detach")
    array = np.asarray(image.detach().cpu().numpy() if is_tensor else image)
    if array.dtype != np.uint8:
        hint = "; 255 times a float image in 0 to 1, rounded" if array.dtype.kind == "f" else ""
        raise PixelError(f"{name}: found {_of_what(image, array)}, {expected}{hint}")
    if array.ndim == 2:
        array = array[..., None]
    channels_last = array.ndim == 3 and array.shape[2] in _CHANNELS
    if is_tensor and array.ndim == 3 and not channels_last and len(array) in _CHANNELS:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[2] not in _CHANNELS or 0 in array.shape:
        found = " x ".join(map(str, np.shape(image)))
        raise PixelError(f"{name}: found an array of {found}, {expected}")
    # A copy: networks want memory that they may write to.
    return np.array(np.broadcast_to(array[..., :3], (*array.shape[:2], 3)))


_CHANNELS: Final = (1, 3, 4)


def _of_what(image: Any, array: np.ndarray) -> str:
    if array.dtype == object or array.ndim < 2:
        return f"'{type(image).__name__}'"
    return f"{'x'.join(map(str, array.shape))} of {array.dtype}"


def size(data: bytes, where: str) -> tuple[int, int]:
    """Return (width, height) of a JPEG or PNG file without decoding it.

    The file is walked to its end: decoders fill what is cut off with grey and say nothing.

    Raises:
        PixelError: If the data are no JPEG or PNG, cut off, or say that they are larger than any
            picture of a person; names ``where``.
    """
    if data.startswith((JPEG, _PNG)):
        width, height = (
            _walk_jpeg(data, where)[0] if data.startswith(JPEG) else _png_size(data, where)
        )
        if width * height > MOST_PIXELS:
            raise PixelError(
                f"{where}: found {width:,} x {height:,} pixels, expected at most {MOST_PIXELS:,}"
            )
        return width, height
    found = "an empty file" if not data else f"a file that begins with {data[:8]!r}"
    raise PixelError(f"{where}: found {found}, expected a JPEG or PNG image")


def read(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    """Return the RGB pixels of an image file.

    Raises:
        PixelError: If the file is missing, no JPEG or PNG, cut off, or damaged.
    """
    return decode(read_file(path), str(path))


def read_file(path: Path) -> bytes:
    """Return the bytes of an image file.

    Raises:
        PixelError: If the file is missing or cannot be read.
    """
    try:
        return read_any_file(path, "an image")
    except UserError as error:
        raise PixelError(str(error)) from error


def resize(
    image: UInt8[np.ndarray, "old_height old_width 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "height width 3"]:
    """Return the image stretched to ``size`` (width, height).

    Averages over areas where it shrinks, bilinear otherwise; an image that fits comes back itself.
    """
    height, width = image.shape[:2]
    if (width, height) == size:
        return image
    shrinks = size[0] <= width and size[1] <= height
    way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size, interpolation=way), np.uint8)


def encode_jpeg(
    image: UInt8[np.ndarray, "height width 3"],
    quality: int = 95,
    subsampling: Subsampling = "4:2:0",
) -> bytes:
    """Return RGB pixels as a JPEG file.

    Args:
        image: RGB.
        quality: 1 to 100.
        subsampling: How coarse the colours are: ``4:2:0`` at half resolution, ``4:4:4`` at full.
    """
    factor = _SUBSAMPLING[subsampling]
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor]
    return _encode(image, ".jpg", settings)


def encode_png(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """Return RGB pixels as a PNG file (compression level 1)."""
    return _encode(image, ".png", [cv2.IMWRITE_PNG_COMPRESSION, 1])


def read_all(
    images: Images, size: tuple[int, int], threads: int = 2
) -> UInt8[np.ndarray, "rows height width 3"]:
    """Return all images in memory, stretched to ``size`` (width, height).

    Raises:
        PixelError: If images cannot be read, or their files are not those that the table was made
            of; names the first ones and counts them.
    """
    pixels = np.empty((len(images), size[1], size[0], 3), np.uint8)

    def fill(row: int) -> PixelError | None:
        try:
            data = read_file(files[row])
            pixels[row] = resize(decode(data, str(files[row])), size)
        except PixelError as error:
            return error
        if digests[row] is None or hashlib.sha256(data).hexdigest() == digests[row]:
            return None
        return PixelError(
            f"{files[row]}: the file has changed since the images table was made, expected the "
            "same file or a new table"
        )

    files = [images.file(row) for row in range(len(images))]
    digests = images.table["sha256"].to_pylist()
    with thread_pool(threads) as pool:
        errors = [error for error in pool.map(fill, range(len(files))) if error is not None]
    if errors:
        raise broken_images(errors)
    return pixels


@contextmanager
def naming_all_broken(images: Images) -> Generator[None]:
    """Let the error of one image name all of a table that cannot be used.

    Raises:
        PixelError: Whatever the block raises so, with the others.
    """
    try:
        yield
    except PixelError:
        # Small, since a whole table may be large.
        read_all(images, (1, 1))
        raise


def _encode(image: UInt8[np.ndarray, "height width 3"], ending: str, settings: list[int]) -> bytes:
    return cv2.imencode(ending, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), settings)[1].tobytes()


def _walk_jpeg(data: bytes, where: str) -> tuple[tuple[int, int], int]:
    """Return (width, height), and where the end marker stands."""
    size: tuple[int, int] | None = None
    position = 2
    while marker := _MARKER.search(data, position):
        code = marker[1][0]
        position = marker.end()
        if code == _END_OF_IMAGE:
            if size is None:
                raise PixelError(f"{where}: a JPEG file without an image")
            return size, marker.start()
        if code in _WITHOUT_LENGTH:
            continue
        if code in _START_OF_FRAME and len(data) >= position + 7:
            size = _number(data, position + 5), _number(data, position + 3)
        # The scan that follows this segment is skipped by the search for the next marker.
        position += _number(data, position)
    raise PixelError(
        f"{where}: the JPEG file is cut off, its end is missing ({len(data):,} bytes found)"
    )


def _may_be_cut(data: bytes, image: UInt8[np.ndarray, "height width 3"]) -> bool:
    """Return whether the last block is of one colour, as decoders leave it where data are missing.

    Of several scans the last only refines what is there.
    """
    corner = image[-_CORNER:, -_CORNER:]
    return bool((corner == corner[-1, -1]).all()) or data.count(_SCAN) > 1


_CORNER: Final = 4
_SCAN: Final = b"\xff\xda"
_MORE: Final = bytes(range(1, 200)) * 4
"""Coefficients for whoever still misses some; none of these bytes is a marker."""


def _is_cut(data: bytes, where: str) -> bool:
    """Return whether a decoder would go on reading coefficients where the file has its end marker.

    A decoder that has all of the picture ignores what stands before the marker.
    """
    _, end = _walk_jpeg(data, where)
    longer = data[:end] + _MORE + data[end:]
    try:
        # Pillow's decoder writes no warnings.
        found, with_more = (np.asarray(Image.open(io.BytesIO(d))) for d in (data, longer))
    except OSError:
        return True
    return not np.array_equal(found, with_more)


def _png_size(data: bytes, where: str) -> tuple[int, int]:
    position = len(_PNG)
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        kind = data[position + 4 : position + 8]
        position += 12 + length
        if kind == b"IEND" and position <= len(data):
            return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    raise PixelError(
        f"{where}: the PNG file is cut off, its end is missing ({len(data):,} bytes found)"
    )


def _number(data: bytes, position: int) -> int:
    return int.from_bytes(data[position : position + 2], "big")
