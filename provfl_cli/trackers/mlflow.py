"""MLflow: a run in a local folder, or on a tracking server."""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..comparison.settings import written
from ..config.parts import Log
from ..errors import InputError
from .tracker import composed_files, name_of, numbers, require

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

LONGEST = 500  # characters of a value that every kind of store takes
AT_ONCE = 100  # parameters in one request, MLflow's own limit
SCHEMES = ("http", "https", "sqlite", "mysql", "postgresql", "mssql", "databricks", "file")
ENVIRONMENT = {  # what a user has set stays
    "MLFLOW_ALLOW_FILE_STORE": "true",  # since 3.17 a folder is refused otherwise
    "MLFLOW_DISABLE_TELEMETRY": "true",  # a run tells nobody that it runs
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # a server that is down holds a run up for seconds, not minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


@dataclass(frozen=True)
class MLflow:
    """Where the run is kept, and the experiment that it is listed under."""

    folder: str = "outputs/mlruns"
    uri: str | None = None
    experiment: str = "provfl"

    def __post_init__(self) -> None:
        if self.uri is not None:
            scheme = self.uri.partition(":")[0].partition("+")[0]
            if scheme not in SCHEMES:
                raise InputError(
                    f"tracker.uri={self.uri}: the address of a server, such as http://127.0.0.1:5000; "
                    "for a folder give tracker.uri=null tracker.folder=DIR"
                )
        if not self.experiment.strip():
            raise InputError("tracker.experiment: must be a name, such as provfl")

    def check(self) -> None:
        """Raise InputError without the package."""
        require("mlflow")

    def start(self, settings: Mapping[str, Any], folder: Path) -> Log:
        """Make the run, with its settings as parameters and the composed configuration as artifacts."""
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient
        from mlflow.entities import Param

        place = self.uri or Path(self.folder).absolute().as_uri()
        client = MlflowClient(tracking_uri=place)
        run = client.create_run(_experiment(client, self.experiment), run_name=name_of(folder))
        log = MLflowLog(client, run.info.run_id, self, name_of(folder))
        client.set_tag(log.run, "provfl.folder", str(folder.absolute()))
        parameters = [Param(_key(key), written(value)[:LONGEST]) for key, value in settings.items()]
        for begin in range(0, len(parameters), AT_ONCE):
            client.log_batch(log.run, params=parameters[begin : begin + AT_ONCE])
        for path in composed_files(folder):
            client.log_artifact(log.run, str(path), "config")
        return log


class MLflowLog:
    """Metrics by round, final figures as metrics, tables and pictures as artifacts."""

    def __init__(self, client: MlflowClient, run: str, settings: MLflow, name: str) -> None:
        self.run = run
        self._client, self._settings, self._name = client, settings, name
        self._last = 0

    @property
    def where(self) -> str:
        """The store, the experiment and the name of the run."""
        uri = self._settings.uri
        place = os.path.relpath(self._settings.folder) if uri is None else re.sub("//[^/]*@", "//", uri)  # no password
        return f"MLflow, {place}, experiment {self._settings.experiment}, run {self._name}"

    @property
    def look(self) -> str:
        """A server has its own page; a folder is shown by a server of one's own."""
        if self._settings.uri is not None:
            return ""
        place = shlex.quote(os.path.relpath(self._settings.folder))
        return f"MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri {place}  (pip install mlflow)"

    def round(self, number: int, values: Mapping[str, float]) -> None:
        """One point of each metric, in one request."""
        from mlflow.entities import Metric

        self._last = max(self._last, number)
        now = int(time.time() * 1000)
        points = [Metric(_key(name), value, now, number) for name, value in values.items()]
        self._client.log_batch(self.run, metrics=points)

    def figures(self, summary: Mapping[str, Any]) -> None:
        """Numbers as metrics, all of it as `summary.json`."""
        self.round(self._last, {f"summary/{name}": value for name, value in numbers(summary)})
        self._client.log_dict(self.run, dict(summary), "summary.json")

    def table(self, name: str, frame: pd.DataFrame, text: str) -> None:
        """The frame, which MLflow shows as a table, and the Markdown."""
        self._client.log_table(self.run, frame.astype(object).where(frame.notna(), None), f"{name}.json")
        self._client.log_text(self.run, text, f"{name}.md")

    def picture(self, path: Path) -> None:
        """The file, beside the other figures."""
        self._client.log_artifact(self.run, str(path), "figures")

    def end(self, failed: bool) -> None:
        """Say how the run ended."""
        self._client.set_terminated(self.run, "FAILED" if failed else "FINISHED")


def _experiment(client: MlflowClient, name: str) -> str:
    """The id of an experiment, which another job of a sweep may be making at this moment."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    return str(experiment.experiment_id)


def _key(name: str) -> str:
    """A name of characters that MLflow takes: `hit@3` becomes `hit_at_3`."""
    return re.sub(r"[^\w\-. /]", "_", name.replace("@", "_at_"))
