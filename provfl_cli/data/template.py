"""Prompts and responses as tokens: what stands between the turns, and how texts become tokens and texts again.

A chat template is a program. What it makes of turns is found out once, from the tokenizer that brings it, and kept as
plain texts: they are stored with a run, which anybody may open.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from torch import Tensor

from ..errors import InputError
from ..responses import pack
from .dialogue import Dialogue
from .rust import panics_caught

LONGEST = 10_000  # characters of one part of a template
MARKS = ("\u2060provfl-one\u2060", "\u2060provfl-two\u2060", "\u2060provfl-three\u2060")


@dataclass(frozen=True)
class Template:
    """What stands around the turns, as texts in which special tokens are written out.

    Attributes:
        begin: before the first turn of a user.
        answer: behind a user's last turn: what the response follows.
        reply: behind a user's turn before a response that is not the last one.
        again: behind such a response, before the user's next turn.
        system: before and behind what the system says, then `begin` is left out; None: it is put ahead of the prompt.
        lead: what a response's text begins with, such as a blank.
        end: the token that ends a response.
    """

    begin: str
    answer: str
    reply: str
    again: str
    end: str
    system: tuple[str, str] | None = None
    lead: str = ""


def plain_template(begin: str, end: str) -> Template:
    """Of a model without a chat format: prompt, a blank, response; turns one a line."""
    return Template(begin=begin, answer="", reply=" ", again="\n", end=end, lead=" ")


def chat_template(tokenizer: Any, end: str) -> Template | None:
    """What the chat template of a tokenizer of transformers puts around turns; None where it has none that is plain."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    one, two, three = MARKS

    def rendered(*turns: tuple[str, str]) -> str:
        messages = [{"role": role, "content": text} for role, text in turns]
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    try:
        begin, answer = _between(rendered(("user", one)), one)
        _, reply, again, _ = _between(rendered(("user", one), ("assistant", two), ("user", three)), one, two, three)
    except Exception:  # whatever a program in a file does
        return None
    try:
        before, behind, _ = _between(rendered(("system", one), ("user", two)), one, two)
        system: tuple[str, str] | None = (before, behind)
    except Exception:  # many know no system: Gemma's raises
        system = None
    # A turn may end by another token than texts do (Gemma).
    known = sorted(map(str, tokenizer.get_added_vocab()), key=len, reverse=True)
    end = next((token for token in known if again.startswith(token)), end)
    return Template(begin, answer, reply, again, end, system)


def _between(text: str, *marks: str) -> list[str]:
    """The parts of a text before, between and behind the marks, which it has once each, in this order."""
    parts = []
    for mark in marks:
        before, found, text = text.partition(mark)
        if not found or mark in text:
            raise ValueError("it changes what is said, or repeats it")
        parts.append(before)
    return [*parts, text]


def template_of(values: Any) -> Template:
    """A template of stored plain values; ValueError where these are none."""
    if not isinstance(values, Mapping) or {*values} != {field.name for field in fields(Template)}:
        raise ValueError("no template")
    held = dict(values)
    system = held.pop("system")
    texts = [*held.values(), *(system or ())]
    known = system is None or (isinstance(system, list | tuple) and len(system) == 2)
    if not known or not all(isinstance(text, str) and len(text) <= LONGEST for text in texts):
        raise ValueError("a template of something else than texts")
    return Template(**held, system=None if system is None else (system[0], system[1]))


def values_of(template: Template) -> dict[str, Any]:
    """A template as plain values."""
    return asdict(template)


class Codec:
    """Dialogues as tokens, by a tokenizer's JSON (see `tokenizer.py`) and a template.

    Parts of the template are encoded with their special tokens; what somebody said is text throughout, a written
    "<pad>" included.
    """

    def __init__(self, tokenizer: str, template: Template, max_tokens: int) -> None:
        with panics_caught():
            self._special, self._plain = Tokenizer.from_str(tokenizer), Tokenizer.from_str(tokenizer)
        assert self._plain.padding is not None
        self.padding: int = self._plain.padding["pad_id"]
        for tokenizer_ in (self._special, self._plain):
            tokenizer_.no_padding()
            tokenizer_.no_truncation()
        self._plain.encode_special_tokens = True
        self.template, self.max_tokens = template, max_tokens
        end = self._special.token_to_id(template.end)
        if end is None:
            raise InputError(f"the tokenizer does not know {template.end}, the token that ends a response")
        self.end: int = end

    def prompt(self, turns: Sequence[tuple[str, str]]) -> list[int]:
        """Tokens of all that is before a response, never none."""
        shape, parts = self.template, list[tuple[str, bool]]()  # text, and whether it is the template's own
        turns = list(turns)
        system = [text for role, text in turns if role == "system"]
        turns = [turn for turn in turns if turn[0] != "system"]
        if system and shape.system is not None:
            parts += [(shape.system[0], True), ("\n".join(system), False), (shape.system[1], True)]
        else:
            parts.append((shape.begin, True))
            parts += [("\n".join(system) + "\n", False)] if system else []
        for number, (role, text) in enumerate(turns):
            if role == "user":
                last = number == len(turns) - 1
                parts += [(text, False), (shape.answer if last else shape.reply, True)]
            else:
                parts += [(text, False), (shape.again, True)]
        tokens = [token for text, own in parts for token in self._encode(text, own)]
        return tokens or [self.end]

    def response(self, text: str) -> list[int]:
        """Tokens of a response, its end included."""
        return [*self._encode(self.template.lead + text, False), self.end]

    def text(self, tokens: Sequence[int]) -> str:
        """The text of a response's tokens, without its end."""
        kept = [token for token in tokens if token not in (self.end, self.padding)]
        with panics_caught():
            said: str = self._plain.decode(kept, skip_special_tokens=False)
        return said.removeprefix(self.template.lead)

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """What each token adds to the text of those before it: together they are the text. The end adds nothing."""
        if tokens and tokens[-1] == self.end:
            return [*self.pieces(tokens[:-1]), ""]
        texts = [""]
        for count in range(1, len(tokens) + 1):
            with panics_caught():
                whole = self._plain.decode(list(tokens[:count]), skip_special_tokens=False)
            texts.append(texts[-1] if whole.endswith("\ufffd") and count < len(tokens) else whole)
        return [after[len(before) :] for before, after in itertools.pairwise(texts)]

    def encode(self, dialogues: np.ndarray) -> Tensor:
        """Dialogues `[n]` as int64 `[n, 2, T]`, see `responses.pack`."""
        return self.pack(dialogues, [self.response(dialogue.response) for dialogue in dialogues])

    def pack(self, dialogues: Sequence[Dialogue] | np.ndarray, responses: Sequence[Sequence[int]]) -> Tensor:
        """The prompts of dialogues with other responses, given as tokens: int64 `[n, 2, T]`."""
        prompts = [self.prompt(dialogue.turns) for dialogue in dialogues]
        return pack(prompts, responses, self.padding, self.max_tokens)

    def _encode(self, text: str, own: bool) -> list[int]:
        if not text:
            return []
        with panics_caught():
            ids: list[int] = (self._special if own else self._plain).encode(text, add_special_tokens=False).ids
        return ids
