"""The two ways in which ProvFL ends badly, and how a wrong name is answered."""

from collections.abc import Iterable
from difflib import get_close_matches

from .harmless import harmless_lines


class _Said(Exception):
    """Its message may quote data: it is made harmless here, so that no place that raises can forget it."""

    def __init__(self, message: str = "") -> None:
        super().__init__(harmless_lines(message))


class InputError(_Said):
    """Something that the user gave is wrong (exit code 2); the message says what, what is accepted, what to type."""


class RunError(_Said):
    """The input was fine and the run failed all the same (exit code 1)."""


class TrainingFailed(RunError):
    """Clients trained and no model came of it: it diverged, or too few of them returned. Another try gives the same."""


def brief(error: BaseException) -> str:
    """What an error of somebody else's code says, on one line: its kind, and the beginning of its words."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def nearest(wrong: str, names: Iterable[str], cutoff: float = 0.5) -> list[str]:
    """At most three of the `names` that are spelt like `wrong`, the best first; capitals make no difference."""
    folded = dict[str, list[str]]()
    for name in names:
        folded.setdefault(name.casefold(), []).append(name)
    near = get_close_matches(wrong.casefold(), folded, n=3, cutoff=cutoff)
    if wrong.casefold() in folded:  # nothing but capitals is wrong
        near = [wrong.casefold()]
    return [name for spelling in near for name in folded[spelling]][:3]


def did_you_mean(wrong: str, valid: Iterable[str], limit: int = 12) -> str:
    """End a message about the unknown name `wrong`: the nearest valid names, or all of them where none is near."""
    names = sorted(set(valid))
    near = nearest(wrong, names)
    if near:
        return f"did you mean {' or '.join(near)}?"
    shown = ", ".join(names[:limit]) + (", …" if len(names) > limit else "")
    return f"accepted: {shown}"
