"""A run folder whose checksums fit and whose content does not: answers, and errors of one line that name the file."""

from __future__ import annotations

import copy
import io
import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

import provfl_cli
from provfl_cli.cli import main
from provfl_cli.errors import InputError
from provfl_cli.results.checksums import covering
from provfl_cli.results.columns import TABLES, run_table
from provfl_cli.results.documents import check_manifest, read_figures, read_metrics
from provfl_cli.results.wrong import WrongContent
from provfl_cli.store.disk import checksum
from provfl_cli.store.sealed import sealed
from tests.made_runs import whole_run
from tests.runs import SMALLEST

BAD: list[Any] = [
    float("nan"),
    float("inf"),
    -1,
    0,
    10**30,
    1e300,
    [],
    {},
    "\x1b[31mX",
    True,
    None,
    [[1]],
    {"x": 1},
    2.5,
]
Captured = pytest.CaptureFixture[str]
DOCUMENTS = ("manifest.json", "summary.json", "metrics.jsonl")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        patch.delenv("PROVFL_CACHE", raising=False)
        # so that all tables are there
        more = ["evaluation.counterfactual=retrain", "retrain.designs=[leave_one_out]", "attribution=[suspicion]"]
        more += ["federation.clients=5", "federation.clients_per_round=5"]
        assert main(["run", *SMALLEST, *more, "dataset.name=digits", f"hydra.run.dir={base / 'run'}"]) == 0
    return base / "run"


def sent(folder: Path, manifest: dict[str, Any] | None = None) -> None:
    """Give the folder checksums that fit what it now holds."""
    content = json.loads((folder / "manifest.json").read_text()) if manifest is None else manifest
    kept = {key: value for key, value in content.items() if key not in ("sha256", "files", "format")}
    (folder / "manifest.json").write_text(json.dumps(covering(folder, kept)))


def rewritten(path: Path, change: Callable[[pd.DataFrame], object]) -> None:
    """Change a table in place; `change` may return another."""
    frame = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    made = change(frame)
    frame = made if isinstance(made, pd.DataFrame) else frame
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        content = io.BytesIO()
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), content)
        path.write_bytes(content.getvalue())


def put(column: str, value: Any) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda frame: frame.assign(**{column: [value] * len(frame)})


WRONG: list[tuple[str, Callable[[pd.DataFrame], object], str]] = [
    ("clients.csv", put("client", float("inf")), "column client holds inf: whole numbers"),
    ("clients.csv", put("examples", float("inf")), "column examples holds inf: whole numbers"),
    ("clients.csv", put("label", "cat"), "column label holds 'cat': whole numbers"),
    ("clients.csv", put("client", -1), "column client holds -1"),
    ("contributions.parquet", put("input", None), "column input has an empty cell"),
    ("contributions.parquet", put("rank", 1.5), "column rank holds 1.5"),
    ("contributions.parquet", put("contribution", float("inf")), "column contribution holds inf: finite numbers"),
    ("contributions.parquet", put("method", 3), "column method holds 3: texts"),
    ("contributions.parquet", put("tie", "yes"), "column tie holds 'yes': true and false"),
    ("inputs.parquet", put("prediction", float("inf")), "column prediction holds inf"),
    ("inputs.parquet", put("probabilities", 1), "column probabilities holds 1: equally long lists"),
    ("inputs.parquet", put("probabilities", [0.5, 2.0]), "column probabilities holds"),
    ("inputs.parquet", put("picture", [1, 2]), "column picture holds"),
    ("inputs.parquet", put("input", 2**62), "column input holds 4611686018427387904"),
    ("layers.parquet", lambda frame: frame.drop(columns="round"), "has no column round"),
    ("layers.parquet", put("neurons", "all"), "column neurons holds 'all'"),
    ("participation.csv", put("status", None), "column status has an empty cell"),
    ("localization.csv", put("best_constant", "high"), "column best_constant holds 'high': finite numbers"),
    ("localization.csv", put("round", True), "column round holds True"),
]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return whole_run(tmp_path / "run")


@pytest.mark.parametrize(("table", "change", "says"), WRONG, ids=[f"{table}: {says}" for table, _, says in WRONG])
def test_a_table_is_checked_column_by_column(
    table: str, change: Callable[[pd.DataFrame], object], says: str, run: Path
) -> None:
    assert len(run_table(run / table))
    rewritten(run / table, change)
    with pytest.raises(WrongContent) as raised:
        run_table(run / table)
    assert str(raised.value).startswith(says)
    if table != "clients.csv":  # which it has not
        assert table in refused(run)


@pytest.mark.slow
def there(folder: Path) -> list[str]:
    """The tables that a run has: only one of responses has `tokens.parquet`."""
    return [name for name in TABLES if (folder / name).exists()]


def test_every_table_of_a_run_passes(trained: Path) -> None:
    for name in there(trained):
        before = pd.read_csv(trained / name) if name.endswith("csv") else pd.read_parquet(trained / name)
        pd.testing.assert_frame_equal(run_table(trained / name), before)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"clients": {"faulty": {"x": 1}}}, "clients.faulty is an object: a list of clients' numbers"),
        ({"clients": {"kept": {"x": 1}}}, "clients.kept is an object"),
        ({"dataset": {"labels": float("nan")}}, "dataset.labels is nan: a list of names"),
        ({"dataset": {"labels": {}}}, "dataset.labels is an object"),
        ({"dataset": {"labels": []}}, "dataset.labels is a list"),
        ({"seconds": {"load": "long"}}, "seconds.load is 'long': a finite number"),
        ({"trace": []}, "trace is a list: an object or null"),
    ],
)
def test_a_manifest_is_checked(change: dict[str, Any], says: str, run: Path, capsys: Captured) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    check_manifest(manifest)
    sent(run, manifest | change)
    for command in (["table", str(run)], ["report", str(run), "--out", str(run.parent / "page.html")]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert f"manifest.json cannot be read ({says}" in error
        assert error.count("\n") == 1


def test_figures_and_metrics_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "any.json"
    for text, says in (
        ('{"round": "x"}', "round is 'x'"),
        ('{"seed": [1]}', "seed is a list"),
        ('{"a": NaN}', "a is nan"),
    ):
        file.write_text(text)
        with pytest.raises(WrongContent, match=says):
            read_figures(file)
    for text, says in (
        ('{"accuracy": 1}', "line 1: round is missing"),
        ('{"round": 1, "accuracy": "x"}', "line 1: acc"),
    ):
        file.write_text(text)
        with pytest.raises(WrongContent, match=says):
            read_metrics(file)


@pytest.mark.parametrize(
    ("name", "size", "says"),
    [
        ("conv1.weight", None, "hold no conv1.weight (of 1)"),
        ("foreign", 2, "hold foreign (of 1), which the model has not"),
        ("conv1.bias", 2, "conv1.bias is [6] in the model and [2] in"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    name: str, size: int | None, says: str, trained: Path, tmp_path: Path, capsys: Captured
) -> None:
    """In all files of a round the tensor is missing (`size` None), or there in another size."""
    folder = tmp_path / "theirs"
    shutil.copytree(trained, folder)
    stored = next((folder / "rounds").iterdir())
    manifest = json.loads((stored / "round.json").read_text())
    for which in ("global", "previous", "clients"):
        file = stored / f"{which}.safetensors"
        tensors = load_file(file)
        if size is None:
            del tensors[name]
        else:
            tensors[name] = torch.zeros((5, size) if which == "clients" else (size,))
        save_file(tensors, file)
        manifest["checksums"][file.name] = checksum(file)
    (stored / "round.json").write_text(json.dumps(sealed({k: v for k, v in manifest.items() if k != "sha256"})))
    assert main(["trace", str(folder)]) == 1
    error = capsys.readouterr().err
    assert says in error
    assert f"{stored.name}/global.safetensors" in error
    assert error.count("\n") == 1


def test_a_model_that_reads_something_else_is_refused(trained: Path, tmp_path: Path, capsys: Captured) -> None:
    folder = tmp_path / "theirs"
    shutil.copytree(trained, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["inputs"]["channels"] = 3
    sent(folder, manifest)
    assert main(["trace", str(folder)]) == 1
    error = capsys.readouterr().err
    assert "conv1.weight is [6, 3, 5, 5] in the model and [6, 1, 5, 5] in the tensors of" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--checkpoint", "/etc"], "--checkpoint /etc: is for text models of ProvFL, this run is about pictures"),
        (["--data", "no such/place"], "--data no such/place: no such folder or file"),
    ],
)
def test_what_would_be_ignored_is_refused(flags: list[str], says: str, trained: Path, capsys: Captured) -> None:
    assert main(["trace", str(trained), *flags]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


# --- anything, anywhere


def mutated_table(frame: pd.DataFrame, chance: random.Random) -> pd.DataFrame:
    """A column, or one cell of it, replaced; or rows or a column left out or doubled."""
    column = chance.choice(list(frame.columns))
    kind = chance.choice(["drop", "double", "empty", "first row", "cell", "column", "column"])
    if kind == "drop":
        return frame.drop(columns=column)
    if kind == "double":
        return pd.concat([frame, frame])
    if kind == "empty":
        return frame.iloc[:0]
    if kind == "first row":
        return frame.iloc[1:]
    value = chance.choice(BAD)
    values = [value] * len(frame)
    if kind == "cell":
        values = frame[column].tolist()
        values[chance.randrange(len(values))] = value
    return frame.assign(**{column: pd.Series(values, index=frame.index, dtype=object).infer_objects()})


def places(node: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    inside = node.items() if isinstance(node, dict) else enumerate(node[:2]) if isinstance(node, list) else ()
    for key, value in inside:
        yield (*above, key)
        yield from places(value, (*above, key))


def mutated_json(content: Any, chance: random.Random) -> Any:
    """One value, anywhere in it, replaced."""
    changed = copy.deepcopy(content)
    *above, last = chance.choice(list(places(changed)))
    node = changed
    for key in above:
        node = node[key]
    node[last] = chance.choice(BAD)
    return changed


def mutate(folder: Path, chance: random.Random) -> str:
    """Change something in the folder, whose checksums fit afterwards; which file."""
    name = chance.choice([*there(folder), *there(folder), *DOCUMENTS])
    path, manifest = folder / name, None
    if name in TABLES:
        try:
            rewritten(path, lambda frame: mutated_table(frame, chance))
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
            return mutate(folder, chance)  # what no table can hold
    elif name == "metrics.jsonl":
        rows = mutated_json([json.loads(line) for line in path.read_text().splitlines()], chance)
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        manifest = mutated_json(json.loads(path.read_text()), chance)
        if name == "summary.json":
            path.write_text(json.dumps(manifest))
            manifest = None
    sent(folder, manifest)
    return name


@pytest.mark.parametrize(
    ("seed", "count", "asked"),
    [(1, 4, 2), pytest.param(2, 30, 4, marks=pytest.mark.slow)],
)
def test_whatever_a_folder_holds_it_is_answered(
    seed: int, count: int, asked: int, trained: Path, tmp_path: Path, capsys: Captured
) -> None:
    """After each of `count` changes, `asked` of the commands answer, or say in one line what is wrong."""
    chance, folder = random.Random(seed), tmp_path / "theirs"
    kinds = ("ranking", "labels", "heatmap", "accuracy")
    commands = [["trace"], ["trace", "--json"], ["table"], ["table", "--round", "each"],
                ["report", "--out", str(tmp_path / "x.html")],
                *(["figure", kind, "--out", str(tmp_path / "x.png")] for kind in kinds)]  # fmt: skip
    for number in range(count):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(trained, folder)
        name = mutate(folder, chance)
        for command, *more in chance.sample(commands, asked):
            code = main([command, str(folder), *more])
            said = capsys.readouterr()
            where = f"{number}: {name}, {command} {more}: {said.err}"
            assert (code == 0) == (said.err == ""), where
            assert said.err.count("\n") <= 1, where
            assert not re.search(r"HYDRA_FULL_ERROR|[A-Z]\w+Error\b", said.err), where
            assert "\x1b[31mX" not in said.out + said.err, where
        error = refused(folder)
        assert "\n" not in error, f"{number}: {name}"
        assert "Error" not in error, f"{number}: {name}: {error}"


def refused(folder: Path) -> str:
    """What `load_run` says is wrong with a folder; empty where it reads it."""
    try:
        provfl_cli.load_run(folder)
    except InputError as error:
        return str(error)
    return ""
