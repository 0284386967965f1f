"""`provfl import`: other people's checkpoints become a round, exactly or not at all; and it can be traced."""

from __future__ import annotations

import argparse
import json
import math
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from provfl_cli.cli import main
from provfl_cli.cli.recorded import traced
from provfl_cli.provenance import from_state_dicts, trace
from provfl_cli.reporting.figures import draw
from provfl_cli.run import imported
from provfl_cli.store.recorded import JOURNAL, RecordedFederation, read_recorded, write_recorded
from provfl_cli.store.rounds import read_round, stored_rounds

from . import scored_runs
from .federations import make_model
from .lineages import perturbed
from .page_data import page_data

EXAMPLES = (10, 20, 30)
NAMES = ("alice", "b<b>", "carol")


def net() -> nn.Module:
    """What `--model tests.test_import:net` calls."""
    return make_model()


def other() -> nn.Module:
    """Another model than the one that is imported."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def data() -> dict[str, Tensor]:
    """What `--data tests.test_import:data` calls."""
    random = torch.Generator().manual_seed(3)
    return {"inputs": torch.randn(4, 1, 8, 8, generator=random), "labels": torch.tensor([3, 1, 4, 1])}


@pytest.fixture
def files(workspace: Path) -> Path:
    """The working folder with before, after (FedAvg), and three clients."""
    before = net().state_dict()
    clients = [perturbed(before, 0.1, seed) for seed in range(3)]
    after = averaged(clients, EXAMPLES)
    for name, tensors in {"before": before, "after": after, **dict(zip("abc", clients, strict=True))}.items():
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, workspace / f"{name}.safetensors")
    save_file(data(), workspace / "data.safetensors")
    return workspace


def averaged(clients: list[dict[str, Tensor]], examples: tuple[int, ...]) -> dict[str, Tensor]:
    shares = [count / sum(examples) for count in examples]
    return {
        name: sum(p * client[name].double() for p, client in zip(shares, clients, strict=True)).to(
            clients[0][name].dtype
        )
        for name in clients[0]
    }


def arguments(*more: str, clients: tuple[str, ...] | None = None) -> list[str]:
    senders = clients or tuple(f"{n}={f}.safetensors:{k}" for n, f, k in zip(NAMES, "abc", EXAMPLES, strict=True))
    files = ["--global", "after.safetensors", "--previous", "before.safetensors"]
    return ["import", *files, "--client", *senders, "--out", "made", *more]


@pytest.mark.slow
def test_an_imported_round_is_traced_as_its_state_dicts_are(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments("--labels", *"abcdefghi", "<j>")) == 0
    recorded = read_recorded(files / "made")
    assert recorded is not None
    assert recorded.clients == dict(enumerate(NAMES))
    assert recorded.examples == dict(enumerate(EXAMPLES))
    capsys.readouterr()
    where = ["trace", "made", "--model", "tests.test_import:net", "--json", "--input", "2"]
    answers = []
    for inputs in ("data.safetensors", "tests.test_import:data"):
        assert main([*where, "--data", inputs, "--without", "carol", "--verify"]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    answer = answers[0]
    assert answers[1] == answer
    clients = [load_file(f"{name}.safetensors") for name in "abc"]
    before, after = load_file("before.safetensors"), load_file("after.safetensors")
    expected = trace(net(), data()["inputs"][2:3], from_state_dicts(clients, EXAMPLES, before, after))
    said = {client["name"]: client["contribution"] for client in answer["methods"][0]["clients"]}
    assert [said[name] for name in NAMES] == pytest.approx(expected.values[0].tolist(), rel=1e-4, abs=1e-7)
    assert answer["label"] == "e"
    model = net().eval()
    fused = averaged(clients[:2], EXAMPLES[:2])
    model.load_state_dict(fused)
    with torch.no_grad():
        without = model(data()["inputs"][2:3]).softmax(1)[0].tolist()
    refused = answer["what_if"][0]
    assert refused["without"] == ["carol"]
    assert list(refused["probabilities"].values()) == pytest.approx(without, abs=1e-5)


@pytest.mark.parametrize("command", ["ls", "table"])
def test_what_a_recording_holds_is_listed(files: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert main(arguments()) == 0
    lines = [{"round": 1, "reason": None}, {"round": 2, "reason": "bob sent \x1b[2Jnothing"}]
    (files / "made" / JOURNAL).write_text("".join(json.dumps(line) + "\n" for line in lines))
    capsys.readouterr()
    assert main([command, "made"]) == 0
    shown = capsys.readouterr().out
    assert "made: 3 clients, 1 round, recorded by import" in shown
    rows = [line.split() for line in shown.splitlines()]
    assert ["1", "alice", "10", "16.7%"] in rows
    assert ["carol", "30", "50.0%"] in rows
    assert "2 not recorded: bob sent ␛[2Jnothing" in [" ".join(row) for row in rows]
    assert main(["table", "made", "--out", "x.csv"]) == 2
    assert "is a recorded federation" in capsys.readouterr().err


def test_a_table_says_that_a_recording_is_not_in_it(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments()) == 0
    scored_runs.made(files / "run")
    capsys.readouterr()
    assert main(["table", "made", "run"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "made: is a recorded federation, of which nothing was measured (provfl ls FOLDER)" in said
    assert "0.900" in said
    assert main(["table", "made", "run", "--out", "both.csv"]) == 0
    assert "made: is a recorded federation" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("updates", [False, True])
@pytest.mark.parametrize("added", [False, True])
def test_a_client_may_have_started_from_an_older_model(
    files: Path, capsys: pytest.CaptureFixture[str], added: bool, updates: bool
) -> None:
    """The server averages models, of which the older base is a row; or it adds what each has changed."""
    before = load_file("before.safetensors")
    bases = [before, perturbed(before, 0.05, 9), before]
    sent = [load_file(f"{name}.safetensors") for name in "abc"]
    changes = [{n: t - base[n] for n, t in client.items()} for client, base in zip(sent, bases, strict=True)]
    after = averaged(sent, EXAMPLES)
    if added:
        after = {name: before[name] + change for name, change in averaged(changes, EXAMPLES).items()}
    save_file(after, "after.safetensors")
    save_file(bases[1], "older.safetensors")
    for name, change in zip("abc", changes, strict=True) if updates else ():
        save_file(change, f"{name}.safetensors")
    more = ["--clients-are", "updates"] if updates else []
    if added != updates:  # else it is what the server made, with another share of it the client's own
        assert main(arguments(*more)) == 2
    assert main(arguments(*more, "--base", "b<b>=older.safetensors")) == 0
    assert ("the server has added" in capsys.readouterr().out) == added
    stored = read_round(files / "made" / "rounds", 1)
    assert list(stored.decomposition.unsent) == ([] if added else ["stale"])
    ours = trace(net(), data()["inputs"], stored, "faithful")
    if added:
        moved = [{n: before[n] + t for n, t in change.items()} for change in changes]
        expected = trace(net(), data()["inputs"], from_state_dicts(moved, EXAMPLES, before, after), "faithful")
        assert ours.values == pytest.approx(expected.values, abs=1e-5)
    else:
        whole = trace(net(), data()["inputs"], from_state_dicts(sent, EXAMPLES, before, after), "faithful")
        assert ours.values[:, [0, 2]] == pytest.approx(whole.values[:, [0, 2]], abs=1e-5)
        assert ours.values[:, 1] + ours.rows["stale"] == pytest.approx(whole.values[:, 1], abs=1e-5)
    for wrong, said in (("bob=older.safetensors", "no --client has that name"), ("carol", "give NAME=FILE")):
        assert main(arguments("--base", wrong)) == 2
        assert said in capsys.readouterr().err


def test_without_all_clients_nobody_is_left(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments()) == 0
    capsys.readouterr()
    where = ["trace", "made", "--model", "tests.test_import:net", "--data", "data.safetensors"]
    assert main([*where, "--without", ",".join(NAMES), "--json"]) == 0
    for what in json.loads(capsys.readouterr().out)["what_if"]:
        assert (what["prediction"], what["probabilities"]) == (None, None)
        assert "nobody is left" in what["reason"]


def test_a_recording_without_a_round_says_why(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [{"round": number, "reason": f"client {number} sent \x1b[2Jnothing\nat all"} for number in (1, 2)]
    (workspace / "made").mkdir()
    (workspace / "made" / JOURNAL).write_text("".join(json.dumps(line) + "\n" for line in lines))
    for arguments in (["trace", "made"], ["report", "made"], ["figure", "made", "ranking", "--out", "x.pdf"]):
        assert main([*arguments, "--model", "lenet", "--data", "x.safetensors"]) == 2
        error = capsys.readouterr().err
        assert "made: no round of it could be recorded (round 2: client 2 sent ␛[2Jnothing at all)" in error
        assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ({"shape": True}, "is [3], in --previous before.safetensors it is"),
        ({"missing": True}, "has no tensor"),
        ({"more": True}, "which --previous before.safetensors has not"),
        ({"type": True}, "is torch.float64"),
        ({"nan": True}, "not finite"),
        ({"broken": True}, "is no safetensors file"),
    ],
)
def test_files_that_do_not_fit(
    change: dict[str, bool], answer: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = load_file("b.safetensors")
    kind = next(iter(change))
    if kind == "shape":
        tensors["logits.bias"] = torch.zeros(3)
    elif kind == "missing":
        del tensors["logits.bias"]
    elif kind == "more":
        tensors["extra"] = torch.zeros(3)
    elif kind == "type":
        tensors["logits.bias"] = tensors["logits.bias"].double()
    elif kind == "nan":
        tensors["logits.bias"][0] = torch.nan
    save_file(tensors, "b.safetensors")
    if kind == "broken":
        Path("b.safetensors").write_text("not a tensor in sight")
    assert main(arguments()) == 2
    error = capsys.readouterr().err
    assert answer in error
    assert "b<b>" in error
    assert error.count("\n") == 1
    assert not (files / "made").exists()  # nothing half is left


@pytest.mark.parametrize(
    ("file", "culprit"),
    [
        ("before", "--previous before.safetensors"),
        ("after", "--global after.safetensors"),
        ("b", "--client b<b>=b.safetensors"),
    ],
)
@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_the_file_whose_numbers_are_not_finite_is_named(
    file: str, culprit: str, number: float, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = load_file(f"{file}.safetensors")
    tensors["hidden.bias"][2] = number
    save_file(tensors, f"{file}.safetensors")
    assert main(arguments()) == 2
    error = capsys.readouterr().err
    assert f"{culprit}: hidden.bias holds {'NaN' if math.isnan(number) else 'infinity'} (1 of 16" in error
    assert error.count("\n") == 1
    assert not (files / "made").exists()


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        ({"inputs": torch.tensor([0.0, 0.0, torch.nan, 0.0]).expand(64, 4).T.reshape(4, 1, 8, 8)}, "input 2 holds NaN"),
        ({"inputs": torch.full((4, 1, 8, 8), torch.inf)}, "input 0 holds infinity"),
        ({"inputs": torch.zeros(4, 1, 8, 8), "labels": torch.zeros(3, dtype=torch.int64)}, "one for each of 4 inputs"),
        ({"inputs": torch.zeros(4, 1, 8, 8), "labels": torch.zeros(4)}, "must be whole numbers"),
        ({"inputs": torch.zeros(4, 1, 8, 8), "labels": torch.full((4,), 10)}, "holds label 10"),
    ],
)
def test_data_that_cannot_be_traced_is_named(
    data: dict[str, Tensor], answer: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments()) == 0
    save_file({name: tensor.contiguous() for name, tensor in data.items()}, "wrong.safetensors")
    capsys.readouterr()
    assert main(["trace", "made", "--model", "tests.test_import:net", "--data", "wrong.safetensors"]) == 2
    error = capsys.readouterr().err
    assert "--data wrong.safetensors" in error
    assert answer in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "clients", "answer"),
    [
        ((), ("a=a.safetensors:1", "a=b.safetensors:1"), "there twice"),
        ((), ("a=a.safetensors:1", "b=b.safetensors"), "without examples"),
        ((), ("a.safetensors",), "NAME=FILE"),
        ((), ("a=nowhere.safetensors",), "no such file"),
        (("--fusion", "fedadam"), None, "own state"),
        (("--fusion", "trimmed_mean", "fractoin=0.1"), None, "did you mean fraction"),
        (("--mismatch", "rows"), None, "did you mean row"),
        (("--round", "0"), None, "1 or more"),
        (("--buffers", "nothing"), None, "no tensor of that name"),
    ],
)
def test_wrong_imports(
    more: tuple[str, ...],
    clients: tuple[str, ...] | None,
    answer: str,
    files: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(arguments(*more, clients=clients)) == 2
    assert answer in capsys.readouterr().err
    assert not (files / "made").exists()


@pytest.mark.slow
def test_a_global_model_that_the_fusion_does_not_give(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two = ("alice=a.safetensors:10", "bob=b.safetensors:20")
    assert main(arguments(clients=two)) == 2
    assert "they differ by" in capsys.readouterr().err
    assert main(arguments("--mismatch", "row", clients=two)) == 0
    stored = read_round(files / "made" / "rounds", 1)
    after, fused = load_file("after.safetensors"), averaged([load_file(f"{n}.safetensors") for n in "ab"], (10, 20))
    for name in after.keys() - stored.buffers:
        assert torch.equal(stored.weights()[name], after[name])
        rest = stored.decomposition.unsent["difference"][name]
        torch.testing.assert_close(rest, after[name] - fused[name], atol=1e-6, rtol=1e-4)
    capsys.readouterr()
    where = ["--model", "tests.test_import:net", "--data", "data.safetensors", "--json", "--verify"]
    assert main(["trace", "made", *where]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["methods"][0]["rest"]["difference"] != 0
    assert set(answer["verified"][0]["cost"]) == {"withhold"}  # fusing again would not give this model anyway
    assert main(arguments("--mismatch", "fusion", "--out", "other", clients=two)) == 0
    other = read_round(files / "other" / "rounds", 1)
    torch.testing.assert_close(other.weights()["logits.bias"], fused["logits.bias"])


def test_rounds_follow_each_other_and_clients_keep_their_numbers(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments()) == 0
    first = load_file("after.safetensors")
    clients = [perturbed(first, 0.1, seed) for seed in (7, 8)]
    save_file(averaged(clients, (5, 5)), "second.safetensors")
    for name, client in zip(("dave", "carol"), clients, strict=True):
        save_file(client, f"{name}.safetensors")
    then = ["import", "--global", "second.safetensors", "--out", "made", "--client", "dave=dave.safetensors:5",
            "--client", "carol=carol.safetensors:5", "--previous"]  # fmt: skip
    assert main([*then, "before.safetensors"]) == 2
    assert "not the global model after round 1" in capsys.readouterr().err
    assert main([*then, "after.safetensors"]) == 0
    assert stored_rounds(files / "made" / "rounds") == [1, 2]
    assert read_round(files / "made" / "rounds", 2).clients == (2, 3)
    recorded = read_recorded(files / "made")
    assert recorded is not None
    assert recorded.clients == {0: "alice", 1: "b<b>", 2: "carol", 3: "dave"}
    assert recorded.examples == {0: 10, 1: 20, 2: 5, 3: 5}
    assert main([*then, "after.safetensors", "--round", "2"]) == 2


@pytest.mark.slow
def test_a_page_shows_what_trace_says(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments("--labels", *"abcdefghi", "<j>")) == 0
    first = load_file("after.safetensors")
    clients = [perturbed(first, 0.1, seed) for seed in (7, 8)]
    save_file(averaged(clients, (5, 5)), "second.safetensors")
    for name, client in zip(("carol", "dave"), clients, strict=True):
        save_file(client, f"{name}.safetensors")
    assert main(["import", "--global", "second.safetensors", "--previous", "after.safetensors", "--out", "made",
                 "--client", "carol=carol.safetensors:5", "dave=dave.safetensors:5"]) == 0  # fmt: skip
    where = ["made", "--model", "tests.test_import:net", "--data", "data.safetensors"]
    capsys.readouterr()
    assert main(["report", *where]) == 0
    assert capsys.readouterr().out.startswith("4 inputs in 2 rounds -> made/report.html (")
    page = (files / "made" / "report.html").read_text(encoding="utf-8")
    run = page_data(page)
    names = {int(number): name for number, name in run["clients"]["names"].items()}
    assert names == dict(enumerate((*NAMES, "dave")))
    assert "b<b>" not in page
    assert [(section["method"], section["round"], section["inputs"]) for section in run["traces"]] == [
        ("provfl", number, [0, 1, 2, 3]) for number in (2, 1)
    ]
    for shown in run["traces"]:
        for at in range(4):
            assert main(["trace", *where, "--json", "--round", str(shown["round"]), "--input", str(at)]) == 0
            answer = json.loads(capsys.readouterr().out)
            said = answer["methods"][0]
            assert [names[shown["clients"][place]] for place in shown["top"][at]] == [
                client["name"] for client in said["clients"]
            ]
            assert shown["value"][at] == pytest.approx([client["contribution"] for client in said["clients"]], rel=2e-3)
            assert run["labels"][shown["prediction"][at]] == answer["prediction"]
            if shown["round"] == 2:
                assert max(answer["probabilities"].values()) == pytest.approx(
                    run["inputs"]["probability"][at], abs=1e-4
                )
                profile = run["layers"]["inputs"][str(at)]
                assert names[profile["client"]] == said["clients"][0]["name"]
                carried = {layer["layer"]: layer["of_best_client"] for layer in said["layers"]}
                assert dict(zip(run["layers"]["layers"], profile["value"], strict=True)) == pytest.approx(
                    carried, rel=2e-3, abs=1e-6
                )
    right = [
        labelled == predicted
        for section in run["traces"]
        for labelled, predicted in zip(section["label"], section["prediction"], strict=True)
    ]
    assert [row["accuracy"] for row in run["history"]] == [np.mean(right[4:]), np.mean(right[:4])]
    assert run["participation"]["status"] == [["trained", None]] * 2 + [["trained"] * 2, [None, "trained"]]
    save_file({"inputs": data()["inputs"]}, "data.safetensors")
    assert main(["report", *where, "--round", "1", "--out", "page.html"]) == 0
    run = page_data(Path("page.html").read_text(encoding="utf-8"))
    assert [section["round"] for section in run["traces"]] == [1]
    assert run["history"] == []
    assert run["clients"]["share"] is run["clients"]["suspicion"] is None
    for options, answer in (
        (where[:1], "--model"), (where[:3], "--data"), ([*where, "--round", "3"], "there are: 1, 2"),
        (["made", *where], "give it alone"),
    ):  # fmt: skip
        assert main(["report", *options]) == 2
        assert answer in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("fusion", [["median"], ["trimmed_mean", "fraction=0.34"], ["geometric_median"]])
def test_other_fusions_are_inverted_exactly(fusion: list[str], files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments("--fusion", *fusion, "--mismatch", "fusion")) == 0
    stored = read_round(files / "made" / "rounds", 1)
    if fusion[0] == "median":
        stack = torch.stack([load_file(f"{name}.safetensors")["logits.weight"] for name in "abc"])
        torch.testing.assert_close(stored.weights()["logits.weight"], stack.median(0).values)
    capsys.readouterr()
    where = ["--model", "tests.test_import:net", "--data", "data.safetensors", "--json"]
    assert main(["trace", "made", *where]) == 0  # conservation holds, or this would fail
    assert len(json.loads(capsys.readouterr().out)["methods"][0]["clients"]) == 3


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        (["--data", "data.safetensors"], "the model has to be given"),
        (["--model", "tests.test_import:net"], "the inputs have to be given"),
        (["--model", "lenet", "--data", "data.safetensors"], "28 pixels or more, not 8"),
        (["--model", "tests.test_import:other", "--data", "data.safetensors"], "is not the model that was recorded"),
        (["--model", "lenett", "--data", "data.safetensors"], "did you mean lenet"),
        (["--model", "tests.test_import:nett", "--data", "data.safetensors"], "cannot be imported"),
        (["--model", "tests.test_import:data", "--data", "data.safetensors"], "no torch.nn.Module"),
        (["--model", "tests.test_import:net", "--data", "before.safetensors"], "no tensor `inputs`"),
        (["--model", "tests.test_import:net", "--data", "data.safetensors", "--image", "x.png"], "is not known"),
        (["--model", "tests.test_import:net", "--data", "data.safetensors", "--input", "4"], "inputs 0 to 3"),
    ],
)
def test_a_recorded_federation_needs_model_and_inputs(
    options: list[str], answer: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments()) == 0
    capsys.readouterr()
    assert main(["trace", "made", *options]) == 2
    assert answer in capsys.readouterr().err


def one_logit() -> nn.Module:
    """A model of one logit, for the next test."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 1))


def test_a_model_of_one_logit_has_two_classes(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {name: tensor.clone() for name, tensor in one_logit().state_dict().items()}
    for name in ("before", "after", "a"):
        save_file(before, f"{name}.safetensors")
    save_file({"inputs": torch.ones(2, 1, 8, 8), "labels": torch.tensor([0, 1])}, "data.safetensors")
    assert main(arguments(clients=("a=a.safetensors:1",))) == 0
    capsys.readouterr()
    assert (
        main(["trace", "made", "--model", "tests.test_import:one_logit", "--data", "data.safetensors", "--json"]) == 0
    )
    answer = json.loads(capsys.readouterr().out)
    z = float(one_logit()(torch.ones(1, 1, 8, 8)))
    assert max(answer["probabilities"].values()) == pytest.approx(1 / (1 + math.exp(-abs(z))), abs=1e-6)


def test_what_is_written_down_is_read_back(tmp_path: Path) -> None:
    assert read_recorded(tmp_path) is None
    federation: dict[str, Any] = {"clients": {3: "ß", 0: "a"}, "examples": {3: 1, 0: 2}}
    for recorded in (
        RecordedFederation("flower", **federation),
        RecordedFederation("import", **federation, labels=("x",), fusion=("krum", "a=1")),
    ):
        write_recorded(tmp_path / "new", recorded)
        assert read_recorded(tmp_path / "new") == recorded
    (tmp_path / "new" / "recorded.json").write_text(json.dumps({"format": 9}))
    assert main(["trace", str(tmp_path / "new")]) == 1
    assert np.all([path.name == "recorded.json" for path in (tmp_path / "new").iterdir()])


@pytest.mark.slow
def test_figures_of_a_recorded_federation(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments()) == 0
    with_labels = ["--model", "tests.test_import:net", "--data", "data.safetensors"]
    for kind, more in (("heatmap", []), ("ranking", ["--input", "2"]), ("accuracy", ["--round", "1"])):
        assert main(["figure", "made", kind, *with_labels, *more, "--out", f"{kind}.svg"]) == 0
    save_file({"inputs": data()["inputs"]}, "bare.safetensors")
    without = ["--model", "tests.test_import:net", "--data", "bare.safetensors"]
    assert main(["figure", "made", "ranking", *without, "--out", "bare.svg"]) == 0
    for kind, options, reason in (
        ("labels", with_labels, "a server does not know what labels"),
        ("accuracy", without, "the labels of the inputs are not known"),
        ("heatmap", [], "--model"),
        ("heatmap", [*with_labels, "--round", "7"], "not kept; there are: 1"),
    ):
        capsys.readouterr()
        assert main(["figure", "made", kind, *options, "--out", "no.svg"]) == 2
        assert reason in capsys.readouterr().err
        assert not Path("no.svg").exists()


@pytest.mark.slow
def test_figures_call_recorded_clients_by_their_names(files: Path) -> None:
    assert main(arguments()) == 0
    options = argparse.Namespace(
        round=None, model="tests.test_import:net", data="data.safetensors", target=None, tokenizer=None
    )
    opened, shown = traced(Path("made"), options)
    assert shown == "4 inputs in 1 round"
    names = [tick.get_text() for tick in draw(opened, "ranking", 1).axes[1].get_yticklabels()]
    assert sorted(names) == sorted(NAMES)
    assert [tick.get_text() for tick in draw(opened, "heatmap").axes[0].get_yticklabels()] == list(NAMES)


@pytest.mark.slow
def test_a_client_cannot_write_to_the_terminal_or_a_spreadsheet_by_its_name(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("\x1b[31mred\x1b[2J", "=cmd|' /C calc'!A0", "a\u202eb\nqqq")
    assert main(arguments()) == 0
    recorded = read_recorded(files / "made")
    assert recorded is not None
    write_recorded(files / "made", replace(recorded, clients=dict(enumerate(names))))
    stored = files / "made" / "rounds" / "0001" / "round.json"
    content = {
        key: value for key, value in json.loads(stored.read_text()).items() if key not in ("sha256", "names", "source")
    }
    stored.write_text(json.dumps(content | {"format": 2}))  # of a time when the recording alone had the names
    capsys.readouterr()
    where = ["trace", "made", "--model", "tests.test_import:net", "--data", "data.safetensors"]
    assert main([*where, "--without", "x"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    for more in ([], ["--json"], ["--verify", "--without", "0"], ["--out", "a.csv"], ["--out", "a.parquet"]):
        assert main([*where, *more]) == 0
        answer = capsys.readouterr()
        said += answer.out + answer.err
    said += (files / "a.csv").read_text()
    said += "".join(pd.read_parquet(files / "a.parquet")["client_name"].dropna())
    assert not any(order in said for order in ("\x1b", "\u202e", "\nqqq"))
    assert "␛[31mred" in said
    assert "'=cmd" in (files / "a.csv").read_text()
    assert ",=cmd" not in (files / "a.csv").read_text()


def together(files: Path, calls: list[list[str]]) -> list[int]:
    """The exit codes of several imports that start at the same moment."""
    start, codes = threading.Barrier(len(calls)), [-1] * len(calls)

    def call(at: int) -> None:
        start.wait()
        codes[at] = main(calls[at])

    threads = [threading.Thread(target=call, args=(at,)) for at in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return codes


def pair(folder: str) -> list[list[str]]:
    """Two imports of rounds that do not follow each other, with other clients in another order."""
    first = tuple(f"{n}={f}.safetensors:{k}" for n, f, k in zip(NAMES, "abc", EXAMPLES, strict=True))
    second = tuple(
        f"{n}={f}.safetensors:{k}" for n, f, k in zip(("dora", "carol", "emil"), "abc", EXAMPLES, strict=True)
    )
    return [
        arguments("--round", str(number), "--out", folder, clients=clients)
        for number, clients in ((1, first), (5, second))
    ]


def named(folder: Path, number: int) -> dict[str, int]:
    """The examples of each client in a round, by the name that it has in the recording."""
    recorded, stored = read_recorded(folder), read_round(folder / "rounds", number)
    assert recorded is not None
    assert [recorded.clients[client] for client in stored.clients] == list(stored.names)
    return {recorded.clients[client]: count for client, count in zip(stored.clients, stored.examples, strict=True)}


@pytest.mark.slow
def test_imports_at_once_into_one_folder_lose_no_name(files: Path) -> None:
    for turn in range(12):
        folder = f"made {turn}"
        assert together(files, pair(folder)) == [0, 0]
        assert named(files / folder, 1) == dict(zip(NAMES, EXAMPLES, strict=True))
        assert named(files / folder, 5) == {"dora": 10, "carol": 20, "emil": 30}
        assert sorted(path.name for path in (files / folder).iterdir()) == ["recorded.json", "rounds"]


def test_an_import_waits_until_the_other_has_written_its_names(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = pair("made")
    begun, commit = threading.Event(), imported.commit_round
    other = threading.Thread(target=lambda: begun.wait() and main(second))
    other.start()

    def slow(*args: Any, **named: Any) -> Any:
        done = commit(*args, **named)
        if args[1] == 1:  # its round is there, its names are not
            begun.set()
            other.join(timeout=1)
            assert other.is_alive()
        return done

    monkeypatch.setattr(imported, "commit_round", slow)
    assert main(first) == 0
    other.join()
    assert named(files / "made", 1) == dict(zip(NAMES, EXAMPLES, strict=True))
    assert named(files / "made", 5) == {"dora": 10, "carol": 20, "emil": 30}


def test_an_import_of_the_same_round_at_once_is_refused_and_harms_nothing(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sorted(together(files, [arguments("--round", "1"), arguments("--round", "1")])) == [0, 2]
    error = capsys.readouterr().err
    assert "has it already: another number, or another --out" in error
    assert "delete" not in error
    assert named(files / "made", 1) == dict(zip(NAMES, EXAMPLES, strict=True))


def test_names_of_an_import_that_was_killed_are_in_its_round(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = pair("made")
    with monkeypatch.context() as patched:
        patched.setattr(imported, "write_recorded", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(first) == 130
    assert not (files / "made" / "recorded.json").exists()
    where = ["--model", "tests.test_import:net", "--data", "tests.test_import:data", "--json"]
    capsys.readouterr()
    assert main(["trace", "made", *where]) == 0
    traced = json.loads(capsys.readouterr().out)["methods"][0]["clients"]
    assert {client["name"] for client in traced} == set(NAMES)
    assert main(second) == 0
    assert named(files / "made", 1) == dict(zip(NAMES, EXAMPLES, strict=True))
    assert named(files / "made", 5) == {"dora": 10, "carol": 20, "emil": 30}


def test_names_that_contradict_each_other_and_damage_are_found(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for call in pair("made"):
        assert main(call) == 0
    where = ["trace", "made", "--model", "tests.test_import:net", "--data", "tests.test_import:data"]
    path = files / "made" / "recorded.json"
    whole = path.read_text()
    recorded = read_recorded(files / "made")
    assert recorded is not None
    clients = {**recorded.clients, 0: recorded.clients[1], 1: recorded.clients[0]}
    for change, words in (
        (whole.replace("alice", "alicf"), "recorded.json cannot be read (it is damaged"),
        (whole.replace('"sha256"', '"sha257"'), "recorded.json cannot be read (it is damaged"),
        (whole.replace('"format": 2', '"format": 1'), "recorded.json cannot be read (it is damaged"),
        (None, "calls client 0 'alice', recorded.json or another round 'b<b>'"),
    ):
        if change is None:
            write_recorded(files / "made", replace(recorded, clients=clients))
        else:
            assert change != whole
            path.write_text(change)
        capsys.readouterr()
        assert main([*where, "--round", "1"]) == 1
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
    path.write_text(whole)
    folder = files / "made" / "rounds" / "0005" / "global.safetensors"
    folder.write_bytes(folder.read_bytes()[:-1] + b"!")
    assert main(where) == 1
    assert "delete" not in capsys.readouterr().err  # nobody trains the round of others again


def test_recordings_of_a_time_before_checksums_are_read(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments()) == 0
    for path, number in ((files / "made" / "recorded.json", 1), (files / "made" / "rounds/0001/round.json", 2)):
        content = json.loads(path.read_text())
        for name in ("sha256", "names", "source") if number == 2 else ("sha256",):
            del content[name]
        path.write_text(json.dumps(content | {"format": number}))
    where = ["trace", "made", "--model", "tests.test_import:net", "--data", "tests.test_import:data", "--json"]
    capsys.readouterr()
    assert main(where) == 0
    traced = json.loads(capsys.readouterr().out)["methods"][0]["clients"]
    assert {client["name"] for client in traced} == set(NAMES)
    assert main(pair("made")[1]) == 0
    assert read_round(files / "made" / "rounds", 1).names == ()
    recorded = read_recorded(files / "made")
    assert recorded is not None
    assert recorded.clients == dict(enumerate((*NAMES, "dora", "emil")))


def test_nothing_is_imported_into_the_folder_of_a_run(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "made" / ".hydra").mkdir(parents=True)
    assert main(arguments()) == 2
    assert "--out: made is the folder of a run" in capsys.readouterr().err


def test_strange_files_in_a_recording_are_left_alone(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rounds = files / "made" / "rounds"
    rounds.mkdir(parents=True)
    for name in (".DS_Store", "._0001", "Thumbs.db", "0002~", "0003", "12", "٠٠٠٤"):
        (rounds / name).write_text("")
    (rounds / "lost+found").mkdir()
    assert main(arguments()) == 0
    assert stored_rounds(rounds) == [1]
    assert len(list(rounds.iterdir())) == 9
    assert main(arguments("--round", "3")) == 1
    assert "0003 is in the way of round 3: not a folder" in capsys.readouterr().err
