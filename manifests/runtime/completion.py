"""Completion of commands, flags and values in bash and zsh, from the help of a program."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Final

from manifests.runtime.console import UserError
from manifests.runtime.help_pages import CONFIG_FLAG, HELP_FLAG, Flag

SHELLS: Final = ("bash", "zsh")

_SCRIPT: Final = """\
{start}_{program}() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} values= flags=
  if [ "$COMP_CWORD" = 1 ]; then
    COMPREPLY=($(compgen -W {commands} -- "$word"))
    return
  fi
  case "${{COMP_WORDS[1]}}" in
{flags}
  esac
  case "${{COMP_WORDS[1]}} $before" in
{values}
  esac
  if [ -n "$values" ]; then
    COMPREPLY=($(compgen -W "$values" -- "$word"))
  elif [ "${{word#-}}" != "$word" ]; then
    COMPREPLY=($(compgen -W "$flags" -- "$word"))
  else
    COMPREPLY=($(compgen -f -- "$word"))
  fi
}}
complete -o filenames -F _{program} {program}
"""


def script(program: str, shell: str, pages: Mapping[str, Sequence[Flag]]) -> str:
    """Return what a shell reads to complete a program's command lines.

    Args:
        program: Its name.
        shell: One of ``SHELLS``.
        pages: Flags by command.

    Raises:
        UserError: If the shell is another one.
    """
    if shell not in SHELLS:
        raise UserError(f"--completion: found '{shell}', expected one of {', '.join(SHELLS)}")
    flags: list[str] = []
    values: list[str] = []
    for command, page in pages.items():
        known = [*page, CONFIG_FLAG, HELP_FLAG]
        names = " ".join(name for flag in known for name in flag.names)
        flags.append(f"    {command}) flags={shlex.quote(names)} ;;")
        values += [
            f"    '{command} {name}') values={shlex.quote(' '.join(flag.choices))} ;;"
            for flag in page
            for name in flag.names
            if flag.choices
        ]
    return _SCRIPT.format(
        start="autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else "",
        program=program,
        commands=shlex.quote(" ".join([*pages, "--help", "--version"])),
        flags="\n".join(flags),
        values="\n".join(values),
    )
