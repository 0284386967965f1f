"""Federations that are retrained within a moment: linear in their parameters, so that each client's effect is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

Tables = tuple[pd.DataFrame, pd.DataFrame]
Plan = Sequence[tuple[str, int, Sequence[int]]]  # design, training seed, clients kept


def tables(plan: Plan, values: np.ndarray, predictions: np.ndarray, inputs: np.ndarray, number: int = 5) -> Tables:
    """The two tables of a run folder for one traced round: `retrainings.csv`, `retrained.parquet`.

    `values` and `predictions` are `[inputs, retrainings]`.
    """
    listed = pd.DataFrame(
        {
            "retraining": np.arange(len(plan)),
            "design": [design for design, _, _ in plan],
            "seed": [seed for _, seed, _ in plan],
            "clients": [" ".join(map(str, kept)) for _, _, kept in plan],
            "accuracy": 0.5,
            "key": [f"{number:016x}" for number in range(len(plan))],
            "seconds": 1.0,
        }
    )
    measured = pd.DataFrame(
        {
            "retraining": np.repeat(np.arange(len(plan)), len(inputs)),
            "round": number,
            "input": np.tile(inputs, len(plan)),
            "value": values.T.ravel(),
            "prediction": predictions.T.ravel(),
        }
    )
    return listed, measured


@dataclass(frozen=True)
class LinearFederation:
    """Two classes, `logits = W x`; each client makes gradient steps from the same model, and the server averages.

    All clients count the same, so that with subsets of one size the margin is a sum of one number for each client.

    `updates` `[K, 2, d]`, of each client; `test` `[n, d]`.
    """

    updates: np.ndarray
    test: np.ndarray

    @property
    def effects(self) -> np.ndarray:
        """What each client adds to the margin of the class that the whole federation predicts, `[n, K]`."""
        steps = np.einsum("kcd,nd->nkc", self.updates, self.test)
        at = np.arange(len(self.test))
        explained = self.logits(range(len(self.updates))).argmax(axis=1)
        effects: np.ndarray = steps[at, :, explained] - steps[at, :, 1 - explained]
        return effects

    def logits(self, kept: Sequence[int]) -> np.ndarray:
        """Of the federation of these clients, `[n, 2]`; of nobody: the initial model's."""
        weights = self.updates[list(kept)].mean(axis=0) if len(kept) else np.zeros(self.updates.shape[1:])
        logits: np.ndarray = self.test @ weights.T
        return logits

    def retrained(self, plan: Plan, number: int = 5) -> Tables:
        """The two tables; another training seed than 0 adds noise."""
        explained = self.logits(range(len(self.updates))).argmax(axis=1)
        at, values, predictions = np.arange(len(self.test)), [], []
        for _, seed, kept in plan:
            logits = self.logits(kept)
            if seed:
                logits = logits + np.random.default_rng([seed, *kept]).normal(size=logits.shape) * 0.02
            values.append(logits[at, explained] - logits[at, 1 - explained])
            predictions.append(logits.argmax(axis=1))
        return tables(plan, np.stack(values, 1), np.stack(predictions, 1), at * 3 + 1, number)


def linear_federation(clients: int = 8, inputs: int = 30, features: int = 6, seed: int = 0) -> LinearFederation:
    """Clients hold different parts of one task."""
    random = np.random.default_rng(seed)
    truth, updates = random.normal(size=features), []
    for _ in range(clients):
        x = random.normal(size=(40, features)) + random.normal(size=features)
        y = (x @ truth > 0).astype(int)
        weights = np.zeros((2, features))
        for _ in range(5):
            logits = x @ weights.T
            shares = np.exp(logits - np.logaddexp(logits[:, :1], logits[:, 1:]))
            weights -= 0.1 * (shares - np.eye(2)[y]).T @ x / len(x)
        updates.append(weights)
    return LinearFederation(np.stack(updates), random.normal(size=(inputs, features)))


def halves(clients: int, count: int, seed: int = 0) -> list[list[int]]:
    """Different random halves of the clients."""
    every = list(combinations(range(clients), clients // 2))
    chosen = np.random.default_rng(seed).permutation(len(every))[:count]
    return [list(every[number]) for number in chosen]


def usual_plan(clients: int, subsets: int = 20, again: int = 0) -> list[tuple[str, int, Sequence[int]]]:
    """Everybody, without each, some halves, and the first of these `again` with another training seed."""
    drawn = halves(clients, subsets)
    return [
        ("full", 0, range(clients)),
        *(("leave_one_out", 0, [other for other in range(clients) if other != left]) for left in range(clients)),
        *(("halves", 0, kept) for kept in drawn),
        *(("halves", 1, kept) for kept in drawn[:again]),
    ]
