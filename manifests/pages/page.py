"""One HTML file with everything in it: no script, style, font or picture from elsewhere."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import jinja2

from manifests.io import Images
from manifests.pixels import JPEG
from manifests.runtime.console import UserError
from manifests.runtime.storage import replacing

_TEMPLATES: Final = Path(__file__).parent / "templates"
_KINDS: Final = {JPEG: "image/jpeg", b"\x89PN": "image/png"}


def check_page(path: Path) -> None:
    """Check, before anything is computed, that a page can be written there.

    Raises:
        UserError: If it is a folder, or lies in one that does not exist.
    """
    if path.is_dir():
        raise UserError(f"--html {path}: found a folder, expected the name of a file to write")
    if not path.parent.is_dir():
        raise UserError(f"--html {path}: found no folder {path.parent}, expected one that exists")


def write_page(path: Path, template: str, context: Mapping[str, Any], *folders: Path) -> int:
    """Write a page whole; return its size in bytes.

    Args:
        path: HTML file.
        template: Name of a file in the templates here, or in one of ``folders``.
        context: What the template names. Text is escaped, whatever is in it.
        folders: Of further templates.

    Raises:
        UserError: If the file cannot be written.
    """
    text = _environment(folders).get_template(template).render(context)
    data = text.encode("utf-8", "replace")
    with replacing(path) as file:
        file.write(data)
    return len(data)


@cache
def _environment(folders: tuple[Path, ...]) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([_TEMPLATES, *folders]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment


class Pictures:
    """Where a page has its pictures from: in itself, from files beside it, or nowhere."""

    def __init__(self, page: Path, images: Images | None, *, embed: bool) -> None:
        """Take the page's file, the table of images if there is one, and whether they go in."""
        self._folder = page.absolute().parent
        self._images = images
        self._embed = embed
        self._row_of = (
            {}
            if images is None
            else {name: row for row, name in enumerate(images.strings("image_id"))}
        )
        self._found: dict[str, str] = {}
        self._missing: set[str] = set()

    def add(self, names: Iterable[str]) -> None:
        """Take further images into the page."""
        for name in names:
            if name not in self._found and name not in self._missing:
                source = self._source(name)
                if source is None:
                    self._missing.add(name)
                else:
                    self._found[name] = source

    def _source(self, name: str) -> str | None:
        row = self._row_of.get(name)
        if self._images is None or row is None:
            return None
        file = self._images.file(row)
        if not file.is_file():
            return None
        return embedded(file.read_bytes()) if self._embed else linked(file, self._folder)

    @property
    def sources(self) -> dict[str, str]:
        """Return what a picture's element has for ``src``, by the name of the image."""
        return self._found

    @property
    def note(self) -> str:
        """Return in words where the pictures are."""
        if self._images is None:
            return (
                "This page holds no pictures: --images TABLE links them, --embed-images puts them "
                "into the page."
            )
        lost = (
            f" {len(self._missing):,} images were not found and are blank." if self._missing else ""
        )
        if self._embed:
            return f"{len(self._found):,} images are in this page: it shows people.{lost}"
        return (
            f"{len(self._found):,} images are linked where they lie beside this page, and are "
            f"blank where it is moved alone; --embed-images puts them into the page.{lost}"
        )


def embedded(data: bytes) -> str:
    """Return an image file as the address of a picture that holds it."""
    kind = _KINDS.get(data[:3], "application/octet-stream")
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def linked(file: Path, folder: Path) -> str:
    """Return the address of a file from a folder."""
    return quote(Path(os.path.relpath(file.absolute(), folder)).as_posix())


def in_words(size: int) -> str:
    """Return a number of bytes for people.

    >>> in_words(1_530_000)
    '1.5 MB'
    """
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.0f} kB"


def entries(block: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested entries as names and values.

    >>> entries({"query": {"num_images": 3}, "rule": "all"})
    [('query num images', '3'), ('rule', 'all')]
    """
    found: list[tuple[str, str]] = []
    for name, value in block.items():
        if isinstance(value, dict):
            found += entries(value, f"{prefix}{name} ")
        else:
            found.append((f"{prefix}{name}".replace("_", " "), str(value)))
    return found
