"""Flags that a command does not have, answered with the nearest one that it has."""

from argparse import ArgumentParser

from ..checks import excerpt
from ..errors import nearest

UNKNOWN = "unrecognized arguments: "  # argparse's words


def unknown_flag(message: str, own: ArgumentParser) -> str:
    """What to say in place of argparse's `message` where it is about arguments unknown to `own`; else the message."""
    if not message.startswith(UNKNOWN):
        return message
    words = message.removeprefix(UNKNOWN).split()
    flag = next((word.partition("=")[0] for word in words if word.startswith("-")), None)
    if flag is None:
        return f"{excerpt(' '.join(words))}: more than the command takes"
    return no_such_flag(flag, [option for action in own._actions for option in action.option_strings])


def no_such_flag(flag: str, known: list[str]) -> str:
    """What to say of a flag that is none of those `known`."""
    near = nearest(flag, [option for option in known if option.startswith("--")], 0.6)[:1]
    return f"{excerpt(flag)}: no such flag" + (f", did you mean {near[0]}?" if near else "")
