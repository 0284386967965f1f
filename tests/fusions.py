"""What tests of fusions share: every fusion of the conf tree as a run would have it, and random rounds."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from omegaconf import OmegaConf

from provfl_cli.config import tree
from provfl_cli.config.schema import Federation
from provfl_cli.config.validate import _targeted
from provfl_cli.fusion.decomposition import Decomposition, Multiplier
from provfl_cli.fusion.updates import ReturnedModels, Updates

FUSIONS = tree.options("fusion")
BUFFERS = frozenset({"running", "batches"})
SHAPES = {"w": (3, 5), "convolution": (2, 3, 2, 2), "bias": (9,), "temperature": (), "running": (2,)}

Tensors = dict[str, torch.Tensor]


def configured(name: str, **settings: Any) -> Any:
    """The fusion `name` as `provfl run fusion=NAME fusion.KEY=VALUE …` has it."""
    return _targeted({**_composed(name)["fusion"], **settings}, "fusion")


def federation(fusion: str = "fedavg", **settings: Any) -> Federation:
    """The default federation as a fusion's own file changes it, and then `settings`."""
    return Federation(**{**_composed(fusion)["federation"], **settings})


def _composed(name: str) -> Any:
    return OmegaConf.to_container(_merged(name), resolve=True)


@cache
def _merged(name: str) -> Any:
    own = OmegaConf.load(tree.option_file("fusion", name))
    plain = OmegaConf.create({"federation": OmegaConf.load(tree.conf_dir() / "config.yaml").federation})
    return OmegaConf.merge(plain, own if "fusion" in own else {"fusion": own})  # a file may bring other settings


def round_of(values: list[Any], examples: list[int] | None = None, steps: list[int] | None = None) -> ReturnedModels:
    """Clients that started from 0 and returned these values of their only parameter `w`."""
    sent = torch.tensor(values)
    count = len(values)
    return ReturnedModels(
        {"w": torch.zeros(sent.shape[1:])}, {"w": sent}, examples or [1] * count, steps or [1] * count, frozenset()
    )


def random_round(seed: int, count: int, late: bool = False, grid: bool = False) -> ReturnedModels:
    """A round of so many clients with parameters of every shape; `grid`: values that often coincide."""
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        values = torch.randn(shape, generator=random)
        return (2 * values).round() / 2 if grid else values

    previous = {name: draw(*shape) for name, shape in SHAPES.items()}
    clients = {name: draw(count, *shape) for name, shape in SHAPES.items()}
    previous["batches"], clients["batches"] = torch.tensor(3), torch.arange(count)
    sizes = torch.randperm(50, generator=random)[:count] + 1  # all different
    bases = {1: {name: draw(*shape) for name, shape in SHAPES.items()}} if late else {}
    return ReturnedModels(previous, clients, sizes.tolist(), [2 + at % 3 for at in range(count)], BUFFERS, bases)


def clipped(returned: ReturnedModels, seed: int) -> Updates:
    """The round with clip factors between 0.5 and 1."""
    random = torch.Generator().manual_seed(seed)
    return Updates(returned, 0.5 + torch.rand(len(returned.examples), generator=random, dtype=torch.float64) / 2)


def whole_shares(parts: Decomposition, returned: ReturnedModels) -> Tensors:
    """`A_k` written out for every parameter, float64 `[clients, *shape]`."""
    shares = {}
    for name in returned.parameters:
        shape = tuple(returned.previous[name].shape)
        ones = Multiplier(torch.ones(len(returned.examples), dtype=torch.float64))
        rows = parts.multipliers.get(name, ones).rows(slice(None), shape)
        rows = rows * parts.example_weights.view(-1, *(1,) * (rows.dim() - 1))
        shares[name] = rows.expand(-1, *(shape or (1,))).reshape(-1, *shape)
    return shares


def made_of(returned: ReturnedModels, shares: Tensors, unsent: Any) -> Tensors:
    """`W_prev + U + sum_k A_k o (W_k - V_k)` for every parameter, float64."""
    made = {}
    for name in returned.parameters:
        before = returned.previous[name].double()
        starts = torch.stack([returned.bases.get(at, returned.previous)[name] for at in range(len(returned.examples))])
        own = returned.clients[name].double() - starts.double()
        made[name] = before + (shares[name] * own).sum(0) + sum(part[name].double() for part in unsent.values())
    return made


def largest_gap(some: Tensors, others: Tensors) -> float:
    """The largest difference between two models, over the parameters of the first."""
    return max(float((value - others[name].double()).abs().max()) for name, value in some.items())


def values_of(fused: Any) -> list[float]:
    """What became of `w`."""
    return fused.weights["w"].flatten().tolist()
