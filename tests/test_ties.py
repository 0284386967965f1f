"""Clients that contribute alike: the same data give the same model, and ties are shown as sets."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from provfl_cli.data.federated import ClientData, FederatedData
from provfl_cli.evaluation.contributions import tidy
from provfl_cli.evaluation.metrics import localization
from provfl_cli.federation.train import federated_rounds
from provfl_cli.provenance.tracing import trace
from provfl_cli.reporting.rankings import example_rankings, show_rankings
from provfl_cli.store.rounds import Round

from .federations import make_config, make_data, make_model

CPU = torch.device("cpu")


def with_twins(data: FederatedData) -> FederatedData:
    """The first client's examples once more, as client 9."""
    twin = data.clients[0]
    return replace(
        data, clients=(*data.clients, ClientData(9, twin.inputs.clone(), twin.labels.clone(), twin.label_counts))
    )


def train(folder: Path, data: FederatedData) -> Round:
    config = make_config(rounds=1)
    with federated_rounds(config, data, make_model(), folder, {1}, CPU, lambda event: None) as rounds:
        (stored,) = rounds
    return stored


def test_a_share_is_known_by_its_content(tmp_path: Path) -> None:
    first, second = make_data(clients=2).clients
    assert first.fingerprint == replace(first, id=9).fingerprint != second.fingerprint
    assert first.fingerprint != replace(first, labels=first.labels.flip(0)).fingerprint


@pytest.mark.slow
def test_clients_with_the_same_data_share_equally(tmp_path: Path) -> None:
    """From training (dropout, batches, BatchNorm, two processes) to the metrics: equal to the last bit, and tied."""
    data = with_twins(make_data(clients=3))
    stored = train(tmp_path, data)
    position = {client: at for at, client in enumerate(stored.clients)}
    for name, stack in stored.client_stack().items():
        assert torch.equal(stack[position[0]], stack[position[9]]), name
    weight = stored.client_stack()["logits.weight"]
    assert not torch.equal(weight[position[0]], weight[position[2]])

    answer = trace(make_model(), data.test.inputs[:40], stored)
    twins = answer.values[:, [position[0], position[9]]]
    assert np.allclose(twins[:, 0], twins[:, 1], rtol=1e-5, atol=1e-7 * np.abs(answer.values).max())
    labels = data.test.labels[:40].numpy()
    frame = tidy(
        "provfl", "round", "centred", 1, np.arange(40), labels, answer.predictions, answer.clients, answer.candidates,
        answer.values, answer.rows,
    )  # fmt: skip
    ranks = frame[frame["client"].isin([0, 9])].pivot(index="input", columns="client", values="rank")
    assert (ranks[0] == ranks[9]).all()
    leading = ranks.index[ranks[0] == 1]
    assert 0 < len(leading) < 40, "they lead for some inputs, for others not"
    counts = {client.id: client.label_counts for client in data.clients}
    scores = localization(frame[frame["input"].isin(leading)], counts, 1, data.faults)
    assert scores["tie_rate"].tolist() == [1.0]
    others = localization(frame[~frame["input"].isin(leading)], counts, 1, data.faults)
    assert others["tie_rate"].tolist() == [0.0]


@pytest.mark.slow
def test_what_a_client_returns_does_not_depend_on_its_number(tmp_path: Path) -> None:
    data = make_data(clients=2)
    renamed = replace(data, clients=tuple(replace(client, id=client.id + 5) for client in data.clients))
    ours, theirs = (train(tmp_path / name, federated) for name, federated in (("ours", data), ("theirs", renamed)))
    assert theirs.clients == tuple(client + 5 for client in ours.clients)
    for name, stack in ours.client_stack().items():
        assert torch.equal(stack, theirs.client_stack()[name])


def test_a_tie_is_shown_as_a_set_and_never_cut() -> None:
    """Seven candidates: 3 and 5 lead together, then four alike, then one; two were asked for."""
    values = np.array([[1.0, 4.0, 1.0, 9.0, 4.0, 9.0, 4.0, 4.0]])
    clients = list(range(8))
    inputs, zero = np.array([6]), np.array([0])
    frame = tidy("provfl", "round", "centred", 1, inputs, zero, zero, clients, np.ones(8, bool), values, {})
    counts = {client: np.array([10 * client]) for client in clients}
    for top, shown in ((1, [3, 5]), (2, [3, 5]), (3, [3, 5, 1, 4, 6, 7])):
        (ranking,) = example_rankings(frame, counts, ["zero"], {6: "a text"}, faulty=(5,), top=top)
        assert [client.client for client in ranking.clients] == shown
    out = io.StringIO()
    Console(file=out, width=80).print(show_rankings([ranking]))
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    (first,) = [line for line in lines if line.startswith("1 3 = 5 ")]
    assert first.endswith("30–50 tied faulty: 5")
    (second,) = [line for line in lines if line.startswith("3 1 = 4 = 6 = 1 more")]
    assert second.endswith("10–70 tied")
