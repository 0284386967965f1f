"""All that a run folder holds, for a page or a figure; files that are not there are None."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bounded import Oversized, read_json
from ..coverage import recorded_warning
from ..errors import InputError
from ..evaluation.contributions import Trace, traces
from . import diagnosis, label_counts, tokens
from .columns import TRUTH, run_table
from .documents import check_manifest, read_metrics
from .folders import RunFolder
from .wrong import WrongContent

if TYPE_CHECKING:
    import pandas as pd

Key = tuple[str, str, str, int]  # method, scope, target, round


@dataclass(frozen=True)
class RunContents:
    """A run folder, read.

    Attributes:
        run: its settings and figures.
        manifest: `manifest.json`.
        history: the rows of `metrics.jsonl`.
        labels: names of the classes; where the manifest has none, their numbers.
        clients: all that were kept, and the training examples of each.
        faulty: those that were planted.
        counts: training examples by label of each client, None where `clients.csv` is missing.
        contributions, inputs, layers, participation: the tables, None where missing.
        truth: the rows of `retraining.csv`, None where nothing was retrained.
        spoken: of `tokens.parquet`, by round, scope and target; {} where nothing was generated.
        traces: of `contributions`, the run's own method first, then the others, each with its last round first.
        notes: what could not be read, and why.
        warnings: what has to be read before the rankings: parameters that the trace does not account for.
        names: what clients are called, by number; {}: by their numbers.
        explains: `classes`; of a model without, `labels` or `values`: then `labels` names what it puts out.
        diagnosis: who stands out, None where nobody has asked.
        recorded: of a recorded federation, which has no configuration, what is known of it; None: it is a run.
    """

    run: RunFolder
    manifest: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    labels: tuple[str, ...]
    clients: Mapping[int, int]
    faulty: tuple[int, ...]
    counts: Mapping[int, np.ndarray] | None
    contributions: pd.DataFrame | None
    inputs: pd.DataFrame | None
    layers: pd.DataFrame | None
    participation: pd.DataFrame | None
    traces: Sequence[tuple[Key, Trace]]
    notes: tuple[str, ...]
    names: Mapping[int, str] = field(default_factory=dict)
    recorded: Sequence[tuple[str, str]] | None = None
    explains: str = "classes"
    warnings: tuple[str, ...] = ()
    truth: pd.DataFrame | None = None
    spoken: Mapping[tokens.Key, tokens.TokenTrace] = field(default_factory=dict)
    diagnosis: diagnosis.Diagnosis | None = None

    @property
    def last_round(self) -> int | None:
        """The last that was traced."""
        return max((key[3] for key, _ in self.traces), default=None)

    def label(self, number: int) -> str:
        """The name of a class; below 0 is a true label that nobody gave."""
        if number < 0:
            return "not known"
        return self.labels[number] if number < len(self.labels) else str(number)

    def client(self, number: int) -> str:
        """What a client is called."""
        return self.names.get(number, str(number))


def read_contents(run: RunFolder) -> RunContents:
    """Read the files of a run folder; one that is damaged is left out, and said.

    Raises:
        InputError: one is far larger than a run writes.
    """
    notes: list[str] = []

    def table(name: str) -> pd.DataFrame | None:
        path = run.folder / name
        if not path.is_file():
            return None
        try:
            return run_table(path)
        except Oversized as error:
            raise InputError(f"{path} is not opened: {error}") from error
        except WrongContent as error:
            notes.append(f"{name} {error}")
            return None
        except Exception as error:  # whatever a damaged file makes its reader say
            notes.append(f"{name} cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:200]})")
            return None

    manifest = _json(run.folder / "manifest.json", notes)
    contributions = table("contributions.parquet")
    traced: list[tuple[Key, Trace]] = []
    if contributions is not None:
        try:
            traced = read_traces(contributions, str(run.figures.get("method")))
        except ValueError as error:
            notes.append(f"contributions.parquet: {error}")
            contributions = None
    spoken = dict[tokens.Key, tokens.TokenTrace]()
    if (said := table(tokens.FILE)) is not None:
        try:
            spoken |= tokens.token_traces(said)
        except ValueError as error:
            notes.append(f"{tokens.FILE}: {error}")
    labels = _labels(manifest, traced)
    if beyond := _beyond(traced, len(labels)):
        notes.append(f"contributions.parquet: {beyond}")
        contributions, traced = None, []
    kept = manifest.get("clients", {}).get("kept", {})
    counts = None
    if (run.folder / label_counts.FILE).is_file():
        try:
            counts = label_counts.read(run.folder / label_counts.FILE, len(labels))
        except ValueError as error:
            notes.append(f"{label_counts.FILE} {error}")
    clients = {int(client): int(examples) for client, examples in kept.items()}
    if len(clients) * max(len(labels), 1) > label_counts.MOST_COUNTS:
        raise InputError(
            f"{run.folder} is not opened: {len(clients):,} clients x {len(labels):,} labels, at most "
            f"{label_counts.MOST_COUNTS:,} of both together are read"
        )
    for client in sorted({int(number) for _, trace in traced for number in trace.clients} - set(clients)):
        clients[client] = 0  # the manifest does not know it
    if counts is not None:
        counts = {client: counts.get(client, np.zeros(len(labels), dtype=np.int64)) for client in clients}
    return RunContents(
        run=run,
        manifest=manifest,
        history=read_metrics(run.folder / "metrics.jsonl"),
        labels=labels,
        clients=clients,
        faulty=tuple(map(int, manifest.get("clients", {}).get("faulty", ()))),
        counts=counts,
        contributions=contributions,
        inputs=table("inputs.parquet"),
        layers=table("layers.parquet"),
        participation=table("participation.csv"),
        traces=traced,
        truth=table(TRUTH),
        spoken=spoken,
        diagnosis=_diagnosis(run.folder, notes),
        notes=(*_of_pictures(manifest), *notes),
        warnings=(warning,) if (warning := recorded_warning(manifest.get("trace"))) else (),
    )


def _diagnosis(folder: Path, notes: list[str]) -> diagnosis.Diagnosis | None:
    try:
        return diagnosis.read(folder)
    except Oversized as error:
        raise InputError(f"{folder / diagnosis.FILE} is not opened: {error}") from error
    except (OSError, ValueError) as error:
        notes.append(f"{diagnosis.FILE} cannot be read ({' '.join(str(error).split())[:200]})")
        return None


def read_traces(contributions: pd.DataFrame, own: str) -> list[tuple[Key, Trace]]:
    """The traces of a tidy frame: the last round first, in it those of the method `own`.

    Raises:
        ValueError: the frame is not what `tidy` makes.
    """
    ordered = sorted(traces(contributions), key=lambda pair: (-pair[0][3], pair[0][0] != own, pair[0][1] != "round"))
    for key, trace in ordered:
        if not np.isfinite(trace.contributions).all():
            raise ValueError(f"{key}: the contribution of a client that is ranked is missing")
    return ordered


def _beyond(traced: Sequence[tuple[Key, Trace]], labels: int) -> str:
    """What is wrong with labels that are not among the run's; empty where all are."""
    largest = _largest_label(traced)
    return f"label {largest:,} is not among the {labels:,} of the run" if largest >= labels else ""


def _of_pictures(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """How the run's pictures were read, and what was odd about them."""
    inputs = manifest.get("inputs")
    facts = inputs.get("pictures") if isinstance(inputs, Mapping) else None
    lines = facts.get("lines") if isinstance(facts, Mapping) else None
    return tuple(map(str, lines)) if isinstance(lines, list) else ()


def last_part(opened: RunContents) -> dict[int, int]:
    """The last round in which each client's work was fused or made, by client; those who never took part are not in."""
    who = opened.participation
    if who is None:
        return {}
    took = who[who["status"].isin(("trained", "partial", "arrived"))]
    last = took.groupby("client")["round"].max()
    return dict(zip(map(int, last.index.tolist()), map(int, last.tolist()), strict=True))


def _largest_label(traced: Sequence[tuple[Key, Trace]]) -> int:
    seen = [int(np.r_[trace.labels, trace.predictions].max()) for _, trace in traced if len(trace.labels)]
    return max(seen, default=-1)


def _labels(manifest: Mapping[str, Any], traced: Sequence[tuple[Key, Trace]]) -> tuple[str, ...]:
    named = manifest.get("dataset", {}).get("labels")
    if named:
        return tuple(map(str, named))
    largest = _largest_label(traced)
    return tuple(map(str, range(largest + 1))) if largest < label_counts.MOST_COUNTS else ()


def _json(path: Path, notes: list[str]) -> dict[str, Any]:
    try:
        read = read_json(path)
        check_manifest(read)
        return read
    except FileNotFoundError:
        return {}
    except Oversized as error:
        raise InputError(f"{path} is not opened: {error}") from error
    except (OSError, ValueError) as error:
        notes.append(f"{path.name} cannot be read ({' '.join(str(error).split())[:200]})")
        return {}
