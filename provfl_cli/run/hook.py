"""A command of the user's that is called when a client leaves the band. No shell reads it, and its failing is told."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from ..checks import excerpt
from ..errors import InputError
from ..results.files import plain

SECONDS = 60.0  # after which it is ended


def hook_of(command: str) -> tuple[str, ...]:
    """The words of a command, as a shell divides them; nothing in them is replaced.

    Raises:
        InputError: it is empty, a quotation mark is missing, or there is no such program.
    """
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        raise InputError(f"--exec {excerpt(command)}: {error}".replace("No ", "no ")) from None
    if not words:
        raise InputError("--exec: is empty: --exec 'PROGRAM ARGUMENTS'")
    if shutil.which(words[0]) is None:
        raise InputError(
            f"--exec {excerpt(words[0])}: no such program; no shell reads it: --exec 'sh -c \"…\"' has one"
        )
    return words


def call_hook(words: Sequence[str], about: Mapping[str, Any], seconds: float = SECONDS) -> str | None:
    """Call it and wait; returns why it failed, None where it did not.

    `about` stands on its standard input as one line of JSON; its plain values are in the environment as well, as
    `PROVFL_ROUND`, `PROVFL_CLIENT` and so on.
    """
    values = {name: value for name, value in about.items() if isinstance(value, str | int | float)}
    environment = os.environ | {f"PROVFL_{name.upper()}": _plain(value) for name, value in values.items()}
    try:
        ended = subprocess.run(
            list(words),
            input=json.dumps(plain(about)) + "\n",
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it took longer than {seconds:g} s and was ended"
    except (OSError, ValueError) as error:
        return str(error)
    if ended.returncode == 0:
        return None
    lines = (ended.stderr or ended.stdout).strip().splitlines()
    return f"exit code {ended.returncode}" + (f": {excerpt(lines[-1], 200)}" if lines else "")


def _plain(value: Any) -> str:
    """A value of the environment, which holds no null characters."""
    return str(value).replace("\0", "")
