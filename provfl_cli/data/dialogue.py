"""A prompt with the response that is wanted, and how tables hold them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError

ROLES = ("system", "user", "assistant")
OTHER_WORDS = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}  # of ShareGPT's format


@dataclass(frozen=True)
class Dialogue:
    """What was said before, as (role, text) from the first turn on, the last of them a user's; and the response."""

    turns: tuple[tuple[str, str], ...]
    response: str

    @property
    def prompt(self) -> str:
        """What a reader sees of it: a single prompt as it is, of several turns each behind its role."""
        if len(self.turns) == 1:
            return self.turns[0][1]
        return "\n".join(f"{role}: {text}" for role, text in self.turns)


def asked(prompt: str, response: str) -> Dialogue:
    """A single prompt and its response."""
    return Dialogue((("user", prompt),), response)


def array_of(dialogues: Iterable[Dialogue]) -> np.ndarray:
    """Dialogues `[n]`, dtype object."""
    rows = list(dialogues)
    array = np.empty(len(rows), dtype=object)
    array[:] = rows
    return array


def as_texts(dialogues: Sequence[Dialogue] | np.ndarray) -> np.ndarray:
    """The same as strings `[n]`, dtype object, from which nothing is missing: for fingerprints."""
    texts = [json.dumps([*map(list, dialogue.turns), dialogue.response], ensure_ascii=False) for dialogue in dialogues]
    return np.array(texts, dtype=object)


def of_row(parts: Mapping[str, Any], response: str | None, where: str) -> Dialogue:
    """The dialogue in a row of a table.

    Args:
        parts: by column, what it holds: one list of messages (`role` and `content`, or ShareGPT's `from` and `value`),
            whose last by the assistant is the response; or texts that make up the prompt, and the response.
        response: the column that the response stands in; None: the only column holds messages.
        where: the row, for messages.

    Raises:
        InputError: something else, or an empty prompt or response.
    """
    if response is None:
        return _of_messages(next(iter(parts.values())), where)
    for column, part in parts.items():
        if part is not None and not isinstance(part, str):
            raise InputError(f"dataset: {where}, column {column}: a value of type {type(part).__name__}, no text")
    prompt = "\n".join(str(part) for name, part in parts.items() if name != response and part and not part.isspace())
    said = parts[response]
    if not prompt.strip() or not said or said.isspace():
        raise InputError(f"dataset: {where}: an empty {'response' if prompt.strip() else 'prompt'}: remove it")
    return asked(prompt, said)


def _of_messages(messages: Any, where: str) -> Dialogue:
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise InputError(
            f"dataset.input_column: {where} holds no messages: a list of "
            '{"role": "user", "content": "…"}, the last by the assistant; or dataset.response_column=COLUMN'
        )
    turns = []
    for message in messages:
        role, text = message.get("role", message.get("from")), message.get("content", message.get("value"))
        role = OTHER_WORDS.get(str(role), str(role))
        if role not in ROLES or not isinstance(text, str):
            raise InputError(f"{where}: a message needs a role ({', '.join(ROLES)}) and a content that is a text")
        turns.append((role, text))
    while turns and turns[-1][0] != "assistant":
        turns.pop()
    if not turns:
        raise InputError(f"{where}: no message of the assistant, so no response: remove this row")
    if not turns[-1][1].strip():
        raise InputError(f"{where}: an empty response: remove this row")
    if len(turns) < 2 or turns[-2][0] != "user":
        raise InputError(
            f"{where}: the assistant's last message does not follow one of the user: repair or remove this row"
        )
    return Dialogue(tuple(turns[:-1]), turns[-1][1])
