"""Federations of clients that are made up, fused and stored round by round with their lineage, as training does it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from provfl_cli.config.tree import conf_dir, option_file
from provfl_cli.fusion.fuse import Fusion, fuse
from provfl_cli.fusion.lineage import next_lineage
from provfl_cli.fusion.updates import ReturnedModels, Updates
from provfl_cli.store import rounds as store
from provfl_cli.store.new_round import begin_round, commit_round
from provfl_cli.store.sealed import sealed
from provfl_cli.store.tensorfile import specs_of, write_slot

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Work:
    """What the clients of a round return.

    `sent` is number of examples and model by client, `bases` what late ones started from, `factors` clip factors,
    `noise` the standard deviation of noise on the combined update (0: none).
    """

    sent: Mapping[int, tuple[int, State]]
    bases: Mapping[int, State] = field(default_factory=dict)
    factors: Mapping[int, float] = field(default_factory=dict)
    noise: float = 0.0


def perturbed(state: State, scale: float, seed: int) -> dict[str, Tensor]:
    """`state` with random numbers of `scale` added to what floats."""
    random = torch.Generator().manual_seed(seed)
    return {
        name: tensor + scale * torch.randn(tensor.shape, generator=random, dtype=tensor.dtype)
        if tensor.is_floating_point()
        else tensor.clone()
        for name, tensor in state.items()
    }


def shapes(dtype: torch.dtype) -> dict[str, Tensor]:
    """A small model with every number of dimensions that a parameter may have."""
    random = torch.Generator().manual_seed(1)
    sizes: dict[str, tuple[int, ...]] = {"w": (5, 4), "kernel": (3, 2, 3, 3), "b": (7,), "temperature": ()}
    return {name: torch.randn(size, generator=random, dtype=dtype) for name, size in sizes.items()}


@cache
def composed_fusion(name: str) -> Fusion:
    """A fusion as its file in `conf/fusion` describes it, without the seconds that composing a whole run takes."""
    file: Any = OmegaConf.load(option_file("fusion", name))
    whole: Any = OmegaConf.merge(
        {"federation": OmegaConf.load(conf_dir() / "config.yaml")["federation"]},
        file if "fusion" in file else {"fusion": file},  # one that brings other settings stands in a block
    )
    made: Fusion = instantiate(OmegaConf.to_container(whole.fusion, resolve=True))
    return made


def chain(
    folder: Path,
    fusion: Fusion,
    start: State,
    work: Callable[[int, dict[str, Tensor], list[dict[str, Tensor]]], Work],
    rounds: int,
    decay: float | None = 1.0,
    buffers: frozenset[str] = frozenset(),
) -> list[store.Round]:
    """Fuse and store so many rounds.

    Args:
        folder: where to.
        fusion: how.
        start: the initial model.
        work: what clients return in a round, from its number, the global model, and the global models before that.
        rounds: how many.
        decay: of the lineage; None: no lineage is stored.
        buffers: names of tensors that are no parameters.
    """
    model, state, past = dict(start), dict[str, Tensor](), list[dict[str, Tensor]]()
    before, stored = None, list[store.Round]()
    for number in range(1, rounds + 1):
        round_work = work(number, model, past)
        clients = sorted(round_work.sent)
        temporary = begin_round(folder, number, specs_of(model), len(clients))
        for slot, client in enumerate(clients):
            write_slot(temporary / store.CLIENTS, round_work.sent[client][1], slot)
        sent = store.open_tensors(temporary / store.CLIENTS)
        bases = {clients.index(client): base for client, base in round_work.bases.items()}
        examples = [round_work.sent[client][0] for client in clients]
        returned = ReturnedModels(model, sent, examples, [5 + k for k in range(len(clients))], buffers, bases)
        factors = torch.tensor([round_work.factors.get(client, 1.0) for client in clients], dtype=torch.float64)
        noise = None
        if round_work.noise:
            random = torch.Generator().manual_seed(number)

            def noise(
                name: str, delta: Tensor, random: torch.Generator = random, scale: float = round_work.noise
            ) -> Tensor:
                return scale * torch.randn(delta.shape, generator=random, dtype=delta.dtype)

        fused = fuse(fusion, returned, state, Updates(returned, factors), noise)
        lineage = None if decay is None else next_lineage(fusion, fused, clients, number, before, decay)
        last = commit_round(
            temporary,
            number,
            clients=clients,
            examples=examples,
            weights=fused.weights,
            previous=model,
            state=state,
            next_state=fused.state,
            decomposition=fused.decomposition,
            buffers=buffers,
            history=[store.Metrics(number, 0.5, 0.5, 0.5, len(clients), 1.0)],
            bases=bases,
            lineage=lineage,
        )
        past.append(model)
        model, state, before = dict(last.weights()), dict(last.next_server_state()), last.lineage()
        stored.append(last)
    return stored


def play(folder: Path, fusion: Fusion, start: State, works: Sequence[Work]) -> list[store.Round]:
    """The same for rounds that are given."""
    return chain(folder, fusion, start, lambda number, *_: works[number - 1], len(works))


def changed(path: Path, change: Any, seal: bool = False) -> None:
    """Change the manifest of a round, and its checksum too where `seal`."""
    content = json.loads(path.read_text())
    change(content)
    if seal:
        content.pop("sha256", None)
        content = sealed(content)
    path.write_text(json.dumps(content))
