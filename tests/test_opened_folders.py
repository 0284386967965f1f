"""A run folder is data, whoever made it: opening one runs nothing, asks nobody, and reads no other file."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import provfl_cli
from provfl_cli.cli import main
from provfl_cli.config.builtin import named, names
from provfl_cli.config.schema import Dataset
from provfl_cli.config.stored_config import stored_config
from provfl_cli.config.tree import conf_dir
from provfl_cli.data import folder as data_folder
from provfl_cli.errors import InputError
from provfl_cli.results.checksums import covering
from provfl_cli.run.open_run import open_run
from provfl_cli.run.rebuild import data_again

from .runs import SMALLEST

SECRET = "hunter2-of-the-environment"
EVIL = "from pathlib import Path\nPath({canary!r}).write_text('ran')\nclass X: pass\ndef evil(**given): pass\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        patch.delenv("PROVFL_CACHE", raising=False)
        patch.setenv("PROVFL_SECRET", SECRET)
        assert main(["run", *SMALLEST, f"hydra.run.dir={base / 'run'}"]) == 0
    return base / "run"


class Theirs:
    """A copy of a run folder, to be changed as somebody might who sends it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.canary = folder.parent / "canary"

    def config(self, **blocks: Any) -> None:
        file = self.folder / ".hydra" / "config.yaml"
        config = yaml.safe_load(file.read_text())
        for block, value in blocks.items():
            config[block] = config[block] | value if isinstance(value, dict) and config.get(block) else value
        file.write_text(yaml.safe_dump(config))

    def manifest(self, **blocks: Any) -> None:
        file = self.folder / "manifest.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | blocks))

    @property
    def sent(self) -> Path:
        """The folder with checksums that fit what it now holds: whoever changes it can compute them too."""
        file = self.folder / "manifest.json"
        content = {key: value for key, value in json.loads(file.read_text()).items() if key not in ("sha256", "files")}
        file.write_text(json.dumps(covering(self.folder, content)))
        return self.folder

    def module(self, name: str) -> None:
        (self.folder.parent / f"{name}.py").write_text(EVIL.format(canary=str(self.canary)))


@pytest.fixture
def theirs(trained: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Theirs:
    """The copy; whoever connects to anything is told so, the working folder is searched as under `python -m`."""
    folder = workspace / "theirs"
    shutil.copytree(trained, folder, symlinks=True)
    (folder / "rounds").unlink()
    (folder / "rounds").symlink_to((trained / "rounds").resolve())
    copy = Theirs(folder)
    monkeypatch.syspath_prepend(str(workspace))

    def connected(*address: Any, **named: Any) -> None:
        copy.canary.write_text(f"connected to {address}")
        raise OSError("no network in this test")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, connected)
    monkeypatch.setattr(socket, "getaddrinfo", connected)
    monkeypatch.setattr(os, "abort", lambda: copy.canary.write_text("aborted"))
    monkeypatch.setenv("AWS_SECRET", SECRET)
    return copy


def opened_everywhere(folder: Path, capsys: pytest.CaptureFixture[str], *trace: str) -> tuple[int, str]:
    """Open a folder with every command; the exit code of `trace`, and all that was said or written."""
    said = []
    page, drawn = folder.parent / "page.html", folder.parent / "drawn.png"
    codes = [
        main(arguments)
        for arguments in (
            ["trace", str(folder), *trace],
            ["trace", str(folder), "--input", "999999", *trace],
            ["table", str(folder)],
            ["report", str(folder), "--out", str(page)],
            ["figure", str(folder), "ranking", "--out", str(drawn)],
        )
    ]
    assert set(codes) <= {0, 2}
    try:
        said.append(str(provfl_cli.load_run(folder).settings))
    except InputError as error:
        said.append(str(error))
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert all(line.startswith("provfl: ") for line in captured.err.splitlines()), "one line for each refusal"
    said += [captured.out, captured.err]
    if page.exists():
        said.append(page.read_text())
    return codes[0], "\n".join(said)


def hub(copy: Theirs) -> None:
    repository = copy.folder.parent / "repository"
    repository.mkdir()
    (repository / "hubconf.py").write_text(EVIL.format(canary=str(copy.canary)))
    copy.config(model={"_target_": "torch.hub.load", "repo_or_dir": str(repository), "model": "evil",
                       "source": "local"})  # fmt: skip


def evil_in(**blocks: Any) -> Callable[[Theirs], None]:
    def change(copy: Theirs) -> None:
        copy.module("evil")
        copy.config(**blocks)

    return change


NAMES: dict[str, tuple[Callable[[Theirs], None], str]] = {
    "a local repository of torch.hub": (hub, "model._target_=torch.hub.load"),
    "the embedded form": (evil_in(dataset={"embedded": "os.abort"}), "dataset.embedded=os.abort"),
    "a module in the working folder": (evil_in(fusion={"_target_": "evil.X"}), "fusion._target_=evil.X"),
    "a tracker": (evil_in(tracker={"_target_": "evil.X"}), "tracker._target_=evil.X"),
    "a method": (evil_in(attribution={"random": {"_target_": "evil.X"}}), "attribution.random._target_=evil.X"),
    "a nested name": (evil_in(model={"config": {"deep": [{"_target_": "evil.evil"}]}}), "deep.0._target_=evil.evil"),
    "a name by reference": (evil_in(privacy={"_target_": "${dataset.name}"}, dataset={"name": "evil.X"}), "evil.X"),
    "a name of another group": (
        evil_in(partition={"_target_": "provfl_cli.trackers.wandb.WandB"}), "partition._target_="
    ),
    "no text at all": (evil_in(injection={"_target_": ["evil", "X"]}), "injection._target_="),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_what_the_tree_does_not_name_is_refused(name: str, theirs: Theirs, capsys: pytest.CaptureFixture[str]) -> None:
    change, would_call = NAMES[name]
    change(theirs)
    code, said = opened_everywhere(theirs.sent, capsys)
    assert code == 2
    assert would_call in said
    assert "--trust calls it" in said
    assert not theirs.canary.exists()


@pytest.mark.slow
def test_whoever_trusts_a_folder_runs_its_own_model(theirs: Theirs, capsys: pytest.CaptureFixture[str]) -> None:
    module = (
        f"from pathlib import Path\nfrom provfl_cli.models.lenet import lenet\nPath({str(theirs.canary)!r}).touch()"
    )
    (theirs.folder.parent / "mine_alone.py").write_text(module)
    theirs.config(model={"_target_": "mine_alone.lenet"})
    assert main(["trace", str(theirs.sent)]) == 2
    assert not theirs.canary.exists()
    assert main(["trace", str(theirs.sent), "--trust"]) == 0
    assert theirs.canary.exists()


HARMLESS: dict[str, Callable[[Theirs], None]] = {
    "a Ray cluster": lambda copy: copy.config(provenance={"shards": 2, "shard_on": "127.0.0.1:6379"}),
    "a Flower address": lambda copy: copy.config(engine={"name": "flower", "address": "127.0.0.1:10001"}),
    "a tracking server": lambda copy: copy.config(
        tracker={"_target_": "provfl_cli.trackers.mlflow.MLflow", "uri": "http://127.0.0.1:5000"}
    ),
    "a tracker of the time before": lambda copy: copy.config(
        tracker={"_target_": "provfl_cli.reporting.trackers.wandb.WandB", "mode": "online"}
    ),
    "a cache": lambda copy: copy.config(store={"cache": str(copy.canary)}),
    "a secret": lambda copy: copy.config(dataset={"name": "${oc.env:AWS_SECRET}", "label_column": "x${oc.env:HOME}"}),
    "a secret by reference": lambda copy: copy.config(
        model={"name": "${dataset.name}"}, dataset={"name": "${oc.decode:${oc.env:AWS_SECRET}}"}
    ),
    "other resolvers": lambda copy: copy.config(dataset={"name": "${now:%Y}-${hydra:job.name}", "full_size": "${x.y}"}),
    "a circle of references": lambda copy: copy.config(
        dataset={"name": "${model.name}"}, model={"name": "${dataset.name}"}
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", HARMLESS)
def test_what_has_no_effect_is_opened(name: str, theirs: Theirs, capsys: pytest.CaptureFixture[str]) -> None:
    HARMLESS[name](theirs)
    code, said = opened_everywhere(theirs.sent, capsys)
    assert code == 0
    assert SECRET not in said
    assert not theirs.canary.exists()
    config = stored_config(theirs.folder).config
    assert (config.engine.name, config.tracker, config.provenance.shards, config.provenance.shard_on) == (
        "local", None, None, None
    )  # fmt: skip


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(letter + 1)}: &{chr(letter + 1)} [{','.join(['*' + chr(letter)] * 9)}]\n" for letter in range(97, 110)
)
REFERENCES = (
    "".join(f"k{n}: [{','.join([chr(34) + f'${{k{n + 1}}}' + chr(34)] * 9)}]\n" for n in range(20)) + "k20: x\n"
)
LARGE = {
    "aliases": (BOMB, "aliases"),
    "one alias": ("a: &a 1\nb: *a\n", "aliases"),
    "references": (REFERENCES, "references"),
    "a chain of references": ("".join(f"k{n}: ${{k{n + 1}}}\n" for n in range(3000)), "references"),
    "depth": ("a: " + "[" * 200 + "]" * 200, "blocks within blocks"),
    "bytes": ("a: " + "x" * 1_000_000, "bytes"),
    "a digit": ("a: " + "9" * 100_000, "cannot be read as YAML"),
    "a list": ("- a\n", "no block of keys"),
    "code": ("a: !!python/object/apply:os.abort []\n", "cannot be read as YAML"),
}


@pytest.mark.slow
@pytest.mark.parametrize("file", ["config.yaml", "hydra.yaml", "overrides.yaml"])
@pytest.mark.parametrize("name", LARGE)
def test_what_grows_when_it_is_read_is_refused(
    name: str, file: str, theirs: Theirs, capsys: pytest.CaptureFixture[str]
) -> None:
    text, says = LARGE[name]
    follows, a_list = file == "config.yaml", name == "a list" and file == "overrides.yaml"
    (theirs.folder / ".hydra" / file).write_text(text)
    began = time.process_time()
    try:
        provfl_cli.load_run(theirs.sent)
        said = ""
    except InputError as error:
        said = str(error)
    assert time.process_time() - began < 1
    if not a_list:
        assert says in said or (not follows and "references" in says) or "is no list" in said
        assert file in said
    if follows:
        began = time.process_time()
        code, said = opened_everywhere(theirs.sent, capsys)
        assert code == 2
        assert time.process_time() - began < 5  # five commands
    assert not theirs.canary.exists()


def text_run(copy: Theirs, **model: Any) -> None:
    """Make believe that the run was about texts, on published weights."""
    copy.manifest(
        inputs={"input": "text", "vocabulary": 300, "max_tokens": 8, "padding": 0},
        model={"name": "hf", "weights": "published: /somewhere"},
    )
    text = {"_target_": "provfl_cli.models.text.sequence_classifier", "name": "hf", "input": "text", "pretrained": True}
    copy.config(model=text | model, dataset={"input": "text"})


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", ["evil/network", "/etc", "../..", "file:///etc"])
def test_a_checkpoint_is_neither_read_nor_asked_for(
    checkpoint: str, theirs: Theirs, capsys: pytest.CaptureFixture[str]
) -> None:
    text_run(theirs, checkpoint=checkpoint)
    code, said = opened_everywhere(theirs.sent, capsys)
    assert code == 2
    assert f"started from {checkpoint}" in said
    assert "--checkpoint" in said
    assert not theirs.canary.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "dataset",
    [
        {"source": "path", "path": "secret"},
        {"source": "hub", "hub_id": "evil/data"},
        {"source": "hub", "hub_id": "../secret"},
    ],
)
def test_data_are_neither_read_nor_asked_for(
    dataset: dict[str, str], theirs: Theirs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (theirs.folder.parent / "secret").mkdir()
    theirs.config(dataset=dataset)
    monkeypatch.setattr(data_folder, "read", lambda *arguments: theirs.canary.write_text(f"read {arguments}"))
    code, said = opened_everywhere(theirs.sent, capsys)
    assert code == 0, "what it has traced is in the folder"
    assert "--data DIR" in said
    assert not theirs.canary.exists()


def test_data_that_the_user_names_must_be_the_same(theirs: Theirs, capsys: pytest.CaptureFixture[str]) -> None:
    other = theirs.folder.parent / "other.csv"
    other.write_text("image,label\n" + "\n".join(f'"[[{n},0],[0,{n}]]",{n % 2}' for n in range(40)))
    theirs.config(dataset={"source": "path", "path": "elsewhere"})
    assert main(["trace", str(theirs.sent), "--input", "999999", "--data", str(other)]) == 2
    assert main(["trace", str(theirs.sent), "--input", "999999", "--data", "no such/place/here"]) == 2
    assert "--data no such/place/here: no such folder or file" in capsys.readouterr().err


def test_links_lead_nowhere_else(theirs: Theirs, capsys: pytest.CaptureFixture[str]) -> None:
    secret = theirs.folder.parent / "credentials"
    secret.write_text(f"Error: {SECRET}\n")
    for name in ("error.log", ".hydra/more.yaml"):
        (theirs.folder / name).symlink_to(secret)
        code, said = opened_everywhere(theirs.sent, capsys)
        assert code == 2
        assert SECRET not in said
        assert "is a link" in said
        (theirs.folder / name).unlink()
    (theirs.folder / "rounds").unlink()
    (theirs.folder.parent / "anything" / "leases").mkdir(parents=True)
    (theirs.folder / "rounds").symlink_to(theirs.folder.parent / "anything")
    assert main(["trace", str(theirs.sent)]) == 2
    assert "no training cache" in capsys.readouterr().err


def test_sizes_that_no_run_has_are_refused(theirs: Theirs, capsys: pytest.CaptureFixture[str]) -> None:
    theirs.manifest(inputs={"input": "image", "channels": 1, "image_size": 10**9})
    assert main(["trace", str(theirs.sent)]) == 1
    assert "image_size is 1000000000" in capsys.readouterr().err


def test_a_run_stores_what_its_settings_came_to(trained: Path) -> None:
    text = (trained / ".hydra" / "config.yaml").read_text()
    config = yaml.safe_load(text)
    assert config["evaluation"]["min_examples"] == 1
    assert config["federation"]["batch_size"] == "12"
    assert config["provenance"]["threshold"] == 0.0
    assert config["dataset"]["name"] == "${oc.env:PROVFL_SECRET}"
    left = [line.strip() for line in text.splitlines() if "${" in line]
    assert left == ["name: ${oc.env:PROVFL_SECRET}", "cache: ${oc.env:PROVFL_CACHE,outputs/cache}"]


def test_what_the_environment_says_is_written_nowhere(trained: Path) -> None:
    files = [path for path in trained.parent.rglob("*") if path.is_file()]
    assert {"manifest.json", "summary.json", "training.json", "table.md", "provfl.log"} <= {path.name for path in files}
    for path in files:
        assert SECRET.encode() not in path.read_bytes(), path
    assert json.loads((trained / "manifest.json").read_text())["dataset"]["name"] == "${oc.env:PROVFL_SECRET}"


@pytest.mark.slow
def test_what_the_environment_says_is_in_no_message(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PROVFL_SECRET", SECRET)
    for key in ("dataset.path", "federation.rounds", "model.name", "fusion._target_", "model.min_image_size", "device"):
        assert main(["run", "dataset=digits", f"{key}=${{oc.env:PROVFL_SECRET}}", "model.pretrained=wrong"]) == 2
        said = capsys.readouterr()
        assert SECRET not in said.out + said.err, key


@pytest.mark.slow
def test_a_run_of_the_last_version_is_opened(theirs: Theirs, capsys: pytest.CaptureFixture[str]) -> None:
    """It stored its configuration as composed, interpolations and all."""
    before = stored_config(theirs.folder).config
    theirs.config(
        provenance={"threshold": "${threshold}", "shard_on": "${oc.select:engine.address,null}"},
        evaluation={"min_examples": "${partition.min_examples_per_label}"},
        federation={"batch_size": "1${.clients}"},
        dataset={"mean": ["${..std.0}"]},
    )
    after = stored_config(theirs.folder).config
    assert (after.evaluation, after.federation) == (before.evaluation, before.federation)
    assert after.provenance.threshold == 0.0
    assert after.dataset.mean == before.dataset.std
    code, said = opened_everywhere(theirs.sent, capsys)
    assert code == 0
    assert "dataset.name was ${oc.env:PROVFL_SECRET}, which is not followed: taken as digits" in said


def test_notes_say_what_is_not_known(theirs: Theirs) -> None:
    theirs.config(federation={"momentum": "${oc.env:MOMENTUM}"}, seed="${oc.env:SEED}")
    config, notes = stored_config(theirs.folder).config, open_run(theirs.sent).notes
    assert (config.federation.momentum, config.seed) == (0.9, 0)
    assert {note.partition(" was ")[0] for note in notes} == {"dataset.name", "federation.momentum", "seed"}


def test_the_tree_names_what_experiments_name() -> None:
    for path in (conf_dir() / "experiment").rglob("*.yaml"):
        for where, name in named(yaml.safe_load(path.read_text())):
            assert name in names()[str(where[0])]
    assert "provfl_cli.data.embedded.mnist" in names()["dataset"]
    assert len(names()) == 8


def test_data_that_the_own_cache_knows_are_found_again(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By where they are and their fingerprint, both as a run of one's own left them; otherwise the user says where."""
    monkeypatch.delenv("PROVFL_CACHE", raising=False)
    dataset = Dataset("mine", "path", path=str(workspace / "mine.csv"))
    entry = workspace / "outputs" / "cache" / "federations" / "0" / "training.json"
    entry.parent.mkdir(parents=True)
    entry.write_text(json.dumps({"came from": {"dataset": asdict(dataset), "source": {"fingerprint": "f"}}}))
    assert data_again(dataset, "f", None) == dataset
    for other, fingerprint in ((dataset, "g"), (replace(dataset, path="/etc/passwd"), "f")):
        with pytest.raises(InputError, match="--data DIR"):
            data_again(other, fingerprint, None)
    assert data_again(dataset, "f", "outputs").path == str(workspace / "outputs")
    named_id = data_again(dataset, "f", "owner/name")
    assert (named_id.source, named_id.hub_id, named_id.path) == ("hub", "owner/name", None)
    tree = replace(dataset, source="hub", path=None, hub_id="ylecun/mnist")
    with pytest.raises(InputError):
        data_again(tree, "g", None)
    at = replace(tree, revision="77f3279092a1c1579b2250db8eafed0ad422088c")
    assert data_again(at, "g", None) == at
