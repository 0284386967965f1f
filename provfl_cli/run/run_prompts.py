"""Prompts of a run: those that it traced are read back from its folder; only for others is the dataset loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..bounded import TOKENIZER_BYTES, read_text
from ..data.dialogue import ROLES
from ..data.federated import Dialogues
from ..data.template import Codec, Template
from ..errors import InputError, RunError
from ..responses import prompts_of, responses_of
from ..results.checksums import TOKENIZER
from ..results.columns import run_table
from .inputs import UNKNOWN, RunInputs, readable
from .prompts import Prompt, own_prompt

TURNS = re.compile(rf"({'|'.join(ROLES)}): ")  # begins a prompt of several turns, as people are shown it


@dataclass(frozen=True)
class RunPrompts:
    """Prompts of a run whose model answers.

    Attributes:
        inputs: of the run.
        form: what its model reads.
        template: what stands around prompts and responses.
    """

    inputs: RunInputs
    form: Dialogues
    template: Template

    @cached_property
    def codec(self) -> Codec:
        """By the run's tokenizer; RunError where it is none, or not that of the run's model."""
        file = self.inputs.folder / TOKENIZER
        try:
            codec = Codec(read_text(file, TOKENIZER_BYTES), self.template, self.form.max_tokens)
        except OSError as error:
            raise RunError(f"{error.filename}: {error.strerror}: what turns texts into tokens is gone") from error
        except Exception as error:  # of the library, of a file that it does not understand
            raise RunError(f"{file} cannot be read: it is no tokenizer of a run") from error
        if (codec.padding, codec.end) != (self.form.padding, self.form.end):
            raise RunError(
                f"{file} is not the tokenizer of the run's model: padding and end are tokens {codec.padding} and "
                f"{codec.end}, of the model {self.form.padding} and {self.form.end}"
            )
        return codec

    def own(self, text: str) -> Prompt:
        """As the run's model reads prompts."""
        return self._checked(own_prompt(text, self.codec))

    def first(self, number: int) -> Prompt:
        """The first that the run traced of that round, or of any."""
        traced = self._traced()
        if not len(traced):
            raise InputError(f"{self.inputs.folder}: the run has traced nothing: give --prompt TEXT or --input INDEX")
        of_round = traced[traced["round"] == number]
        row = (of_round if len(of_round) else traced).iloc[0]
        return self._of_row({str(name): cell for name, cell in row.items()}, chosen=True)

    def numbered(self, index: int) -> Prompt:
        """From `inputs.parquet` where the run traced it, else from the dataset, which takes longer."""
        traced = self._traced()
        rows = traced[traced["input"] == index]
        if len(rows):
            return self._of_row({str(name): cell for name, cell in rows.iloc[0].items()})
        return self._of_dataset(index)

    def topic_of(self, response: str) -> int | None:
        """By the phrases that the run's traced prompts ask for and were answered with."""
        return self._phrases.get(response.strip(), UNKNOWN) if self._phrases else None

    @cached_property
    def _phrases(self) -> Mapping[str, int]:
        """The label of each phrase, `UNKNOWN` where it has several; {} where the prompt tells what is talked about."""
        if self.inputs.dataset.topics != "response":
            return {}
        traced, known = self._traced(), dict[str, int]()
        for text, label in ("expected", "label"), ("response", "prediction"):
            for said, number in zip(traced.get(text, ()), traced[label], strict=text in traced):
                if isinstance(said, str) and number != UNKNOWN:
                    phrase = said.strip()
                    known[phrase] = int(number) if known.get(phrase, number) == number else UNKNOWN
        return known

    def _of_row(self, row: Mapping[str, Any], chosen: bool = False) -> Prompt:
        """A prompt as the run recorded it; of several turns it cannot be told from what is recorded."""
        number, text = int(row["input"]), str(row["prompt"])
        if TURNS.match(text):
            return self._of_dataset(number, chosen)
        tokens = tuple(self.codec.prompt([("user", text)]))
        expected = row["expected"] if isinstance(row.get("expected"), str) else None
        return self._checked(Prompt(f"input {number}", text, tokens, number, int(row["label"]), expected, chosen))

    def _of_dataset(self, index: int, chosen: bool = False) -> Prompt:
        test, position = self.inputs.tested(index)
        packed = test.inputs[position : position + 1]
        expected = self.codec.text(responses_of(packed)[0])
        text = test.shown[position].prompt
        tokens = tuple(prompts_of(packed)[0])
        return self._checked(
            Prompt(f"input {index}", text, tokens, index, int(test.labels[position]), expected, chosen)
        )

    def _checked(self, prompt: Prompt) -> Prompt:
        """The prompt; RunError where a token is none of the model's."""
        if max(prompt.tokens) >= self.form.vocabulary:
            raise RunError(
                f"{self.inputs.folder / TOKENIZER} is not the tokenizer of the run's model: it makes token "
                f"{max(prompt.tokens):,}, the model reads {self.form.vocabulary:,}"
            )
        return prompt

    def _traced(self) -> Any:
        """What the run recorded of each prompt that it traced."""
        with readable(self.inputs.folder / "inputs.parquet") as path:
            table = run_table(path, ["round", "input", "label", "prediction", "prompt", "response", "expected"])
        if "prompt" not in table:
            raise RunError(f"{self.inputs.folder / 'inputs.parquet'} has no column prompt, which the run's model reads")
        return table.replace({np.nan: None})
