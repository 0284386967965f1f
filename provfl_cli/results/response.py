"""What is known of one response of a language model: each token, who pushed it, what is said without some."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..coverage import coverage_warning
from .answer import Agreement, MethodAnswer


@dataclass(frozen=True)
class TracedTokens:
    """The tokens of a response, in order.

    Attributes:
        numbers: what the tokenizer calls each.
        texts: what each adds to the text: joined they are the response. A part of a character adds nothing, the token
            that completes it the whole of it; nor does the token that ends a response.
        ends: whether the last of them ends the response, as the model was trained to end it.
        log_probabilities: float64 `[tokens]`, of each after those before it.
        values: float64 `[tokens, clients]`, contributions of the clients that fusion used.
    """

    numbers: tuple[int, ...]
    texts: tuple[str, ...]
    ends: bool
    log_probabilities: np.ndarray
    values: np.ndarray

    @property
    def text(self) -> str:
        """The whole response."""
        return "".join(self.texts)


@dataclass(frozen=True)
class Without:
    """The response without some clients.

    Attributes:
        kind: `refuse`, `withhold` or `retrain`.
        clients: who is left out, by name.
        value: the log-probability (or log-odds) of what is explained; None: there is no such model.
        says: what the model answers to the same prompt instead; None: it was not asked, or there is no model.
        reason: why there is no model.
    """

    kind: str
    clients: tuple[str, ...]
    value: float | None
    says: str | None = None
    reason: str = ""


@dataclass(frozen=True)
class Response:
    """Everything that was asked about one response.

    Attributes:
        title, where, round: which prompt, of which federation, after which round.
        prompt: as the user or the data have it.
        made: how the response was made: `greedy`, `given`, or the temperature and seed.
        expected: the response that the data have; None: nobody knows.
        tokens: of the response.
        clients: numbers of the clients that fusion used, the columns of `TracedTokens.values`.
        client_names: what they are called.
        target: the number of each token that is explained: `centred`, `margin`, `logit`, `log_probability`.
        value: log-probability of what is explained with all clients: of the response, of the span, or the log-odds.
        answers: what each method says of the whole, the run's own way of tracing first.
        span: the first of the marked tokens and the one behind the last; None: all.
        instead: the other answer, of log-odds; None: there is none.
        what_if, effects: without the clients that the user named, and without each of the best.
        says: what the model says to the prompt with all clients; the response, unless that was given.
        topic: what the prompt is about (a language, a domain), by its name; "": not known.
        phrase_of: the topic whose phrase the response is; "": none that is known; None: phrases are nobody's.
        holders: names of the clients that teach that topic.
    """

    title: str
    where: str
    round: int
    prompt: str
    made: str
    expected: str | None
    tokens: TracedTokens
    clients: tuple[int, ...]
    client_names: tuple[str, ...]
    target: str
    value: float
    answers: tuple[MethodAnswer, ...]
    span: tuple[int, int] | None = None
    instead: TracedTokens | None = None
    what_if: tuple[Without, ...] = ()
    effects: tuple[Without, ...] = ()
    agreements: tuple[Agreement, ...] = ()
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    says: str = ""
    topic: str = ""
    phrase_of: str | None = None
    holders: tuple[str, ...] = ()

    @property
    def quantity(self) -> str:
        """What `value` is called."""
        return "log-odds" if self.instead is not None else "log-probability"

    @property
    def explained(self) -> str:
        """The text that is explained: the marked piece, or the whole response."""
        first, behind = self.span or (0, len(self.tokens.texts))
        return "".join(self.tokens.texts[first:behind])

    @property
    def warnings(self) -> tuple[str, ...]:
        """What has to be read before the rankings: what a trace leaves out, doubts of the response."""
        said = (
            coverage_warning(answer.covered, answer.uncovered) for answer in self.answers if answer.covered is not None
        )
        return (*dict.fromkeys(text for text in said if text), *self.doubts)
