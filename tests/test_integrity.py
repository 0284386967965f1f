"""A run's results are shown with the models that they were made with, from files that are as they were written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import provfl_cli
from provfl_cli.cli import main
from provfl_cli.errors import InputError
from provfl_cli.results.checksums import COVERED, FILE
from provfl_cli.store.locks import CLAIM, claimed
from provfl_cli.store.sealed import sealed
from tests.runs import Result, run

Captured = pytest.CaptureFixture[str]
pytestmark = pytest.mark.slow
QUICK = [
    "federation.rounds=2", "federation.local_epochs=1", "evaluation.max_inputs=10",
    "evaluation.counterfactual=retrain", "retrain.designs=[leave_one_out]",  # so that all files are there
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, `three` and `one`, named after their seeds, over one training cache."""
    place = tmp_path_factory.mktemp("integrity")
    for name, seed in (("three", 3), ("one", 1)):
        run(place / name, *QUICK, f"seed={seed}", cache=place / "cache")
    return place


@pytest.fixture
def folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run of seed 3, where its link still leads to the cache; the working folder is that of all runs."""
    monkeypatch.chdir(place)
    shutil.rmtree(place / "copy", ignore_errors=True)
    return Path(shutil.copytree(place / "three", place / "copy", symlinks=True)).relative_to(place)


def refused(capsys: Captured, *arguments: str) -> str:
    """What a command says that must not answer: one line."""
    capsys.readouterr()
    assert main(list(arguments)) in (1, 2)
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert "Error" not in said.err
    return said.err


def point(link: Path, target: str) -> None:
    link.unlink()
    link.symlink_to(target, target_is_directory=True)


def rewritten(path: Path, change: Callable[[dict[str, Any]], object], seal: bool = False) -> None:
    """Change a JSON file, its checksum as well where `seal`."""
    content = json.loads(path.read_text())
    change(content)
    if seal:
        content.pop("sha256", None)
        content = sealed(content)
    path.write_text(json.dumps(content))


def as_before(folder: Path) -> None:
    """Make a run folder, and the rounds that it holds itself, what they were before they had checksums and keys."""

    def older(content: dict[str, Any], number: int | None = None) -> None:
        for name in ("format", "sha256", "key", "files"):
            content.pop(name, None)
        if number is not None:
            content["format"] = number

    rewritten(folder / FILE, older)
    target = (folder / "rounds").resolve()
    (folder / "rounds").unlink()
    shutil.copytree(target, folder / "rounds")
    for path in folder.glob("rounds/*/round.json"):
        rewritten(path, lambda content: older(content, 2))


def test_another_runs_models_are_refused(folder: Path, capsys: Captured) -> None:
    assert main(["trace", "copy"]) == 0
    point(folder / "rounds", os.readlink("one/rounds"))
    key = Path("one/rounds").resolve().parent.name
    for more in ((), ("--without", "0"), ("--verify",), ("--json",)):
        assert f"not those of this run's results, but of federation {key}" in refused(capsys, "trace", "copy", *more)


def test_another_runs_rounds_are_refused_where_they_were_copied(folder: Path, capsys: Captured) -> None:
    (folder / "rounds").unlink()
    shutil.copytree("three/rounds", folder / "rounds")
    assert main(["trace", "copy"]) == 0
    shutil.rmtree(folder / "rounds")
    shutil.copytree("one/rounds", folder / "rounds")
    assert "not those of this run's results" in refused(capsys, "trace", "copy")


def test_folders_of_a_time_before_keys_are_opened_and_told_apart(folder: Path, capsys: Captured) -> None:
    as_before(folder)
    for command in (["trace", "copy", "--verify"], ["table", "copy"], ["report", "copy"]):
        assert main(command) == 0
    assert provfl_cli.load_run("copy").labels == tuple("0123456789")
    shutil.copy("one/metrics.jsonl", folder)
    assert "not those of this run's results" in refused(capsys, "trace", "copy")


def test_a_second_run_in_the_folder_leaves_nothing_of_the_first(folder: Path, capsys: Captured) -> None:
    for name in ("lineage.png", "tokenizer.json", "report.html", "notes.txt"):
        (folder / name).write_text("of the first")
    second = run(folder.absolute(), *QUICK, "seed=1", cache=Path("cache").absolute())
    assert (folder / "rounds").resolve() == Path("one/rounds").resolve()
    assert second.manifest["key"] == Path("one/rounds").resolve().parent.name
    assert second.content() == Result(Path("one")).content() | {"notes.txt": b"of the first"}
    capsys.readouterr()
    assert main(["trace", "copy", "--json"]) == 0
    assert {client["client"] for client in json.loads(capsys.readouterr().out)["methods"][0]["clients"]} == {0, 1, 2}


def test_a_broken_link_is_mended(folder: Path) -> None:
    point(folder / "rounds", "../nowhere/rounds")
    run(folder.absolute(), *QUICK, "seed=3", cache=Path("cache").absolute())
    assert (folder / "rounds").resolve() == Path("three/rounds").resolve()
    assert not list(folder.glob(".*.part"))
    assert main(["trace", "copy"]) == 0


OF_OTHERS = ("tokenizer.json", "tokens.parquet", "base.safetensors", "suspicion.csv")  # which this run has not


@pytest.mark.parametrize("name", [name for name in COVERED if name not in OF_OTHERS])
@pytest.mark.parametrize("gone", [False, True], ids=["flipped", "missing"])
def test_every_file_of_an_answer_is_covered(name: str, gone: bool, folder: Path, capsys: Captured) -> None:
    path = folder / name
    content = bytearray(path.read_bytes())
    at = len(content) // 2
    content[at] ^= 1
    path.write_bytes(content)
    if gone:
        path.unlink()
    said = refused(capsys, "report", "copy")
    assert gone or name in said
    with pytest.raises(InputError):
        provfl_cli.load_run("copy")
    if name in (".hydra/config.yaml", "clients.csv", "inputs.parquet", "metrics.jsonl"):
        refused(capsys, "trace", "copy")
    if "yaml" in name or name in ("localization.csv", "summary.json", "metrics.jsonl"):
        refused(capsys, "table", "copy")


def test_a_file_of_another_run_is_refused(folder: Path, capsys: Captured) -> None:
    shutil.copy("one/clients.csv", folder)
    assert "clients.csv cannot be read: damaged, or of another run" in refused(capsys, "trace", "copy")
    assert "clients.csv cannot be read: damaged, or of another run" in refused(capsys, "figure", "copy", "labels",
                                                                              "--out", "x.png")  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest["clients"]["kept"].update({"0": 1}),
        lambda manifest: manifest["files"].clear(),
        lambda manifest: manifest.pop("files"),
        lambda manifest: manifest.pop("sha256"),
        lambda manifest: manifest.update(format=1),
        lambda manifest: manifest.update(key="0" * 20),
        lambda manifest: manifest["dataset"]["labels"].reverse(),
    ],
)
def test_the_manifest_covers_itself(change: Callable[[Any], object], folder: Path, capsys: Captured) -> None:
    rewritten(folder / FILE, change)
    for command in ("trace", "table", "report"):
        assert "damaged" in refused(capsys, command, "copy")
    (folder / FILE).unlink()
    for command in ("trace", "table", "report"):
        assert "manifest.json is missing" in refused(capsys, command, "copy")


def test_clients_exchanged_in_a_stored_round_are_found(folder: Path, capsys: Captured) -> None:
    (folder / "rounds").unlink()
    shutil.copytree("three/rounds", folder / "rounds")
    path = folder / "rounds" / "0002" / "round.json"
    whole = path.read_text()
    changes: list[Callable[[Any], object]] = [
        lambda content: content["clients"].reverse(),
        lambda content: content["examples"].reverse(),
        lambda content: content["checksums"].clear(),
        lambda content: content["checksums"].pop("clients.safetensors"),
        lambda content: content.pop("sha256"),
        lambda content: content.update(format=2),
        lambda content: content.update(key=None),
    ]
    for change in changes:
        path.write_text(whole)
        rewritten(path, change)
        assert "round.json cannot be read" in refused(capsys, "trace", "copy")
    path.write_text(whole)
    rewritten(path, lambda content: content["checksums"].clear(), seal=True)
    assert "checksum of clients.safetensors is missing" in refused(capsys, "trace", "copy")
    path.write_text(whole)
    assert main(["trace", "copy"]) == 0


def test_two_runs_never_write_into_one_folder(folder: Path, capsys: Captured) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "rounds" not in path.parts}
    command = ["run", *QUICK, "dataset=digits", "hydra.run.dir=copy", "store.cache=cache", "seed=1"]
    with claimed(folder):
        assert "copy: another run is writing into it" in refused(capsys, *command)
    assert before == {path: path.read_bytes() for path in before}
    with claimed(folder / "sweep"):
        words = [*QUICK, "dataset=digits", "hydra.sweep.dir=copy/sweep", "store.cache=cache", "seed=1,2"]
        assert "copy/sweep: another run is writing into it" in refused(capsys, "run", "-m", *words)
    (folder / "sweep").rmdir()  # nothing was written into it
    with claimed(folder / "sweep" / "0"):  # by a run that was given a sweep's folder
        assert main(["run", "-m", "dataset=digits", "hydra.sweep.dir=copy/sweep", "store.cache=cache", "seed=1"]) == 2
        assert "another run is writing into it" in capsys.readouterr().err
        assert (folder / "sweep" / "0" / ".hydra").is_dir()


def test_the_claim_of_a_dead_process_holds_nobody_up(folder: Path) -> None:
    (folder / CLAIM).write_text("")
    run(folder.absolute(), *QUICK, "seed=3", cache=Path("cache").absolute())
    assert not (folder / CLAIM).exists()


def test_strange_files_in_a_run_folder_are_left_or_named(folder: Path, capsys: Captured) -> None:
    words = ["run", *QUICK, "dataset=digits", "hydra.run.dir=copy", "store.cache=cache"]
    for name in (".DS_Store", "._rounds", "Thumbs.db", "table.md~"):
        (folder / name).write_bytes(b"\xff\x00")
    (folder / "lost+found").mkdir()
    assert main(["trace", "copy"]) == main(["table", "."]) == main(["report", "copy"]) == 0
    (folder / "rounds").unlink()
    (folder / "rounds").mkdir()
    assert "rounds is in the way" in refused(capsys, *words)
    (folder / "rounds").rmdir()
    (folder / "rounds").write_text("")
    assert "rounds is in the way" in refused(capsys, *words)
    (folder / "rounds").unlink()
    for name in ("summary.json", "error.log"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()
        assert main(words) == 2
        assert f"copy/{name} is in the way" in capsys.readouterr().err
        (folder / name).rmdir()
    assert (folder / ".DS_Store").exists()
