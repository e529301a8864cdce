"""Pages that mkdocs makes while it builds: the commands' help, README's systems, what changed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

COMMANDS: Final = {
    "augment": (
        "sample", "index", "detect", "train", "convert", "generate", "status", "verify", "preview",
        "report", "transfer", "evaluate", "export",
    ),
    "reid": ("train", "score", "compare", "study", "screen", "backgrounds", "export", "report"),
}  # fmt: skip
"""What a command line can begin with."""


PICTURES: Final = {
    "systems.png": "Made-up people: source, target pose, PATN, XingGAN, GFLA, DPTN, real image",
    "streets.png": "Made-up people: source, target pose, PATN, pose warp, recompose, real image",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages to the site."""
    makers = {"commands": commands, "systems": systems, "release-notes": release_notes}
    for name, made in makers.items():
        files.append(File.generated(config, f"{name}.md", content=made()))
    return files


def commands() -> str:
    """Return the page of what every command prints of itself."""
    parts = ["# Commands", "What `--help` prints, command by command."]
    for program, names in COMMANDS.items():
        for name in names:
            parts += [f"## {program} {name}", f"```text\n{help_of(program, name)}\n```"]
    return "\n\n".join(parts)


def systems() -> str:
    """Return the page of systems and weights: README's sections, pictures of made-up people.

    Raises:
        ValueError: If README has no such section.
    """
    readme = Path(__file__).parents[1].joinpath("README.md").read_text("utf-8")
    parts = ["# Systems and weights"]
    for title in ("## Systems", "## Shipped weights"):
        start = readme.index(f"\n{title}\n")
        end = readme.index("\n## ", start + 1)
        parts.append(readme[start:end].replace("](docs/", "](").strip())
    parts += [f"![{about}]({name})\n\n*{about}.*" for name, about in PICTURES.items()]
    return "\n\n".join(parts)


def release_notes() -> str:
    """Return the page of what changed."""
    changes = Path(__file__).parents[1].joinpath("CHANGELOG.md").read_text("utf-8")
    return changes.replace("# Changelog", "# Release notes", 1).replace("](docs/", "](")


def help_of(program: str, command: str) -> str:
    """Return what a command prints of itself.

    Raises:
        subprocess.CalledProcessError: If there is no such command.
    """
    call = [sys.executable, "-m", f"{program}.cli", command, "--help"]
    found = subprocess.run(
        call, capture_output=True, text=True, check=True, env={"COLUMNS": "100", "NO_COLOR": "1"}
    )
    return "\n".join(line.rstrip() for line in found.stdout.splitlines()).strip()
