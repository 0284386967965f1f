"""Parsers of commands that answer a wrong flag in one line."""

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..checks import LONGEST_TEXT, excerpt
from ..config.flags import unknown_flag
from ..errors import InputError

LONG = ("--text", "--prompt", "--response", "--span", "--instead")  # what is to be read, not a name
MOST, DIGITS = 1_000_000_000, 10  # of a number on the command line


def parser(command: str, hints: Mapping[str, str] | None = None, **options: Any) -> ArgumentParser:
    """The parser of `provfl COMMAND`, which raises an InputError in place of showing its usage.

    Args:
        command: its name.
        hints: what to say in place of argparse's words, by a word that these contain.
        options: more arguments for `ArgumentParser`.
    """

    def refuse(message: str) -> NoReturn:
        for word, hint in (hints or {}).items():
            if word in message:
                message = hint
        raise InputError(f"{unknown_flag(message, made)} (provfl {command} --help)")

    made = ArgumentParser(prog=f"provfl {command}", allow_abbrev=False, **options)
    made.error = refuse  # type: ignore[method-assign]
    return made


def read(own: ArgumentParser, arguments: Sequence[str]) -> Namespace | None:
    """The arguments of a command; None where only its help was asked for, which is shown."""
    if any(argument in ("-h", "--help") for argument in arguments):
        own.print_help()
        return None
    args = own.parse_args(arguments)
    flags = {action.dest: next(iter(action.option_strings), str(action.metavar)) for action in own._actions}
    for name, value in vars(args).items():
        for text in _texts(value):
            _check(flags[name], text)
    return args


def whole(name: str, text: str, least: int, most: int = MOST) -> int:
    """The number that an option's text is; InputError where it is none."""
    if not text.isdecimal() or len(text) > DIGITS or not least <= int(text) <= most:
        raise InputError(f"--{name} {excerpt(text)}: must be a whole number, {least} or more and at most {most}")
    return int(text)


def listed(flag: str, texts: Sequence[str]) -> tuple[str, ...]:
    """The names in an option's texts, which commas divide; InputError where one is missing beside a comma."""
    for text in texts:
        if not all(map(str.strip, text.split(","))):
            raise InputError(f"{flag} {excerpt(text)}: a name is missing beside a comma, such as {flag} A,B")
    return tuple(name.strip() for text in texts for name in text.split(","))


def check_out(path: Path, folder: bool = False) -> None:
    """InputError where nothing can be written at `--out` (a file; or a `folder`): said before any work is done."""
    if folder and path.exists() and not path.is_dir():
        raise InputError(f"--out {path}: is a file, give a folder")
    if not folder and path.is_dir():
        raise InputError(f"--out {path}: is a folder, give a file")
    above = next(place for place in (path, *path.absolute().parents) if place.exists())
    if above != path and not above.is_dir():
        raise InputError(f"--out {path}: {above} is a file, no folder can be made in it")
    if not os.access(above, os.W_OK):
        raise InputError(f"--out {path}: {above} cannot be written to")


def _texts(value: Any) -> list[str]:
    """The texts in an argument, which may be a list of lists of them."""
    if isinstance(value, list):
        return [text for part in value for text in _texts(part)]
    return [value] if isinstance(value, str) else []


def _check(flag: str, text: str) -> None:
    """Refuse what is no name of anything, and what the system would refuse in words of its own."""
    if not text.strip():
        raise InputError(f"{flag}: is empty")
    if flag not in LONG and len(text) > LONGEST_TEXT:
        raise InputError(f"{flag} {excerpt(text)}: has {len(text):,} characters, at most {LONGEST_TEXT:,} are accepted")
