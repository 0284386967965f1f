"""`--as-names`: substitutions on the names of tensors, written as sed has them: `s/^module\\.//`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...checks import LONGEST_TEXT, excerpt
from ...coverage import printable
from ...errors import InputError

MOST, LONGEST = 16, 500  # substitutions, and characters of one
EXAMPLE = r"give s/PATTERN/REPLACEMENT/, a regular expression and what takes its place, such as 's/^module\.//'"


@dataclass(frozen=True)
class Substitution:
    """What takes the place of a pattern: of its first match in a name, or of `every` match."""

    pattern: re.Pattern[str]
    replacement: str
    every: bool

    def applied(self, name: str) -> str:
        """The name after it."""
        return self.pattern.sub(self.replacement, name, count=0 if self.every else 1)


def substitutions(texts: Sequence[str]) -> tuple[Substitution, ...]:
    """What `--as-names` says, in its order.

        >>> (plain,) = substitutions([r"s/^module\\.//"])
        >>> plain.applied("module.fc.weight")
        'fc.weight'

    Raises:
        InputError: one is no substitution, or they are too many.
    """
    if len(texts) > MOST:
        raise InputError(f"--as-names: {len(texts)} substitutions, at most {MOST} are accepted")
    return tuple(_substitution(text) for text in texts)


def _substitution(text: str) -> Substitution:
    if len(text) > LONGEST:
        raise InputError(f"--as-names {excerpt(text)}: has {len(text)} characters, at most {LONGEST} are accepted")
    mark = text[1:2]
    # At marks that no backslash stands before: the pattern, what takes its place, and perhaps g.
    parts = re.split(rf"(?<!\\){re.escape(mark)}", text[2:]) if mark else []
    if text[:1] != "s" or not mark or mark.isalnum() or mark in "\\ " or len(parts) != 3 or not parts[0]:
        raise InputError(f"--as-names {excerpt(text)}: {EXAMPLE}")
    pattern, replacement, flags = (part.replace(f"\\{mark}", mark) for part in parts)
    if flags not in ("", "g"):
        raise InputError(
            f"--as-names {excerpt(text)}: ends in {excerpt(flags)}, accepted is g (every match) or nothing"
        )
    try:
        compiled = re.compile(pattern)
        compiled.sub(replacement, "")  # says whether the replacement names groups that there are not
    except (re.error, IndexError, RecursionError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"--as-names {excerpt(text)}: is no regular expression ({excerpt(reason)}): {EXAMPLE}"
        ) from None
    return Substitution(compiled, replacement, flags == "g")


def new_names(names: Iterable[str], asked: Sequence[Substitution], what: str) -> dict[str, str]:
    """The new name of each tensor of a file called `what`.

    Raises:
        InputError: two tensors would have the same name, or one would have none.
    """
    renamed: dict[str, str] = {}
    taken: dict[str, str] = {}
    for name in names:
        new = name
        for substitution in asked:
            new = substitution.applied(new)
        if not new or len(new) > LONGEST_TEXT:
            raise InputError(f"--as-names: {printable(name)} of {what} would have {'too long a' if new else 'no'} name")
        if new in taken:
            raise InputError(
                f"--as-names: {printable(taken[new])} and {printable(name)} of {what} would both be {printable(new)}"
            )
        renamed[name], taken[new] = new, name
    return renamed
