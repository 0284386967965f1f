"""The rounds before: for methods that look at more than one round."""

from __future__ import annotations

from ..config.parts import RunSettings
from ..errors import InputError
from ..store.rounds import Round, read_round, stored_rounds


def check_all_kept(method: str, run: RunSettings) -> None:
    """Raise InputError unless a run keeps all of its rounds: what a method says must not depend on what is there."""
    if run.keep != "all" and run.federation.rounds > 1:
        raise InputError(f"attribution={method}: looks at all rounds, which are kept with store.keep=all")


def rounds_before(stored: Round) -> list[Round]:
    """The rounds of the same federation before this one that are kept, ascending."""
    folder = stored.folder.parent
    return [read_round(folder, number) for number in stored_rounds(folder) if number < stored.number]


def said_of(rounds: list[Round]) -> str:
    """Which rounds were looked at, in a few words; "" where these are all up to the last of them."""
    last = rounds[-1].number
    return "" if len(rounds) == last else f"{len(rounds)} of the {last} rounds are kept, and were looked at"
