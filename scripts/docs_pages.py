"""Pages that mkdocs makes while it builds: the commands' help, what changed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import augment.cli
import reid.cli

SCRIPT: Final = re.compile(r"<script\b.*?</script>", re.DOTALL)
FOREIGN: Final = re.compile(r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=\"?https?:[^>]*")
"""What a browser would ask another host for."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages to the site."""
    makers = {"commands": commands, "release-notes": release_notes}
    for name, made in makers.items():
        files.append(File.generated(config, f"{name}.md", content=made()))
    return files


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leave out what a notebook's page would load from other hosts: it shows no formula.

    Raises:
        PluginError: If a page would load something all the same.
    """
    del config, files
    if page.file.src_uri.endswith(".ipynb"):
        html = SCRIPT.sub(lambda found: "" if "https://" in found[0] else found[0], html)
    if foreign := FOREIGN.search(html):
        raise PluginError(f"{page.file.src_uri} would load from another host: {foreign[0]}")
    return html


def commands() -> str:
    """Return the page of what every command prints of itself."""
    parts = ["# Commands", "What `--help` prints, command by command."]
    for program, table in {"augment": augment.cli.PROGRAM, "reid": reid.cli.PROGRAM}.items():
        for name in table.commands:
            parts += [f"## {program} {name}", f"```text\n{help_of(program, name)}\n```"]
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
