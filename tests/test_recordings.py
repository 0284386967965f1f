"""Recordings that somebody else may have made: data and nothing else, every value checked, every answer one line."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from provfl_cli.cli import main
from provfl_cli.config.chosen_fusion import chosen_fusion
from provfl_cli.config.tree import options
from provfl_cli.errors import InputError, RunError
from provfl_cli.run.place import STATELESS
from provfl_cli.store.disk import checksum
from provfl_cli.store.matching_tensors import check_tensors
from provfl_cli.store.recorded import JOURNAL, read_recorded, write_recorded
from provfl_cli.store.rounds import read_round
from provfl_cli.store.sealed import sealed

SEED = 20
NAMES, EXAMPLES = ("ada", "bob"), (50, 30)
WHERE = ["--model", "tests.test_recordings:net", "--data", "tests.test_recordings:data"]


def net() -> nn.Module:
    """What `--model tests.test_recordings:net` calls."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def data() -> dict[str, Tensor]:
    """What `--data tests.test_recordings:data` calls."""
    return {"inputs": torch.linspace(-1, 1, 20).view(5, 4), "labels": torch.tensor([0, 1, 2, 0, 1])}


def ending() -> nn.Module:
    """A model that ends the program when it is asked for."""
    sys.exit(0)


class Ending(nn.Module):
    """A model that ends the program when it is called."""

    def __init__(self) -> None:
        super().__init__()
        for name, part in net().named_children():
            self.add_module(name, part)

    def forward(self, inputs: Tensor) -> Tensor:
        sys.exit(0)


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of a round of two clients, and the recording `made` of them."""
    place = tmp_path_factory.mktemp("recording")
    before = net().state_dict()
    sent = [{name: value + 0.1 * (n + 1) * torch.cos(value * 9 + n) for name, value in before.items()} for n in (0, 1)]
    after = {
        name: sum(
            (client[name].double() * count / sum(EXAMPLES) for client, count in zip(sent, EXAMPLES, strict=True)),
            torch.zeros((), dtype=torch.float64),
        ).float()
        for name in before
    }
    for name, tensors in {"before": before, "after": after, NAMES[0]: sent[0], NAMES[1]: sent[1]}.items():
        save_file(tensors, place / f"{name}.safetensors")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(place)
        assert main(call()) == 0
    return place


def call(*more: str, clients: tuple[str, ...] = NAMES) -> list[str]:
    """The import of that round."""
    files = zip(clients, NAMES, EXAMPLES, strict=True)
    senders = [f"{name}={file}.safetensors:{count}" for name, file, count in files]
    whole = ["--global", "after.safetensors", "--previous", "before.safetensors"]
    return ["import", *whole, "--client", *senders, "--out", "made", *more]


@pytest.fixture
def made(imported: Path, workspace: Path) -> Path:
    """A copy of the recording in the working folder, with the files that it was made of."""
    shutil.copytree(imported, workspace, dirs_exist_ok=True)
    return workspace / "made"


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a sealed JSON file and seal it again, as anybody can."""
    content = json.loads(path.read_text())
    del content["sha256"]
    change(content)
    path.write_text(json.dumps(sealed(content)))


def set_fusion(folder: Path, words: Any) -> None:
    changed(folder / "recorded.json", lambda content: content.update(fusion=words))


def answered(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(arguments)
    return code, *capsys.readouterr()


BAD_FUSIONS = {
    "a name to import": ["fedavg", "_target_=evil_module.Fusion"],
    "an unknown setting": ["fedprox", "muu=1"],
    "a reference": ["fedprox", "mu=${oc.env:PROVFL_SECRET}"],
    "a reference as key": ["fedprox", "${oc.env:PROVFL_SECRET}=1"],
    "aliases": ["fedprox", "mu=" + "{a: &a [1,1,1,1], b: &b [*a,*a,*a,*a], c: [*b,*b,*b,*b]}"],
    "a long value": ["fedprox", "mu=" + "1" * 4000],
    "a chain of keys": ["fedprox", "a." * 1000 + "=1"],
    "brackets": ["fedprox", "mu=" + "[" * 90],
    "no equals sign": ["fedprox", "mu"],
    "twice": ["fedprox", "mu=1", "mu=2"],
    "infinity": ["fedprox", "mu=1e400"],
    "missing": ["fedprox", "mu=???"],
    "no such fusion": ["../model/lenet"],
    "a module as name": ["evil_module.Fusion"],
}


@pytest.mark.parametrize("name", BAD_FUSIONS)
def test_the_fusion_of_a_recording_is_plain_settings(
    name: str, made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROVFL_SECRET", "hunter2")
    Path("evil_module.py").write_text("open('harm', 'w').close()\n")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    set_fusion(made, BAD_FUSIONS[name])
    where = ["made", *WHERE]
    for command in (
        ["trace", *where],
        ["report", *where],
        ["figure", "made", "ranking", *WHERE, "--out", "a.png"],
    ):
        code, out, error = answered(capsys, command)
        assert (code, error.count("\n"), out) == (1, 1, "")
        assert "recorded.json cannot be read (fusion: " in error
        assert "hunter2" not in error
    typed, _, error = answered(capsys, call("--fusion", *BAD_FUSIONS[name], "--out", "other"))
    assert (typed, error.count("\n")) == (2, 1)
    assert "hunter2" not in error
    assert not Path("harm").exists()
    assert "evil_module" not in sys.modules


def test_a_setting_that_a_fusion_has_is_taken() -> None:
    assert chosen_fusion(["trimmed_mean", "fraction=0.1", "count=null"]).fraction == 0.1
    assert chosen_fusion(["multi_krum", "weighted=true", "keep=3"]).keep == 3
    for name in set(options("fusion")) - {"fednova", "flora"}:
        assert type(chosen_fusion([name])).__module__ == f"provfl_cli.fusion.{name}"
    assert set(STATELESS) <= set(options("fusion"))
    with pytest.raises(InputError, match="follows from how clients train"):
        chosen_fusion(["fednova"])
    with pytest.raises(InputError, match="which recorded rounds do not hold"):
        chosen_fusion(["flora"])


@pytest.mark.parametrize(
    "line", ['{"round": 1e400, "reason": "x"}', '{"round": [1], "reason": "x"}', "[" * 90_000, '{"round": 1}', "3"]
)
def test_a_journal_that_says_nothing_is_passed_over(
    line: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace / "made").mkdir()
    (workspace / "made" / JOURNAL).write_text(line)
    code, _, error = answered(capsys, ["trace", "made", *WHERE])
    assert (code, error) == (2, "provfl: made: no round of it could be recorded\n")


def test_a_pipe_in_place_of_a_journal_is_not_waited_for(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(made / "rounds")
    os.mkfifo(made / JOURNAL)
    code, _, error = answered(capsys, ["trace", "made", *WHERE])
    assert (code, error) == (2, f"provfl: made/{JOURNAL}: is a pipe or a device, no file: nothing is read\n")


def unlike(tensors: dict[str, Tensor], name: str, value: Tensor | None) -> dict[str, Tensor]:
    rest = {key: tensor for key, tensor in tensors.items() if key != name}
    return rest if value is None else {**rest, name: value}


WRONG_TENSORS: dict[str, tuple[str, Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "complex clients": ("clients", lambda t: unlike(t, "0.bias", t["0.bias"].cfloat()), "0.bias is C64 [2, 6]"),
    "whole numbers": ("clients", lambda t: unlike(t, "0.bias", t["0.bias"].long()), "0.bias is I64 [2, 6]"),
    "whole numbers before": ("previous", lambda t: unlike(t, "0.bias", t["0.bias"].long()), "0.bias is I64 [6]"),
    "a higher stack": ("clients", lambda t: unlike(t, "2.bias", t["2.bias"][[0, 1, 1]]), "2.bias is F32 [3, 3]"),
    "a lower stack": ("clients", lambda t: unlike(t, "2.bias", t["2.bias"][:1]), "2.bias is F32 [1, 3]"),
    "another shape": ("previous", lambda t: unlike(t, "2.bias", t["2.bias"][:1]), "2.bias is F32 [1]"),
    "a missing tensor": ("clients", lambda t: unlike(t, "2.bias", None), "it has no tensor 2.bias"),
    "an unknown tensor": ("clients", lambda t: unlike(t, "\x1b[2Jmore", torch.zeros(2, 3)), "␛[2Jmore is no tensor of"),
    "an unknown one before": ("previous", lambda t: unlike(t, "more", torch.zeros(3)), "more is no tensor of"),
    "unknown numbers": ("global", lambda t: {n: v.to(torch.uint16) for n, v in t.items()}, "0.bias is of type U16"),
}  # fmt: skip


def replaced(folder: Path, name: str, tensors: dict[str, Tensor]) -> None:
    """Put other tensors into a file of round 1, its checksum included."""
    file = folder / "rounds" / "0001" / f"{name}.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, file)
    changed(file.with_name("round.json"), lambda content: content["checksums"].update({file.name: checksum(file)}))


@pytest.mark.parametrize("name", WRONG_TENSORS)
def test_tensors_of_a_round_are_of_one_model(name: str, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, change, words = WRONG_TENSORS[name]
    replaced(made, file, change(load_file(made / "rounds" / "0001" / f"{file}.safetensors")))
    code, out, error = answered(capsys, ["trace", "made", *WHERE])
    assert (code, error.count("\n"), out) == (1, 1, "")
    assert f"{file}.safetensors cannot be traced: {words}" in error


@pytest.mark.parametrize(
    ("file", "tensors", "words"),
    [
        ("bases", {"0/0.bias": torch.zeros(6)}, "it has no tensor 0/0.weight"),
        ("bases", {"2/0.bias": torch.zeros(6)}, "2/0.bias is no tensor of"),
        ("corrections", {"0.bias": torch.zeros(3, 6)}, "0.bias is F32 [3, 6]"),
        ("corrections", {"x": torch.zeros(2, 6)}, "x is no tensor of"),
        ("decomposition", {"unsent:noise/x": torch.zeros(6)}, "unsent:noise/x is of no tensor of"),
        ("decomposition", {"unsent:noise/0.bias": torch.zeros(6, dtype=torch.complex64)}, "is C64 [6]"),
        ("decomposition", {"multiplier:scalars/0.bias": torch.zeros(3)}, "is F32 [3], not [2]"),
        ("decomposition", {"multiplier:shared/0.bias": torch.zeros(6)}, "no tensor multiplier:scalars/0.bias"),
        ("decomposition", {"multiplier:evil/0.bias": torch.zeros(6)}, "is of no tensor of"),
    ],
)
def test_other_files_of_a_round_fit_its_model(file: str, tensors: dict[str, Tensor], words: str, made: Path) -> None:
    check_tensors(read_round(made / "rounds", 1))
    replaced(made, file, tensors)
    stored = read_round(made / "rounds", 1)
    with pytest.raises(RunError) as caught:
        check_tensors(stored)
    assert f"{file}.safetensors cannot be traced" in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"examples": [-50, -30]}, "examples[0] is -50"),
        ({"examples": [50.0, 30]}, "examples[0] is 50.0"),
        ({"examples": [True, 30]}, "examples[0] is true"),
        ({"examples": [10**30, 30]}, "examples[0] is 1000"),
        ({"example_weights": [float("nan"), 1.0]}, "example_weights[0] is nan"),
        ({"example_weights": [2.0, -1.0]}, "example_weights[1] is -1.0"),
        ({"example_weights": [[1.0], 0.5]}, "example_weights[0] is [1.0]"),
        ({"clients": [0, 0]}, "clients is [0, 0]"),
        ({"clients": "ab"}, "clients is ab"),
        ({"clients": [], "examples": [], "example_weights": [], "names": []}, "clients is []"),
        ({"names": []}, "names are as many as clients"),
        ({"names": ["ada", "ada"]}, "names: ada is there twice"),
        ({"names": ["ada", 7]}, "names[1] is 7"),
        ({"number": float("inf")}, "number is inf"),
        ({"number": True}, "number is true"),
        ({"format": True}, "format True"),
        ({"history": []}, "history is []"),
        ({"history": [{"round": 1}]}, "loss is missing"),
        ({"buffers": "abc"}, "buffers is abc"),
        ({"buffers": [{}]}, "buffers[0] is {}"),
        ({"checksums": []}, "checksums is []"),
        ({"checksums": {"../../x": "1"}}, "a name in checksums is ../../x"),
        ({"lineage": "x"}, "lineage is x"),
        ({"source": [1, "a"]}, "source is [1, 'a']"),
        ({"key": 3}, "key is 3"),
    ],
)
def test_every_value_of_a_round_is_checked(change: dict[str, Any], field: str, made: Path) -> None:
    changed(made / "rounds" / "0001" / "round.json", lambda content: content.update(change))
    with pytest.raises(RunError) as caught:
        read_round(made / "rounds", 1)
    assert "round.json cannot be read (" in str(caught.value)
    assert field in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"fusion": "fedavg"}, "fusion is fedavg"),
        ({"examples": {"0": float("inf"), "1": 30}}, "examples.0 is inf"),
        ({"examples": {"x": 3}}, "a name in examples is x"),
        ({"examples": []}, "examples is []"),
        ({"clients": {"0": "a", "1": "a"}}, "clients: a is there twice"),
        ({"clients": {"0": ["a"], "1": "b"}}, "clients.0 is ['a']"),
        ({"clients": {" 0": "a", "1": "b"}}, "a name in clients is  0"),
        ({"clients": {"99999999999": "a"}}, "a name in clients is 99999999999"),
        ({"labels": {"a": 1}}, "labels is {'a': 1}"),
        ({"source": None}, "source is null"),
        ({"format": 2.0}, "format 2.0"),
    ],
)
def test_every_value_of_a_recording_is_checked(change: dict[str, Any], field: str, made: Path) -> None:
    changed(made / "recorded.json", lambda content: content.update(change))
    with pytest.raises(RunError) as caught:
        read_recorded(made)
    assert "recorded.json cannot be read (" in str(caught.value)
    assert field in str(caught.value)
    assert "\n" not in str(caught.value)


def test_clients_have_the_numbers_that_they_are_known_by(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed(made / "rounds" / "0001" / "round.json", lambda content: content.update(clients=[7, 9]))
    code, _, error = answered(capsys, ["trace", "made", *WHERE])
    assert (code, error.count("\n")) == (1, 1)
    assert "calls client 7 'ada', recorded.json or another round client 0" in error


def test_more_clients_than_are_stacked_are_found(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    three = {
        "clients": [0, 1, 2],
        "examples": [1, 1, 1],
        "example_weights": [0.3, 0.3, 0.4],
        "names": ["ada", "bob", "c"],
    }
    changed(made / "rounds" / "0001" / "round.json", lambda content: content.update(three))
    code, _, error = answered(capsys, ["trace", "made", *WHERE])
    assert (code, error.count("\n")) == (1, 1)
    assert "clients.safetensors cannot be traced: 0.bias is F32 [2, 6]" in error


# What no field holds; a field may hold one of these, and the answer is then that of the recording as it was.
IMPOSSIBLE: tuple[Any, ...] = (
    float("nan"), float("inf"), float("-inf"), -1, 10**30, 1e300, [], {}, "x" * 5000, "\x1b[31mX", True, None, [[1]],
    {"_target_": "os.abort"}, "-3", [1, "a"], 2.5, [0, 0], [-5, 80], [float("nan")] * 2, [1e308] * 2,
    {"0": float("inf")},
    ["fedavg", "x=${oc.env:HOME}"], ["fedavg", "_target_=os.abort"], ["a", "a"], {"0": "same", "1": "same"}, "\ud800",
)  # fmt: skip


def places(node: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where there is a value in a JSON document."""
    for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        yield (*above, key)
        yield from places(node[key], (*above, key))


def mutated(content: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    whole: Any = copy.deepcopy(content)
    node = whole
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    return dict(whole)


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_no_value_changes_an_answer_unseen(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    choice = random.Random(SEED)
    trace = ["trace", "made", *WHERE, "--method", "provfl", "data_size", "--json"]
    code, whole, _ = answered(capsys, trace)
    assert code == 0
    seen = {0: 0, 1: 0, 2: 0}
    for path in (made / "recorded.json", made / "rounds" / "0001" / "round.json"):
        text = path.read_text()
        content = json.loads(text)
        del content["sha256"]
        for place in [leaf for leaf in places(content) for _ in range(4)]:
            value = choice.choice(IMPOSSIBLE)
            path.write_text(json.dumps(sealed(mutated(content, place, value))))
            code, out, error = answered(capsys, trace)
            what = f"{path.name} {place}={str(value)[:60]!r}"
            seen[code] += 1
            if code == 0:
                assert (out, error) == (whole, ""), what
            else:
                assert (error.count("\n"), out) == (1, ""), what
                assert "HYDRA_FULL_ERROR" not in error, f"{what}: {error}"
        path.write_text(text)
    assert seen[1] > 100


@pytest.mark.parametrize("place", ["recorded.json", "rounds", "rounds/0001", "rounds/0001/clients.safetensors"])
def test_links_in_a_recording_lead_nowhere_else(place: str, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere = made.parent / "elsewhere"
    (made / place).rename(elsewhere)
    (made / place).symlink_to(elsewhere)
    for command in (
        ["trace", "made", *WHERE], ["report", "made", *WHERE], ["figure", "made", "ranking", *WHERE, "--out", "a.png"],
        call("--round", "2"),
    ):  # fmt: skip
        code, _, error = answered(capsys, command)
        assert (code, error.count("\n")) == (2, 1)
        assert f"made/{place}: is a link to a place" in error or "is the folder of a run" in error


def test_what_ends_the_program_when_it_is_called_is_named(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, inputs = WHERE[1], WHERE[3]
    for pair, words in (
        ((model, "sys:exit"), "--data sys:exit: calling it failed (SystemExit"),
        (("sys:exit", inputs), "--model sys:exit: calling it failed (SystemExit"),
        (("tests.test_recordings:ending", inputs), "--model tests.test_recordings:ending: calling it failed"),
        (("tests.test_recordings:Ending", inputs), "the model does not read inputs"),
        (("ending_module:net", inputs), "--model ending_module:net: cannot be imported (SystemExit: 0)"),
    ):
        Path("ending_module.py").write_text("import sys\nsys.exit(0)\n")
        code, out, error = answered(capsys, ["trace", "made", "--model", pair[0], "--data", pair[1]])
        assert (code, error.count("\n"), out) == (2, 1, "")
        assert words in error


def test_nothing_that_is_called_ends_a_command_unseen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provfl_cli.cli.trace.main", lambda _: sys.exit(0))
    code, _, error = answered(capsys, ["trace", "made"])
    assert (code, error.count("\n")) == (2, 1)
    assert "a function that was called ended the program" in error


@pytest.mark.slow
def test_half_characters_in_a_clients_name_are_replaced_in_every_file(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed(made / "recorded.json", lambda content: content["clients"].update({"0": "\ud800x"}))
    changed(made / "rounds" / "0001" / "round.json", lambda content: content.update(names=["\ud800x", "bob"]))
    for method in ([], ["--method", "static_weights", "data_size"]):
        for ending in ("csv", "parquet", "json"):
            code, _, error = answered(capsys, ["trace", "made", *WHERE, *method, "--out", f"answer.{ending}"])
            assert (code, error) == (0, "")
        assert set(pd.read_csv("answer.csv")["client_name"].dropna()) == {"\ufffdx", "bob"}
        assert set(pd.read_parquet("answer.parquet")["client_name"].dropna()) == {"\ufffdx", "bob"}
        assert "ud800x" in Path("answer.json").read_text(encoding="utf-8")


def test_names_that_could_be_taken_for_others_are_refused(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = answered(capsys, call("--labels", "a", "a", "b", "--out", "other"))
    assert (code, error) == (2, "provfl: --labels a: is there twice: classes need different names\n")
    for name in ("difference", "previous", "noise"):
        code, _, error = answered(capsys, call("--mismatch", "row", "--out", "other", clients=(name, "bob")))
        assert (code, error.count("\n")) == (2, 1)
        assert f"--client {name}: with --mismatch row" in error
    assert not Path("other").exists()


def test_what_could_not_be_read_again_is_not_written(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded = read_recorded(made)
    assert recorded is not None
    for wrong in ({"clients": {0: "a", 1: "a"}}, {"clients": {2**40: "a"}}, {"examples": {0: -1}}):
        with pytest.raises(RunError, match="cannot be written"):
            write_recorded(made, replace(recorded, **wrong))
    assert read_recorded(made) == recorded


def test_names_of_half_characters_are_written_and_read_back(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, _ = answered(capsys, call("--out", "other", "--labels", "\udcff", "b", "c", clients=("\udcffa", "bob")))
    assert code == 0
    recorded = read_recorded(Path("other"))
    assert recorded is not None
    assert (recorded.clients[0], recorded.labels[0]) == ("\udcffa", "\udcff")
    assert answered(capsys, ["trace", "other", *WHERE, "--json"])[0] == 0


@pytest.mark.parametrize("kind", [torch.complex64, torch.uint16])
def test_types_that_no_round_holds_are_not_imported(
    kind: torch.dtype, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("before", "after", *NAMES):
        tensors = load_file(f"{name}.safetensors")
        save_file({**tensors, "0.bias": tensors["0.bias"].to(kind)}, f"{name}.safetensors")
    code, _, error = answered(capsys, call("--out", "other"))
    assert (code, error.count("\n")) == (2, 1)
    assert f"--previous before.safetensors: 0.bias is {kind}, which no round holds" in error
