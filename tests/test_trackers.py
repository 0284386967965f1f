"""Trackers, read back from what they wrote: real event files, a real local MLflow store, a real offline wandb run."""

from __future__ import annotations

import importlib.util
import json
import shlex
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from omegaconf import OmegaConf
from rich.console import Console

from provfl_cli.cli import main
from provfl_cli.comparison.settings import differing, identity
from provfl_cli.config.compose import compose_jobs, validated
from provfl_cli.config.environment import store
from provfl_cli.config.schema import Config
from provfl_cli.config.stored_config import stored_config
from provfl_cli.errors import InputError
from provfl_cli.results.folders import RunFolder, read_run
from provfl_cli.store.rounds import Metrics
from provfl_cli.trackers.mlflow import MLflow
from provfl_cli.trackers.tensorboard import TensorBoard
from provfl_cli.trackers.tracker import name_of, require
from provfl_cli.trackers.tracking import Tracking, settings_of, tracked
from provfl_cli.trackers.wandb import WandB

SMALL = shlex.split(
    "dataset=digits partition=iid federation.clients=3 federation.rounds=3 federation.learning_rate=0.05"
    " partition.max_examples_per_client=150 dataset.max_test_examples=100 evaluation.max_inputs=20"
    " provenance.rounds=[1,3] evaluation.inputs=all"
)
TRACKERS = ("tensorboard", "mlflow", "wandb")
FIGURES = {"accuracy", "heatmap", "labels", "ranking"}


def config_of(*overrides: str) -> Any:
    ((_, composed),) = compose_jobs([*SMALL, *overrides])
    return validated(composed)


@pytest.fixture(autouse=True)
def _nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def config() -> Config:
    return config_of()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained once for all runs of this module: a tracker is no part of what training depends on."""
    return tmp_path_factory.mktemp("cache")


def run(folder: Path, cache: Path, *overrides: str) -> Path:
    assert main(["run", *SMALL, f"hydra.run.dir={folder}", f"store.cache={cache}", *overrides]) == 0
    return folder


def accuracies(folder: Path) -> list[tuple[int, float]]:
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(row["round"], row["accuracy"]) for row in rows]


def localized(folder: Path) -> dict[int, float]:
    scores = pd.read_csv(folder / "localization.csv")
    own = scores[(scores["method"] == "provfl") & (scores["scope"] == "round")]
    return dict(zip(own["round"], own["localization_accuracy"], strict=True))


# --- what is asked for


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_is_named_with_its_extra_before_anything_is_trained(
    name: str, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace / name).mkdir()  # as wandb leaves one: no package
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "provfl_cli.trackers.tracker.find_spec", lambda wanted: None if wanted == name else real(wanted)
    )
    assert main(["run", f"tracker={name}"]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert f"tracker={name} needs the package {name}: pip install 'provfl[{name}]'" in said.err
    assert not (workspace / "outputs").exists()


def test_a_folder_of_its_name_is_no_package(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workspace / "nosuchtracker").mkdir()
    monkeypatch.syspath_prepend(str(workspace))
    assert importlib.util.find_spec("nosuchtracker") is not None
    with pytest.raises(InputError, match="needs the package nosuchtracker"):
        require("nosuchtracker")


def test_a_run_that_has_ended_is_opened_without_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ((_, composed),) = compose_jobs([*SMALL, "tracker=tensorboard"])
    monkeypatch.setattr("provfl_cli.trackers.tracker.find_spec", lambda wanted: None)
    folder = tmp_path / ".hydra"
    folder.mkdir()
    store(OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"]), folder / "config.yaml")
    (folder / "hydra.yaml").write_text(OmegaConf.to_yaml({"hydra": {"runtime": {"cwd": str(tmp_path), "choices": {}}}}))
    assert stored_config(tmp_path).config.tracker is None, "it has no effect any more"
    with pytest.raises(InputError, match="tensorboard"):
        validated(composed)


def test_no_tracker_is_the_default_and_what_older_runs_have() -> None:
    ((_, composed),) = compose_jobs(SMALL)
    assert composed.hydra.runtime.choices["tracker"] == "none"
    assert validated(composed).tracker is None
    older = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "tracker"])
    assert validated(older).tracker is None


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (lambda: WandB(mode="of"), "tracker.mode=of: .*offline"),
        (lambda: MLflow(uri="mlruns"), "for a folder give tracker.uri=null tracker.folder=DIR"),
        (lambda: MLflow(experiment=" "), "tracker.experiment"),
        (lambda: config_of("tracker=mlflow", "tracker.expriment=x"), "did you mean tracker.experiment"),
    ],
)
def test_wrong_settings_are_answered(asked: Callable[[], Any], answer: str) -> None:
    with pytest.raises(InputError, match=answer):
        asked()


def test_the_environment_of_the_packages_is_honoured(monkeypatch: pytest.MonkeyPatch, workspace: Path) -> None:
    tracker = config_of("tracker=mlflow").tracker
    assert (tracker.folder, tracker.uri, tracker.experiment) == (str(workspace / "outputs" / "mlruns"), None, "provfl")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert config_of("tracker=mlflow").tracker.uri == "http://127.0.0.1:5000"
    pytest.importorskip("wandb")
    assert config_of("tracker=wandb").tracker.mode == "disabled"


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("/a/outputs/2026-01-02/03-04-05", "2026-01-02/03-04-05"),
        ("/a/outputs/multirun/2026-01-02/03-04-05/7", "2026-01-02/03-04-05/7"),
        ("/elsewhere/mine", "mine"),
        ("/elsewhere/outputs", "outputs"),
    ],
)
def test_a_run_is_named_after_its_folder(folder: str, name: str) -> None:
    assert name_of(Path(folder)) == name


def test_settings_hold_what_results_depend_on() -> None:
    settings = settings_of(config_of("fusion=fedprox", "tracker=mlflow", "attribution=[random]"))
    assert settings["fusion"] == "FedProx"
    assert settings["fusion.mu"] == 0.01
    assert settings["federation.rounds"] == 3
    assert settings["attribution"] == "random"
    assert not [key for key in settings if key.startswith(("tracker", "store"))]


def test_runs_that_differ_in_the_tracker_alone_do_not_differ() -> None:
    def run_with(tracker: Mapping[str, Any], option: str) -> RunFolder:
        settings = {"seed": 0, "federation.rounds": 3, **{f"tracker.{key}": value for key, value in tracker.items()}}
        empty: frozenset[str] = frozenset()
        return RunFolder(Path("x"), settings, empty, {"tracker": option}, empty, pd.DataFrame(), {}, {})

    plain, logged = run_with({}, "none"), run_with({"_target_": "x", "folder": "y"}, "mlflow")
    assert identity(plain) == identity(logged)
    assert differing([plain, logged]).keys == differing([plain, logged]).brought == ()


# --- a tracker that fails


@dataclass
class Breaking:
    """A tracker that fails at one call, and takes note of all."""

    at: str
    calls: list[str] = field(default_factory=list)
    where: str = "nowhere"
    look: str = ""

    def check(self) -> None:
        pass

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name == self.at:
            raise OSError(f"no room\nfor {name}")

    def start(self, settings: Mapping[str, Any], folder: Path) -> Breaking:
        self._called("start")
        return self

    def round(self, number: int, values: Mapping[str, float]) -> None:
        self._called(f"round {number}")

    def end(self, failed: bool) -> None:
        self._called(f"end {failed}")


@pytest.mark.parametrize(
    ("at", "calls"),
    [
        ("start", ["start"]),
        ("round 2", ["start", "round 1", "round 2", "end True"]),
        ("end False", ["start", "round 1", "round 2", "round 3", "end False", "end True"]),
        ("never", ["start", "round 1", "round 2", "round 3", "end False"]),
    ],
)
def test_a_tracker_that_fails_is_left_out_and_said_twice(
    at: str, calls: list[str], tmp_path: Path, config: Config
) -> None:
    console = Console(width=80, record=True, file=(tmp_path / "out").open("w"))
    history = [Metrics(number, 1.0, 0.5, 1.0, 3, 0.1) for number in (1, 2, 3)]
    tracker = Breaking(at)
    with tracked(tracker, console) as tracking:  # type: ignore[arg-type]
        tracking.start(settings_of(config), tmp_path)
        tracking.rounds(history[:1])
        tracking.rounds(history)  # those that were told are not told again
    said = console.export_text()
    assert tracker.calls == calls
    assert said.count("TRACKER FAILED: Breaking") == (0 if at == "never" else 2)
    assert said.count(f"OSError: no room for {at}") == (0 if at == "never" else 2)


def test_a_run_that_fails_is_ended_as_failed(tmp_path: Path, config: Config) -> None:
    tracker = Breaking("never")

    def failing() -> None:
        with tracked(tracker, Console(quiet=True)) as tracking:  # type: ignore[arg-type]
            tracking.start(settings_of(config), tmp_path)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        failing()
    assert tracker.calls == ["start", "end True"]


def test_without_a_tracker_nothing_is_said(tmp_path: Path, config: Config) -> None:
    console = Console(record=True, file=(tmp_path / "out").open("w"))
    tracking = Tracking(None, console)
    tracking.start(settings_of(config), tmp_path)
    tracking.rounds([Metrics(1, 1.0, 0.5, 1.0, 3, 0.1)])
    tracking.end(failed=False)
    assert console.export_text() == ""


@pytest.mark.slow
def test_a_run_whose_tracker_fails_leaves_all_its_files(
    workspace: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    plain = run(workspace / "plain", cache)
    capsys.readouterr()

    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("provfl_cli.trackers.tensorboard.TensorBoardLog.round", full)
    broken = run(workspace / "broken", cache, "tracker=tensorboard")
    assert capsys.readouterr().out.count("TRACKER FAILED: TensorBoard") == 2
    names = {path.name for path in plain.iterdir()}
    assert {path.name for path in broken.iterdir()} - {"tensorboard"} == names
    for name in ("contributions.parquet", "localization.csv", "table.md"):
        assert (broken / name).read_bytes() == (plain / name).read_bytes()
    assert "No space left on device" in (broken / "provfl.log").read_text()
    assert identity(read_run(plain)) == identity(read_run(broken))  # type: ignore[arg-type]


# --- TensorBoard


def events(folder: Path) -> Any:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    return accumulator.EventAccumulator(str(folder / "tensorboard"), {"tensors": 0, "images": 0}).Reload()


def scalars(log: Any, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in log.Scalars(tag)]


@pytest.mark.slow
def test_tensorboard_has_rounds_while_they_are_trained(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "events.out.tfevents.1.old").write_bytes(b"of an earlier run")
    log = TensorBoard().start({"seed": 0}, tmp_path)
    log.round(1, {"rounds/accuracy": 0.5})
    assert scalars(events(tmp_path), "rounds/accuracy") == [(1, 0.5)]
    log.round(2, {"rounds/accuracy": 0.75})
    assert scalars(events(tmp_path), "rounds/accuracy") == [(1, 0.5), (2, 0.75)]
    log.end(failed=True)


@pytest.mark.slow
def test_tensorboard_holds_the_run(workspace: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(workspace / "run", cache, "tracker=tensorboard")
    said = capsys.readouterr().out
    assert "tracker: TensorBoard, run/tensorboard\n" in said
    assert "\ntracker: TensorBoard, run/tensorboard\n  tensorboard --logdir run/tensorboard\n" in said
    assert len(list((folder / "tensorboard").iterdir())) == 1
    log = events(folder)
    accuracy = scalars(log, "rounds/accuracy")
    assert accuracy == [(number, pytest.approx(value)) for number, value in accuracies(folder)]
    assert dict(scalars(log, "provfl/localization_accuracy")) == pytest.approx(localized(folder))
    final = json.loads((folder / "summary.json").read_text())
    assert scalars(log, "summary/global_accuracy") == [(3, pytest.approx(final["global_accuracy"]))]
    assert set(log.Tags()["images"]) == {f"figures/{name}" for name in FIGURES}
    width, height = (getattr(log.Images("figures/heatmap")[0], side) for side in ("width", "height"))
    assert min(width, height) > 100
    table = log.Tensors("localization/text_summary")[0].tensor_proto.string_val[0].decode()
    assert table == (folder / "table.md").read_text()
    config = log.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "name: digits" in config
    hparams = pytest.importorskip("tensorboard.plugins.hparams.plugin_data_pb2")
    content = log.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    settings = hparams.HParamsPluginData.FromString(content).session_start_info.hparams
    assert settings["fusion"].string_value == "FedAvg"
    assert settings["federation.rounds"].number_value == 3


# --- MLflow


@pytest.mark.slow
def test_mlflow_holds_the_run(workspace: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    folder = run(workspace / "outputs" / "named" / "run", cache, "tracker=mlflow", "tracker.experiment=mine")
    client = mlflow.MlflowClient(tracking_uri=(workspace / "outputs" / "mlruns").as_uri())
    (logged,) = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert logged.info.run_name == "named/run"
    assert logged.info.status == "FINISHED"
    points = client.get_metric_history(logged.info.run_id, "rounds/accuracy")
    assert [(point.step, point.value) for point in points] == accuracies(folder)
    points = client.get_metric_history(logged.info.run_id, "provfl/localization_accuracy")
    assert {point.step: point.value for point in points} == pytest.approx(localized(folder))
    final = json.loads((folder / "summary.json").read_text())
    assert logged.data.metrics["summary/localization_accuracy"] == final["localization_accuracy"]
    assert logged.data.params["fusion"] == "FedAvg"
    assert logged.data.params["federation.learning_rate"] == "0.05"
    held = {
        path: Path(client.download_artifacts(logged.info.run_id, path))
        for path in ("config/config.yaml", "localization.json", "localization.md", "summary.json", "figures")
    }
    assert held["config/config.yaml"].read_text() == (folder / ".hydra" / "config.yaml").read_text()
    assert held["localization.md"].read_text() == (folder / "table.md").read_text()
    assert {path.stem for path in held["figures"].iterdir()} == FIGURES
    table = json.loads(held["localization.json"].read_text())
    scores = pd.read_csv(folder / "localization.csv")
    rows = pd.DataFrame(table["data"], columns=table["columns"])
    pd.testing.assert_frame_equal(rows.astype(scores.dtypes.to_dict()), scores)


# --- Weights & Biases


def records(file: Path) -> Iterator[Any]:
    """The records of wandb's own file: LevelDB's log format, blocks of 32 KiB behind a head of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield wandb_internal_pb2.Record.FromString(whole)
            whole = b""


@pytest.mark.slow
def test_wandb_holds_the_run(workspace: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("wandb")
    folder = run(workspace / "run", cache, "tracker=wandb")
    (place,) = (folder / "wandb").glob("offline-run-*")
    assert f"wandb sync {place.relative_to(workspace)}\n" in capsys.readouterr().out
    (file,) = place.glob("*.wandb")
    history: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    name, code = "", -1
    for record in records(file):
        match record.WhichOneof("record_type"):
            case "history":
                items = record.history.item
                history.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
            case "summary":
                items = record.summary.update
                summary |= {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
            case "run":
                name = record.run.display_name
                settings |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            case "exit":
                code = record.exit.exit_code
    assert (name, code) == ("run", 0)
    assert settings["fusion"] == "FedAvg"
    assert [(row["round"], row["rounds/accuracy"]) for row in history if "rounds/accuracy" in row] == accuracies(folder)
    traced = {row["round"]: row["provfl/localization_accuracy"] for row in history if "provfl/ndcg" in row}
    assert traced == pytest.approx(localized(folder))
    final = json.loads((folder / "summary.json").read_text())
    assert summary["summary/global_accuracy"] == final["global_accuracy"]
    (table,) = (row for row in history if "localization/path" in row)
    scores = pd.read_csv(folder / "localization.csv")
    held_table = json.loads((place / "files" / table["localization/path"]).read_text())
    rows = pd.DataFrame(held_table["data"], columns=held_table["columns"])
    pd.testing.assert_frame_equal(rows.astype(scores.dtypes.to_dict()), scores)
    held = {path.name.partition("_")[0] for path in (place / "files" / "media" / "images" / "figures").iterdir()}
    assert held == FIGURES
    composed = place / "files" / "composed_config.yaml"
    assert OmegaConf.load(composed) == OmegaConf.load(folder / ".hydra" / "config.yaml")
    assert not composed.is_symlink()
