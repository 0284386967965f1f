"""A run's results as data frames, for notebooks and scripts."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bounded import LINES_BYTES, read_text
from ..coverage import recorded_warning
from ..errors import InputError
from ..imports import later
from ..markup import Markup, cell, table
from .checksums import SUSPICION, read_manifest
from .columns import TRUTH, run_table
from .folders import MissingRun, read_run
from .tokens import FILE as TOKENS
from .wrong import WrongContent

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = later("pandas")

FIGURES = (  # of the summary: the key, that of its chance level, and what it is called
    ("lds", "", "retrained with other clients (LDS)"),
    ("spearman_retrain", "", "rank correlation with retraining without each client"),
    ("majority_accuracy", "majority_chance", "largest holder on top"),
    ("fault_accuracy", "fault_chance", "faulty client on top"),
    ("spearman_leave_one_out", "", "rank correlation with same-round fusion without each client"),
    ("localization_accuracy", "chance_accuracy", "localization accuracy (saturates)"),
    ("global_accuracy", "", "accuracy of the global model"),
)
FRAMES = (
    *("contributions", "inputs", "layers", "localization", "participation", "metrics"),
    *("retrainings", "retrained", "truth", "suspicion", "tokens"),  # None where nobody asked for them
)
COLUMNS = ("method", "scope", "round", "inputs", "lds", "ndcg", "localization_accuracy", "chance_accuracy")


@dataclass(frozen=True)
class RunResults:
    """What `provfl_cli.load_run` gives.

    Attributes:
        folder: of the run.
        contributions: each client's contribution, share and rank for each traced input, by method and round.
        inputs: the traced inputs, with picture (PNG) or text, labels and probabilities.
        layers: for a sample of inputs, contributions and active neurons by layer.
        localization: every metric, a row for each method and round.
        participation: who took part when.
        metrics: loss and accuracy of the global model, a row a round.
        summary: the final figures.
        settings: the whole configuration, by dotted key.
        labels: names of the classes by number.
        warnings: what has to be read before the rankings: parameters that the trace does not account for.
        retrainings: federations trained again without clients, numbered; None: none were.
        retrained: what these predict for the traced inputs; None: none were.
        truth: how well each method tells what they changed (`retraining.csv`); None: none were.
        suspicion: what is suspected of each client, by round and score; None: nobody asked. `suspect` is true,
            false, or null in rounds whose clients were too few to be compared.
        tokens: each client's contribution to each token of each traced response; None: the run classifies.
    """

    folder: Path
    contributions: pd.DataFrame
    inputs: pd.DataFrame
    layers: pd.DataFrame
    localization: pd.DataFrame
    participation: pd.DataFrame
    metrics: pd.DataFrame
    summary: Mapping[str, Any]
    settings: Mapping[str, Any]
    labels: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    retrainings: pd.DataFrame | None = None
    retrained: pd.DataFrame | None = None
    truth: pd.DataFrame | None = None
    suspicion: pd.DataFrame | None = None
    tokens: pd.DataFrame | None = None

    def __repr__(self) -> str:
        lines = [f"warning: {line}" for line in self.warnings]
        rows = f"{len(self.contributions):,} contributions to {len(self.inputs):,} predictions"
        return "\n".join([*lines, f"RunResults({str(self.folder)!r}: {rows})"])

    def _repr_html_(self) -> Markup:
        """The figures beside chance, every method, and what the frames hold."""
        figures = [
            (name, self.summary[key], self.summary.get(chance, "") if chance else "")
            for key, chance, name in FIGURES
            if self.summary.get(key) is not None
        ]
        columns = [name for name in COLUMNS if name in self.localization]
        methods = self.localization[columns].itertuples(index=False)
        there = [name for name in FRAMES if getattr(self, name) is not None]
        title = f"{self.settings.get('dataset.name')} on {self.settings.get('model.name')}: {self.folder}"
        parts = [
            table(("figure", "value", "chance"), figures, "The run's own method in its last traced round"),
            table(columns, methods, "Every method"),
            table(("frame", "rows"), ((name, f"{len(getattr(self, name)):,}") for name in there), "Data frames"),
        ]
        said = "".join(f"<p><b>Warning:</b> {cell(line)}</p>" for line in self.warnings)
        return Markup(f"<div>{said}<p><b>{cell(title)}</b></p>{''.join(parts)}</div>")


def _table(path: Path) -> pd.DataFrame:
    try:
        return run_table(path)
    except WrongContent as error:
        raise InputError(f"{path} {error}") from error


def _there(path: Path) -> pd.DataFrame | None:
    return _table(path) if path.is_file() else None


def _suspicion(path: Path) -> pd.DataFrame | None:
    frame = _there(path)
    return None if frame is None else frame.astype({"suspect": "boolean"})


def load_run(path: str | PathLike[str]) -> RunResults:
    """The results of a run as data frames.

        import provfl_cli

        run = provfl_cli.load_run("outputs/2026-01-31/12-00-00")
        run                                # in a notebook: its figures beside chance
        run.summary["localization_accuracy"]
        ours = run.contributions.query("method == 'provfl' and kind == 'client'")
        ours.groupby(["label", "client"])["share"].mean().unstack()  # who is behind which label

    The folder is data, whoever made it: nothing that its configuration names is imported or called.

    Args:
        path: the folder that `provfl run` made.

    Raises:
        InputError: it is none, the run failed or has not ended, or a file is missing or damaged.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give one that provfl run made, such as outputs/DATE/TIME")
    run = read_run(folder, whole=True)
    if isinstance(run, MissingRun):
        raise InputError(f"{run.name}: {run.reason}")
    try:
        manifest = read_manifest(folder)
        return RunResults(
            folder=folder,
            contributions=_table(folder / "contributions.parquet"),
            inputs=_table(folder / "inputs.parquet"),
            layers=_table(folder / "layers.parquet"),
            localization=run.scores,
            participation=_table(folder / "participation.csv"),
            metrics=pd.read_json(io.StringIO(read_text(folder / "metrics.jsonl", LINES_BYTES)), lines=True),
            summary=run.figures,
            settings=run.settings,
            labels=tuple(map(str, manifest["dataset"]["labels"])),
            warnings=(warning,) if (warning := recorded_warning(manifest.get("trace"))) else (),
            retrainings=_there(folder / "retrainings.csv"),
            retrained=_there(folder / "retrained.parquet"),
            truth=_there(folder / TRUTH),
            suspicion=_suspicion(folder / SUSPICION),
            tokens=_there(folder / TOKENS),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: cannot be read ({type(error).__name__}: {str(error).splitlines()[0]})") from error
