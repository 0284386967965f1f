"""What the data part hands on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ..config.faults import Faults
from ..imports import later
from .picture_facts import PictureFacts

if TYPE_CHECKING:
    from torch import Tensor

    from . import template
    from .template import Codec, Template
else:
    template = later("provfl_cli.data.template")


@dataclass(frozen=True)
class Source:
    """Where the examples came from, for the manifest and the line under every table."""

    name: str
    source: str  # embedded | hub | path
    location: str  # package, hub id and revision, or folder
    train_examples: int
    test_examples: int
    fingerprint: str  # of the content: 16 hexadecimal digits
    note: str  # one sentence for people, such as "embedded subset of 5,000; all 60,000 with dataset.source=hub"
    indexed: bool | None = True  # a whole number in a label column is a class's number, not its name: see `labels`


@dataclass(frozen=True)
class Pictures:
    """What a model has to know of pictures."""

    channels: int
    image_size: int


@dataclass(frozen=True)
class Texts:
    """What a model has to know of texts: numbers of tokens known and of a text's at most, and the one that pads.

    `checkpoint` is the folder of published weights to start from, None for weights drawn from the seed.
    """

    vocabulary: int
    max_tokens: int
    padding: int
    checkpoint: str | None = None


@dataclass(frozen=True)
class Dialogues:
    """What a causal language model has to know of prompts and responses.

    `vocabulary`, `max_tokens` (of prompt and response together), `padding` and `checkpoint` as of `Texts`; `end` is the
    token that ends a response.
    """

    vocabulary: int
    max_tokens: int
    padding: int
    end: int
    checkpoint: str | None = None


Form = Pictures | Texts | Dialogues


@dataclass(frozen=True)
class ClientData:
    """One client's share, ready for training.

    `inputs` float32 `[n, channels, height, width]`, or tokens int64 `[n, T]`, padded on the right, or prompts with
    responses int64 `[n, 2, T]` (see `responses.py`); `labels` int64 `[n]`, what it trains on (after injection), of
    responses their topics; `label_counts` int64 `[classes]`, of those labels.
    """

    id: int
    inputs: Tensor
    labels: Tensor
    label_counts: np.ndarray

    @cached_property
    def fingerprint(self) -> str:
        """Of the examples and their order, 16 hexadecimal digits: the same share has the same, whoever holds it."""
        summary = hashlib.sha256()
        for tensor in (self.inputs, self.labels):
            summary.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
            summary.update(tensor.contiguous().numpy().data)
        return summary.hexdigest()[:16]


@dataclass(frozen=True)
class TestData:
    """A test set of the server: `inputs` and `labels` as in `ClientData`, and what people see of them.

    `shown` is uint8 `[n, height, width, channels]` for pictures, strings `[n]` (dtype object) for texts, `Dialogue`
    `[n]` (dtype object) for prompts with responses.

    `indices` int64 `[n]`: where each example stands in the source's whole test set, before the cap. `split` is `test`,
    or `triggered` for copies with a backdoor's trigger.
    """

    inputs: Tensor
    labels: Tensor
    shown: np.ndarray
    indices: np.ndarray
    split: str = "test"


@dataclass(frozen=True)
class FederatedData:
    """All clients kept, in the order of their numbers, the server's test set, and where it came from.

    `test` is what predictions are traced of. Where that is not the server's plain test set, but copies of it with a
    backdoor's trigger, `clean` is the plain one. `triggered` are these copies where a backdoor is planted, traced or
    not.

    `attacking`: what clients train on in rounds in which they attack, by their numbers, where that is not what
    `clients` has of them.
    """

    clients: tuple[ClientData, ...]
    dropped: tuple[tuple[int, int], ...]  # (client, examples it had left)
    test: TestData
    form: Form
    label_names: tuple[str, ...]
    source: Source
    faults: Faults
    lines: tuple[str, ...]  # what a user should be told, such as a resize; one sentence each
    tokenizer: str | None = None  # of texts: the tokenizers library's own JSON, to be stored with the run
    clean: TestData | None = None
    pictures: PictureFacts | None = None  # of pictures: how they were read, and what they look like
    attacking: Mapping[int, ClientData] = field(default_factory=dict)
    triggered: TestData | None = None
    template: Template | None = None  # of prompts and responses: what stands around them
    public: ClientData | None = None  # what a base model is made of here; None: there is nothing to make one of

    @cached_property
    def codec(self) -> Codec:
        """Turns dialogues into tokens, and tokens into texts; ValueError where there are none."""
        if self.tokenizer is None or self.template is None or not isinstance(self.form, Dialogues):
            raise ValueError("no data of prompts and responses")
        return template.Codec(self.tokenizer, self.template, self.form.max_tokens)

    @property
    def evaluated(self) -> TestData:
        """The plain test set, by which rounds are evaluated."""
        return self.test if self.clean is None else self.clean


Encode = Callable[["np.ndarray"], "Tensor"]
