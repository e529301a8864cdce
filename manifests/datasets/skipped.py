"""What a reader of a folder did not take: counted by reason, with an example, never in silence."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from manifests.runtime.console import UserError

MAX_SHARE: Final = 0.03
"""Share of a folder's images that may be left out without a word of the user's."""
IMAGE_ENDINGS: Final = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})

UNREADABLE: Final = "folders that cannot be read"
BROKEN: Final = "images that cannot be used"
BROKEN_MASKS: Final = "masks that cannot be used"
BROKEN_KEYPOINTS: Final = "keypoint files that cannot be used"
LINKED_TWICE: Final = "links to folders that were read already"
DANGLING: Final = "links to nothing"
NOT_UTF8: Final = "names that are not UTF-8"


@dataclass(slots=True)
class Skipped:
    """Counts of entries of a folder by the reason why they were not taken."""

    counts: dict[str, int] = field(default_factory=dict[str, int])
    examples: dict[str, str] = field(default_factory=dict[str, str])
    num_images: int = 0
    """How many of them may be images of the data set."""

    def add(self, reason: str, example: str, *, is_image: bool = False) -> None:
        """Count one entry."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        self.examples.setdefault(reason, example)
        self.num_images += is_image

    def take(self, other: Skipped) -> None:
        """Count what another reader of the same data set left out."""
        for reason, number in other.counts.items():
            self.counts[reason] = self.counts.get(reason, 0) + number
            self.examples.setdefault(reason, other.examples[reason])
        self.num_images += other.num_images

    def add_file(self, path: str) -> None:
        """Count a file that is none of the data set by its name."""
        name = path.rsplit("/", 1)[-1]
        is_image = Path(name).suffix.lower() in IMAGE_ENDINGS
        self.add(kind_of_skipped_file(name), path, is_image=is_image)

    def text(self) -> str:
        """Return the counts, each with an example."""
        return ", ".join(
            f"{number:,} {reason} (like {self.examples[reason]})"
            for reason, number in sorted(self.counts.items())
        )

    def check(self, num_taken: int, where: str, *, allowed: bool) -> None:
        """Check that hardly any image was left out.

        Raises:
            UserError: If more than ``MAX_SHARE`` of the images were not taken, or a folder could
                not be read, unless that is allowed.
        """
        too_many = self.num_images > MAX_SHARE * (num_taken + self.num_images)
        if not allowed and (too_many or UNREADABLE in self.counts):
            raise UserError(
                f"{where}: took {num_taken:,} images and left out {self.text()}; expected that "
                "all are read, or --allow-skipped"
            )


@dataclass(frozen=True, slots=True)
class Leniency:
    """What may be left out of a folder of files."""

    skipped: Skipped = field(default_factory=Skipped)
    """Counts it."""
    skip_broken: bool = False
    """Files that cannot be used."""
    allow_skipped: bool = False
    """Folders that cannot be read."""


def kind_of_skipped_file(name: str) -> str:
    """Return how skipped files like this one are counted.

    >>> [kind_of_skipped_file(name) for name in ("Thumbs.db", "photo.JPG", "LICENSE")]
    ['Thumbs.db', '*.jpg of another name', 'other']
    """
    if name == "Thumbs.db":
        return name
    ending = Path(name).suffix.lower()
    if ending in IMAGE_ENDINGS:
        return f"*{ending} of another name"
    return f"*{ending}" if ending else "other"


def files_below(root: Path, skipped: Skipped) -> list[str]:
    """Return the files below a folder, sorted; linked folders are followed, each folder once.

    Folders that cannot be read, links to nothing, and links to a folder that is read anyway are
    counted in ``skipped``. What lies below the folder itself goes by its own name, whatever links
    to it.
    """
    read, links = {root.resolve()}, list[tuple[Path, str]]()
    found = list(_below(root, "", skipped, read, links))
    while links:
        folder, path = links.pop(0)
        if folder.resolve() in read:
            skipped.add(LINKED_TWICE, path)
        else:
            read.add(folder.resolve())
            within = list[tuple[Path, str]]()
            found += _below(folder, f"{path}/", skipped, read, within)
            links = within + links
    return sorted(found)


def _below(
    folder: Path, start: str, skipped: Skipped, read: set[Path], links: list[tuple[Path, str]]
) -> Iterator[str]:
    """Give the files of a folder and of those in it; leave linked folders to ``links``."""
    for entry in entries_of(folder, start, skipped):
        path = f"{start}{entry.name}"
        if not entry.is_dir():
            yield path
        elif entry.is_symlink() or Path(entry.path).resolve() in read:
            links.append((Path(entry.path), path))
        else:
            read.add(Path(entry.path).resolve())
            yield from _below(Path(entry.path), f"{path}/", skipped, read, links)


def entries_of(folder: Path, start: str, skipped: Skipped) -> list[os.DirEntry[str]]:
    """Return the entries of a folder, sorted by name; what cannot be reached is counted.

    Args:
        folder: A folder that exists.
        start: Its path below the root, with a slash at the end, for examples.
        skipped: Counts links to nothing, names that no table can hold, and the folder if it cannot
            be read.
    """
    try:
        found = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        skipped.add(UNREADABLE, start.rstrip("/") or str(folder), is_image=True)
        return []
    entries: list[os.DirEntry[str]] = []
    for entry in found:
        name = os.fsencode(entry.name).decode("utf-8", "backslashreplace")
        if name != entry.name:
            skipped.add(NOT_UTF8, f"{start}{name}", is_image=True)
        elif entry.is_symlink() and not Path(entry.path).exists():
            skipped.add(DANGLING, f"{start}{entry.name}", is_image=True)
        else:
            entries.append(entry)
    return entries
