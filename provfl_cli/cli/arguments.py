"""Parsers of commands that answer a wrong flag in one line."""

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from ..errors import InputError


def parser(command: str, hints: Mapping[str, str] | None = None, **given: Any) -> ArgumentParser:
    """The parser of `provfl COMMAND`, which raises an InputError in place of showing its usage.

    Args:
        command: its name.
        hints: what to say in place of argparse's words, by a word that these contain.
        given: more arguments for `ArgumentParser`.
    """

    def refuse(message: str) -> NoReturn:
        for word, hint in (hints or {}).items():
            if word in message:
                message = hint
        raise InputError(f"{message} (provfl {command} --help)")

    made = ArgumentParser(prog=f"provfl {command}", allow_abbrev=False, **given)
    made.error = refuse  # type: ignore[method-assign]
    return made


def read(own: ArgumentParser, arguments: Sequence[str]) -> Namespace | None:
    """The arguments of a command; None where only its help was asked for, which is shown."""
    if any(argument in ("-h", "--help") for argument in arguments):
        own.print_help()
        return None
    return own.parse_args(arguments)


def whole(name: str, text: str, least: int) -> int:
    """The number that an option's text is; InputError where it is none."""
    if not text.isdecimal() or int(text) < least:
        raise InputError(f"--{name} {text}: must be a whole number, {least} or more")
    return int(text)
