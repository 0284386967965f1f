"""The result of a trace, and how a notebook, a terminal and pandas show it; what the trace leaves out stands first."""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np

from ..coverage import coverage_warning, printable
from ..errors import InputError, did_you_mean
from ..imports import later
from ..markup import Markup, bar, cell, table
from .saved import load_parts, save_parts

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = later("pandas")

INPUTS_SHOWN = 5
CLIENTS_SHOWN = 10
BEST_SHOWN = 3


@dataclass(frozen=True)
class LayerTrace:
    """One layer's part, for the inputs of a sample: contributions `[sample, clients]`, neurons `[sample]`.

    `neurons` are all of an input's, `active` those that took part; a text has them at each token that is not padding.
    """

    layer: str
    contributions: np.ndarray
    active: np.ndarray
    neurons: np.ndarray


@dataclass(frozen=True, repr=False)
class Contributions:
    """Which client pushed which prediction how much: what `trace` gives.

        >>> import torch
        >>> from provfl_cli.provenance import from_state_dicts, trace
        >>> model = torch.nn.Linear(2, 2)
        >>> before = {"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}
        >>> ann = {"weight": torch.eye(2), "bias": torch.zeros(2)}
        >>> bob = {"weight": torch.zeros(2, 2), "bias": torch.tensor([0.0, 0.5])}
        >>> result = trace(model, torch.eye(2), from_state_dicts({"Ann": ann, "Bob": bob}, [3, 1], before))
        >>> result.top(1)
        [('Ann',), ('Ann',)]
        >>> print(result)
        Contributions of 2 clients (2 used by fusion) to 2 predictions; 100.0% of the parameters accounted for, ...
          input 0, class 0: Ann +1, Bob -0.5
          input 1, class 1: Ann +1, Bob +0.5

    Attributes:
        clients: client numbers, the columns of `values`.
        candidates: `[clients]`, whether fusion used the client at all (a nonzero `A_k`).
        values: `T_k(b)`, float64 `[inputs, clients]`, raw (before softmax).
        rows: parts that no client sent (in this round, or over all rounds), by kind, float64 `[inputs]`.
        predictions: int64 `[inputs]`, the class, or the number of the output, that was explained; -1 with `mse`.
        probabilities: float32 `[inputs, classes]`; `[inputs, 0]` where the target has no classes.
        residuals: float64 `[inputs]`, the relative conservation error (section 2.5).
        layers: per layer, for the first inputs of the trace.
        masked_layers: layers whose neurons were selected by the threshold.
        covered: share of the model's parameters that the trace accounts for, 0 to 1.
        uncovered: parameters it does not account for, and why.
        unchecked: layers that are not linear in their parameters, so that conservation says nothing about them.
        buffers: tensors of the model that are no parameters, and so not attributed.
        names: what the clients are called, in the order of `clients`; (): by their numbers.
        notes: what was not traced in the ordinary way, a sentence each.
        not_shared: parameters of the model that the round does not hold: constants, which nobody contributed to.
        outputs: float32 `[inputs, numbers]`, all that the model put out, where the target has no classes; else None.
    """

    clients: tuple[int, ...]
    candidates: np.ndarray
    values: np.ndarray
    rows: dict[str, np.ndarray]
    predictions: np.ndarray
    probabilities: np.ndarray
    residuals: np.ndarray
    layers: tuple[LayerTrace, ...]
    masked_layers: tuple[str, ...]
    covered: float
    uncovered: dict[str, str]
    unchecked: tuple[str, ...]
    buffers: tuple[str, ...]
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    not_shared: tuple[str, ...] = ()
    outputs: np.ndarray | None = None

    @property
    def client_names(self) -> tuple[str, ...]:
        """What each column's client is called: its name, else its number."""
        return self.names or tuple(map(str, self.clients))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What has to be read before the numbers: parameters that the trace does not account for."""
        warning = coverage_warning(self.covered, self.uncovered)
        return (warning,) if warning else ()

    def of(self, client: str | int) -> np.ndarray:
        """One client's contributions to all inputs, float64 `[inputs]`, by its name or its number.

            >>> result.of("Bob").tolist()
            [-0.5, 0.5]

        Raises:
            InputError: there is no such client.
        """
        called = self.client_names if isinstance(client, str) else self.clients
        if client not in called:
            accepted = did_you_mean(printable(str(client)), map(printable, map(str, called)))
            raise InputError(f"client {printable(str(client))}: is none of this round, {accepted}")
        return self.values[:, called.index(client)]

    def top(self, k: int = 1) -> list[tuple[str, ...]]:
        """The `k` clients that pushed each prediction most, by name where they have one, the best first.

            >>> result.top(2)
            [('Ann', 'Bob'), ('Ann', 'Bob')]

        Only those that fusion used are ranked, so that there may be fewer than `k`.

        Raises:
            InputError: `k` is no whole number from 1.
        """
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            raise InputError(f"k={k!r}: a whole number from 1, of clients")
        ranked = (_ranked(self, row)[:2] for row in range(len(self.values)))
        return [tuple(self.client_names[used[at]] for at in best[:k]) for used, best in ranked]

    def save(self, path: str | PathLike[str]) -> None:
        """Write all of it to a file: safetensors, with JSON for what is no array.

            >>> result.save("ours.safetensors")

        Raises:
            InputError: it cannot be written.
        """
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        save_parts({**parts, "layers": [astuple(layer) for layer in self.layers]}, path)

    @staticmethod
    def load(path: str | PathLike[str]) -> Contributions:
        """Read what `save` has written; the file is data, whoever made it.

            >>> result.save("ours.safetensors")
            >>> Contributions.load("ours.safetensors").top(1)
            [('Ann',), ('Ann',)]

        Raises:
            InputError: it is no such file, or damaged.
        """
        parts = load_parts(path)
        return Contributions(**{**parts, "layers": tuple(LayerTrace(*layer) for layer in parts["layers"])})

    def to_frame(self) -> pd.DataFrame:
        """A row for each input and client, for pandas.

            >>> result.to_frame()[["input", "name", "contribution"]]
               input name  contribution
            0      0  Ann           1.0
            1      0  Bob          -0.5
            2      1  Ann           1.0
            3      1  Bob           0.5

        Columns: `input`, from 0; `prediction`, the class explained; `client`, its number; `name`; `used`, whether
        fusion used it; `contribution`, raw; `share`, softmax over the used ones (paper eq. 7), NaN for the others;
        `covered`, as the attribute. The frame's `attrs["warnings"]` are the warnings.
        """

        return contributions_frame(self)

    def __repr__(self) -> str:
        return contributions_text(self)

    def _repr_html_(self) -> str:
        """A ranked table for each of the first inputs, as notebooks show it."""

        return contributions_html(self)


def contributions_text(contributions: Contributions) -> str:
    """A few lines: warnings, what was traced, and the best clients of the first inputs."""
    inputs = len(contributions.values)
    worst = float(contributions.residuals.max(initial=0.0))
    lines = [f"warning: {line}" for line in contributions.warnings]
    lines += [f"note: {line}" for line in contributions.notes]
    covered = f"{contributions.covered:.1%} of the parameters accounted for"
    lines.append(f"{_head(contributions)}; {covered}, conservation residual {worst:.1e}")
    for row in range(min(inputs, INPUTS_SHOWN)):
        used, best, _ = _ranked(contributions, row)
        ranked = ", ".join(
            f"{_name(contributions, used[at])} {contributions.values[row, used[at]]:+.4g}" for at in best[:BEST_SHOWN]
        )
        more = ", …" if len(used) > BEST_SHOWN else ""
        lines.append(f"  input {row}, {_explained(contributions, row)}: {ranked}{more}")
    if inputs > INPUTS_SHOWN:
        lines.append(f"  … and {inputs - INPUTS_SHOWN:,} more inputs")
    return "\n".join(lines)


def contributions_html(contributions: Contributions) -> Markup:
    """The best clients of the first inputs, a table each: raw contribution, bar, share (softmax over candidates)."""
    inputs = len(contributions.values)
    said = "".join(f"<p><b>Warning:</b> {cell(line)}</p>" for line in contributions.warnings)
    said += "".join(f"<p>Note: {cell(line)}</p>" for line in contributions.notes)
    tables = [_input(contributions, row) for row in range(min(inputs, INPUTS_SHOWN))]
    more = f"<p>… and {inputs - INPUTS_SHOWN} more inputs</p>" if inputs > INPUTS_SHOWN else ""
    return Markup(f"<div>{said}<p><b>{cell(_head(contributions))}</b></p>{''.join(tables)}{more}</div>")


def contributions_frame(contributions: Contributions) -> pd.DataFrame:
    """See `Contributions.to_frame`."""
    inputs, clients = contributions.values.shape
    shares = np.full(contributions.values.shape, np.nan)
    for row in range(inputs):
        used, _, share = _ranked(contributions, row)
        shares[row, used] = share
    frame = pd.DataFrame(
        {
            "input": np.repeat(np.arange(inputs), clients),
            "prediction": np.repeat(contributions.predictions, clients),
            "client": np.tile(np.array(contributions.clients), inputs),
            "name": np.tile(np.array(contributions.client_names, dtype=object), inputs),
            "used": np.tile(contributions.candidates, inputs),
            "contribution": contributions.values.ravel(),
            "share": shares.ravel(),
            "covered": contributions.covered,
        }
    )
    frame.attrs["warnings"] = list(contributions.warnings)
    return frame


def _head(contributions: Contributions) -> str:
    inputs, clients = contributions.values.shape
    used = int(contributions.candidates.sum())
    return f"Contributions of {clients} clients ({used} used by fusion) to {inputs} predictions"


def _name(contributions: Contributions, column: int) -> str:
    return printable(contributions.client_names[column])


def _ranked(contributions: Contributions, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns of the clients that fusion used; their order, the best first; their shares."""
    used = np.flatnonzero(contributions.candidates)
    values = contributions.values[row, used]
    powers = np.exp(values - values.max(initial=-np.inf))
    return used, np.argsort(-values, kind="stable"), powers / powers.sum()


def _explained(contributions: Contributions, row: int) -> str:
    """What of the model's output was explained, in words."""
    number = int(contributions.predictions[row])
    if contributions.outputs is None:
        return f"class {number}"
    return "squared error" if number < 0 else f"output {number} = {float(contributions.outputs[row, number]):.4g}"


def _input(contributions: Contributions, row: int) -> Markup:
    used, best, shares = _ranked(contributions, row)
    values = contributions.values[row, used]
    largest = float(np.abs(values).max(initial=0.0))
    best = best[:CLIENTS_SHOWN]
    rows: list[tuple[object, ...]] = [
        (_name(contributions, used[at]), float(values[at]), bar(float(values[at]), largest), f"{shares[at]:.1%}")
        for at in best
    ]
    rows += [(kind, float(part[row]), bar(float(part[row]), largest), "") for kind, part in contributions.rows.items()]
    caption = f"input {row}: {_explained(contributions, row)}"
    if contributions.outputs is None:
        caption += f", probability {float(contributions.probabilities[row, contributions.predictions[row]]):.1%}"
    if len(values) > len(best):
        caption += f"; top {len(best)} of {len(values)}"
    return table(("client", "contribution", "", "share"), rows, caption)
