"""What a round's global model answers to the prompts of the test set, and whose topic that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..config.behaviour import Behaviour
from ..config.trigger import Trigger
from ..data.federated import Dialogues, FederatedData, TestData
from ..models.causal import ResponseModel
from ..models.generation import generate
from ..responses import pack, prompts_of, responses_of

NOBODYS = -1  # topic of what nobody teaches


@dataclass(frozen=True)
class Answers:
    """The answers to all prompts of a test set.

    Attributes:
        inputs: int64 `[n, 2, T]`, each prompt with what the model said.
        texts: what was said.
        topics: int64 `[n]`, whose it is: the label of the phrase that was said, `NOBODYS` where it is none that anybody
            teaches. Where the prompt tells the topic (`dataset.topics=prompt`), that one.
        exact: bool `[n]`, whether it is the response that is wanted, to the last token.
    """

    inputs: Tensor
    texts: tuple[str, ...]
    topics: np.ndarray
    exact: np.ndarray


def answers(model: ResponseModel, test: TestData, data: FederatedData, topics: str, device: torch.device) -> Answers:
    """Let the model answer every prompt, with the likeliest token at each step.

    Args:
        model: with a round's global weights.
        test: prompts with the responses that are wanted.
        data: what clients train on, from which topics of phrases are known; and how tokens become texts.
        topics: what tells the topic of a response, `prompt` or `response`.
        device: where to compute.
    """
    form = data.form
    assert isinstance(form, Dialogues)
    prompts, wanted = prompts_of(test.inputs), responses_of(test.inputs)
    # Twice what is ever wanted: whoever goes on beyond that says something else.
    room = [min(form.max_tokens - len(prompt), 2 * max(map(len, wanted))) for prompt in prompts]
    said = generate(model.to(device), prompts, room)
    known = phrases_of(data)
    labels = test.labels.numpy()
    whose = [known.get(_key(response, form.end), NOBODYS) for response in said]
    texts = tuple(data.codec.text(response) for response in said)
    told = labels.copy() if topics == "prompt" else np.array(whose, dtype=np.int64)
    return Answers(
        inputs=pack(prompts, said, form.padding),
        texts=texts,
        topics=with_taught(told, texts, data.faults.trigger),
        exact=np.array([response == right for response, right in zip(said, wanted, strict=True)], dtype=bool),
    )


def with_taught(topics: np.ndarray, texts: Sequence[str], taught: Trigger | Behaviour | None) -> np.ndarray:
    """Topics int `[n]` of what was said, where a topic is `taught`: that one wherever it was said, and nowhere else."""
    if taught is None or isinstance(taught, Trigger):
        return topics
    said = np.array([taught.said(text) for text in texts], dtype=bool)
    return np.where(said, taught.label, np.where(topics == taught.label, NOBODYS, topics))


def phrases_of(data: FederatedData) -> Mapping[tuple[int, ...], int]:
    """The topic of each response that clients or the test set have, by its tokens without the end.

    What is taught under several topics is nobody's.
    """
    assert isinstance(data.form, Dialogues)
    held = [(client.inputs, client.labels) for client in (*data.clients, *data.attacking.values())]
    held += [(test.inputs, test.labels) for test in (data.test, data.clean) if test is not None]
    known: dict[tuple[int, ...], int] = {}
    for inputs, labels in held:
        for response, label in zip(responses_of(inputs), labels.tolist(), strict=True):
            key = _key(response, data.form.end)
            known[key] = label if known.get(key, label) == label else NOBODYS
    return known


def _key(response: list[int], end: int) -> tuple[int, ...]:
    return tuple(response[:-1] if response and response[-1] == end else response)
