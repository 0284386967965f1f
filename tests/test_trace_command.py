"""`provfl trace` on real runs: it says what the run says, and what it says of clients left out is so."""

from __future__ import annotations

import io
import json
import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from rich.console import Console

from provfl_cli.cli import main
from provfl_cli.config.stored_config import stored_config
from provfl_cli.data import load
from provfl_cli.data.picture_facts import PictureFacts
from provfl_cli.reporting.prediction import as_json, show
from provfl_cli.results.answer import Agreement, Effect, Layer, MethodAnswer, Prediction, RankedClient, WhatIf
from provfl_cli.run.inputs import UNKNOWN, TracedInputs
from provfl_cli.run.open_run import open_run
from provfl_cli.run.query import _doubts
from provfl_cli.store.rounds import read_round

PICTURES = shlex.split(
    "dataset=mnist model=lenet federation.rounds=2 federation.clients=6 partition.max_examples_per_client=150"
    " federation.learning_rate=0.05 dataset.max_test_examples=150 evaluation.max_inputs=40 evaluation.inputs=all"
    " provenance.rounds=all attribution=[data_size]"
)
TEXTS = shlex.split(
    "dataset=languages model=gpt_mini partition=iid federation.clients=3 federation.rounds=1 federation.local_epochs=1"
    " partition.max_examples_per_client=150 dataset.max_test_examples=60 dataset.public_examples=300"
    " dataset.vocabulary=400 evaluation.max_inputs=20 evaluation.inputs=all"
)


def made_run(factory: pytest.TempPathFactory, name: str, overrides: list[str]) -> Path:
    base = factory.mktemp(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        patch.delenv("PROVFL_CACHE", raising=False)
        assert main(["run", *overrides, f"hydra.run.dir={base / 'run'}"]) == 0
    return base / "run"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_run(tmp_path_factory, "pictures", PICTURES)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_run(tmp_path_factory, "texts", TEXTS)


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["trace", *arguments, "--json"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def assert_as_recorded(said: dict[str, Any], recorded: pd.DataFrame) -> None:
    """The clients of one method's answer are those of its rows in `contributions.parquet`."""
    rows = recorded[recorded["kind"] == "client"].set_index("client")
    scale = rows["contribution"].abs().max()
    assert len(said["clients"]) == len(rows)
    for client in said["clients"]:
        row = rows.loc[client["client"]]
        assert client["contribution"] == pytest.approx(row["contribution"], rel=1e-3, abs=2e-4 * scale)
        assert client["share"] == pytest.approx(row["share"], abs=1e-3)
    order = [client["contribution"] for client in said["clients"]]
    assert order == sorted(order, reverse=True)
    # neighbours that rounding may swap are left out
    gaps = -np.diff(rows["contribution"].sort_values(ascending=False))
    if gaps.min(initial=math.inf) > 1e-3 * scale:
        assert [client["rank"] for client in said["clients"]] == sorted(rows["rank"])


@pytest.mark.slow
def test_it_agrees_with_the_run_on_pictures(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded = pd.read_parquet(pictures / "contributions.parquet")
    inputs = pd.read_parquet(pictures / "inputs.parquet")
    for number in (1, 2):
        for row in inputs[inputs["round"] == number].iloc[::20].itertuples():
            answer = asked(
                capsys, str(pictures), "--round", str(number), "--input", str(row.input),
                "--method", "provfl", "tracefl", "data_size",
            )  # fmt: skip
            assert (answer["prediction"], answer["label"]) == (str(row.prediction), str(row.label))
            assert list(answer["probabilities"].values()) == pytest.approx(row.probabilities.tolist(), abs=1e-4)
            here = recorded[(recorded["round"] == number) & (recorded["input"] == row.input)]
            assert [said["method"] for said in answer["methods"]] == ["provfl", "provfl", "tracefl", "data_size"]
            for said in answer["methods"]:
                chosen = (here["method"] == said["method"]) & (here["scope"] == said["scope"])
                assert_as_recorded(said, here[chosen])


@pytest.mark.slow
def test_it_agrees_with_the_run_on_texts(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded = pd.read_parquet(texts / "contributions.parquet")
    for row in pd.read_parquet(texts / "inputs.parquet").iloc[::10].itertuples():
        answer = asked(capsys, str(texts), "--input", str(row.input), "--method", "provfl", "tracefl")
        assert answer["text"] == row.text
        own = asked(capsys, str(texts), "--text", row.text)  # the same text, as if it were new
        assert own["label"] is None
        assert own["probabilities"] == pytest.approx(answer["probabilities"], abs=1e-6)
        for said in answer["methods"]:
            here = recorded[(recorded["method"] == said["method"]) & (recorded["scope"] == said["scope"])]
            here = here[here["input"] == row.input]
            assert_as_recorded(said, here)


@pytest.mark.slow
def test_layers_add_up_and_neurons_are_those_of_the_run(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded = pd.read_parquet(pictures / "layers.parquet")
    number = int(recorded["input"].iloc[0])
    said, whole = asked(capsys, str(pictures), "--round", "1", "--input", str(number))["methods"]
    assert (said["scope"], whole["scope"]) == ("round", "lineage")
    here = recorded[(recorded["round"] == 1) & (recorded["input"] == number)]
    assert {layer["layer"]: layer["active_neurons"] for layer in said["layers"]} == dict(
        here[["layer", "active_neurons"]].drop_duplicates().itertuples(index=False)
    )
    best = said["clients"][0]["contribution"]
    assert sum(layer["of_best_client"] for layer in said["layers"]) == pytest.approx(best, rel=1e-5)


@pytest.mark.slow
def test_clients_left_out_by_hand(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = asked(capsys, str(pictures), "--without", "0,3", "--verify")
    stored = read_round(pictures / "rounds", 2)
    opened = open_run(pictures)
    left = [slot for slot, client in enumerate(stored.clients) if client not in (0, 3)]
    counts = torch.tensor([stored.examples[slot] for slot in left], dtype=torch.float64)
    fused = {
        name: torch.tensordot(counts / counts.sum(), stored.client_stack()[name][left].double(), 1).float()
        for name in stored.weights()
    }
    opened.model.load_state_dict(fused)
    with torch.no_grad():
        expected = opened.model(opened.inputs.first(2).inputs).softmax(1)[0].tolist()
    refused, withheld = answer["what_if"]
    assert (refused["kind"], withheld["kind"]) == ("refuse", "withhold")
    assert refused["without"] == ["0", "3"]
    assert list(refused["probabilities"].values()) == pytest.approx(expected, abs=1e-5)
    assert withheld["probabilities"] != refused["probabilities"]
    # what `--verify` says of one client is what `--without` it gives
    first = answer["verified"][0]
    alone = asked(capsys, str(pictures), "--without", first["client"])["what_if"][0]
    explained = answer["explained"]
    assert first["probability"]["refuse"] == pytest.approx(alone["probabilities"][explained])
    before = answer["probabilities"][explained]
    assert first["cost"]["refuse"] == pytest.approx(math.log(before / first["probability"]["refuse"]), abs=1e-6)
    agreement = answer["agreement"][0]
    assert [each["scope"] for each in answer["agreement"]] == ["round", "lineage"]
    ranked = [client["name"] for client in answer["methods"][0]["clients"]]
    cost = {effect["client"]: effect["cost"]["refuse"] for effect in answer["verified"]}
    pushed = {client["name"]: client["contribution"] for client in answer["methods"][0]["clients"]}
    noise = [0.05 * max(map(abs, values.values())) for values in (pushed, cost)]
    count = [name for name in ranked if abs(pushed[name]) > noise[0] or abs(cost[name]) > noise[1]]
    pairs = [
        [a, b]
        for at, a in enumerate(count)
        for b in count[at + 1 :]
        if abs(pushed[a] - pushed[b]) > noise[0] and abs(cost[a] - cost[b]) > noise[1]
    ]
    assert sorted(agreement["other_way_around"]) == sorted([a, b] for a, b in pairs if cost[b] > cost[a])
    assert (agreement["pairs"], agreement["clients"]) == (len(pairs), len(count))
    assert answer["conclusion"].startswith({True: "confirmed:", False: "", None: "not decided"}[answer["confirmed"]])
    assert -1 <= agreement["rank_correlation"] <= 1


@pytest.mark.slow
def test_another_label_another_input_another_picture(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    traced = pd.read_parquet(pictures / "inputs.parquet")
    opened = open_run(pictures)
    picture = tmp_path / "picture.png"
    picture.write_bytes(traced["picture"].iloc[0])
    index = str(traced["input"].iloc[0])
    known, new = asked(capsys, str(pictures), "--input", index), asked(capsys, str(pictures), "--image", str(picture))
    assert new["probabilities"] == known["probabilities"]
    assert new["methods"][0]["clients"][0]["contribution"] == known["methods"][0]["clients"][0]["contribution"]
    assert new["label"] is None
    counts = opened.label_counts
    for client in known["methods"][0]["clients"]:
        assert client["examples"][known["explained"]] == counts[client["client"]][int(known["explained"])]
    other = "3" if known["prediction"] != "3" else "4"
    aimed = asked(capsys, str(pictures), "--input", index, "--target", other)
    assert aimed["explained"] == other
    assert aimed["prediction"] == known["prediction"]
    assert aimed["methods"][0]["clients"] != known["methods"][0]["clients"]
    # one of the test set that the run has not traced
    test, _ = load.test_set(stored_config(pictures, trust=False).config)
    at = next(at for at, index in enumerate(test.indices) if index not in set(traced["input"]))
    untraced = asked(capsys, str(pictures), "--input", str(test.indices[at]))
    assert untraced["label"] == str(int(test.labels[at]))


@pytest.mark.slow
def test_a_picture_unlike_the_training_data_is_said_before_its_ranking(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    traced = pd.read_parquet(pictures / "inputs.parquet")["picture"]
    mine = tmp_path / "mine"
    mine.mkdir()
    for number, picture in enumerate(traced[:20]):
        (mine / f"{number}.png").write_bytes(picture)
        assert not open_run(pictures).inputs.picture(mine / f"{number}.png").warnings
    inverted = Image.fromarray(255 - np.asarray(Image.open(io.BytesIO(traced.iloc[0]))))
    inverted.save(mine / "inverted.png")
    answer = asked(capsys, str(pictures), "--image", str(mine / "inverted.png"))
    assert answer["warnings"][0].startswith("inverted.png is unlike the training data: its brightness is ")
    assert answer["warnings"][0].endswith("inverted, it would be like them")
    assert main(["trace", str(pictures), "--image", str(mine / "inverted.png")]) == 0
    assert capsys.readouterr().out.startswith("warning: inverted.png is unlike the training data")
    assert main(["trace", str(pictures), "--inputs", str(mine), "--out", str(tmp_path / "t.csv")]) == 0
    assert "warning: 1 of 21 pictures are unlike the training data, such as inverted.png" in capsys.readouterr().err
    assert not asked(capsys, str(pictures))["warnings"]
    # a run from before there were such statistics
    opened = open_run(pictures)
    old = replace(opened.inputs, pictures=PictureFacts())
    assert torch.equal(old.picture(mine / "0.png").inputs, opened.inputs.picture(mine / "0.png").inputs)
    assert not old.picture(mine / "inverted.png").warnings


def test_predictions_near_chance_are_said_of_inputs_of_ones_own() -> None:
    own = TracedInputs(torch.zeros(2, 1), np.arange(2), np.full(2, UNKNOWN), (None, None), ("a", "b"), new=True)
    sure, guess = np.eye(10)[0] * 0.9 + 0.01, np.full(10, 0.1)
    assert _doubts(own, np.stack([sure, guess])) == (
        "1 of 2 predictions, such as that of b: the prediction is near chance (10.0%, guessing has 10.0%): its ranking "
        "explains a guess",
    )
    assert not _doubts(own, np.stack([sure, sure]))
    assert not _doubts(replace(own, new=False), np.stack([guess, guess]))
    assert not _doubts(own, np.array([[0.6, 0.4], [0.3, 0.7]]))
    assert _doubts(own, np.array([[0.54, 0.46], [0.3, 0.7]]))


@pytest.mark.slow
def test_many_inputs_make_one_table(pictures: Path, texts: Path, tmp_path: Path) -> None:
    traced = pd.read_parquet(pictures / "inputs.parquet").query("round == 2").head(3)
    for row in traced.itertuples():
        folder = tmp_path / "mine" / str(row.label)
        folder.mkdir(parents=True, exist_ok=True)
        coloured = Image.open(io.BytesIO(row.picture)).convert("RGB")
        coloured.save(folder / f"{row.input}.png")
    out = tmp_path / "table.parquet"
    assert main(["trace", str(pictures), "--inputs", str(tmp_path / "mine"), "--out", str(out)]) == 0
    table = pd.read_parquet(out)
    recorded = pd.read_parquet(pictures / "contributions.parquet")
    for row in traced.itertuples():
        chosen = table[(table["name"] == f"{row.label}/{row.input}.png") & (table["scope"] == "round")]
        here = chosen.set_index("client")["contribution"]
        there = recorded.query(
            f"round == 2 and method == 'provfl' and scope == 'round' and input == {row.input} and kind == 'client'"
        )
        expected = there.set_index("client")["contribution"]
        assert here.to_numpy() == pytest.approx(expected.loc[here.index].to_numpy(), rel=1e-3, abs=1e-3)
        own = table[table["name"] == f"{row.label}/{row.input}.png"]
        assert set(own["label"]) == {row.label}
        names = open_run(pictures).label_names
        for number, name in (
            ("label", "label_name"),
            ("prediction", "prediction_name"),
            ("explained", "explained_name"),
        ):
            assert set(own[name]) == {names[label] for label in set(own[number])}
    assert "text" not in table
    sheet = tmp_path / "mine.csv"
    pd.DataFrame({"text": ["Peru og Danmark", "Perú y Dinamarca"]}).to_csv(sheet, index=False)
    assert main(["trace", str(texts), "--inputs", str(sheet), "--out", str(tmp_path / "t.csv")]) == 0
    rows = pd.read_csv(tmp_path / "t.csv")
    assert rows["name"].unique().tolist() == ["row 0", "row 1"]
    assert rows["label"].isna().all()
    assert rows["label_name"].isna().all()
    assert rows["text"].unique().tolist() == ["Peru og Danmark", "Perú y Dinamarca"]
    assert len(rows[rows["kind"] == "client"]) == 2 * 3


@pytest.mark.slow
def test_what_is_asked_in_vain(pictures: Path, texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, answer in (
        ([pictures, "--round", "9"], "not kept; there are: 1, 2"),
        ([pictures, "--input", "99999"], "not in the run's test set"),
        ([pictures, "--target", "cat"], "no such label"),
        ([pictures, "--without", "77"], "no such client"),
        ([pictures, "--method", "provfll"], "did you mean provfl"),
        ([pictures, "--text", "hello"], "about pictures"),
        ([pictures, "--model", "lenet"], "a run brings its own"),
        ([texts, "--image", "x.png"], "no such file"),
        ([texts, "--image", __file__], "about texts"),
        ([pictures.parent], "several runs in it"),
    ):
        capsys.readouterr()
        assert main(["trace", *map(str, arguments)]) == 2
        assert answer in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ([], "RUN comes first"),
        (["nowhere"], "no such folder"),
        (["."], "neither a run"),
        ([".", "--input", "x"], "must be a whole number"),
        ([".", "--input", "1", "--text", "a"], "one of them at a time"),
        ([".", "--inputs", "x.csv"], "--out FILE.csv"),
        ([".", "--inputs", "x.csv", "--out", "a.csv", "--json"], "one of them"),
        ([".", "--out", "a.pdf"], ".json"),
        ([".", "--without", ","], "--without ,: a name is missing"),
        ([".", "--without", "3,,7"], "--without 3,,7: a name is missing"),
        ([".", "--method", "provfl,"], "--method provfl,: a name is missing"),
        ([".", "--method", ""], "--method: is empty"),
        ([".", "--target", ""], "--target: is empty"),
        ([".", "--adapters", "products"], "--adapters products: did you mean product?"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], answer: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trace", *arguments]) == 2
    error = capsys.readouterr().err
    assert answer in error
    assert error.count("\n") == 1


def made(**changes: Any) -> Prediction:
    """An answer with ties, an unused client, and names that would move a cursor."""
    tied = [RankedClient(client, 1, 2.0, 0.4, 3, True, name=f"\x1b[31m{client}") for client in (4, 7)]
    last = RankedClient(1, 3, -1.0, 0.2, 0, False, faulty=True, also=5)
    layer = Layer("net.a.first", 3.0, 2.5, 3, 8, True)
    told = MethodAnswer(
        "provfl", "round", "centred", (*tied, last), 3, {"momentum": 1.0}, 5.0,
        (layer, replace(layer, name="net.a.last", best=-0.5)), 1,
    )  # fmt: skip
    prediction = Prediction(
        "input 3", "run", 2, "a \x1b[2Jtext", ("cat", "[bold]dog", "emu"), 2, 1, np.array([0.2, 0.7, 0.1]), (told,)
    )
    return replace(prediction, **changes)


def printed(prediction: Prediction, width: int = 80) -> str:
    out = io.StringIO()
    Console(file=out, width=width, markup=False, emoji=False, highlight=False).print(show(prediction))
    return out.getvalue()


def test_the_answer_reads_well_and_does_nothing_to_the_terminal() -> None:
    text = printed(made())
    assert "\x1b" not in text
    for part in (
        "predicted [bold]dog 70.0%", "labelled emu 10.0%: the prediction is wrong", "tied", "faulty",
        "not from these clients: momentum +1 (16.7% of all pushing)", "1 that fusion did not use", "3 of 8",
    ):  # fmt: skip
        assert part in " ".join(text.split()), part
    assert "net.a." not in text  # what all layers begin with tells nothing
    assert max(map(len, text.splitlines())) <= 80
    assert "true label not known" in printed(made(label=None))
    assert "which is right" in printed(made(label=1))


def test_a_layer_without_a_name_is_the_model_itself() -> None:
    answer = made().answers[0]
    prediction = made(answers=(replace(answer, layers=(replace(answer.layers[0], name=""), answer.layers[0])),))
    assert "(the model itself)" in printed(prediction)
    assert as_json(prediction)["methods"][0]["layers"][0]["layer"] == "(the model itself)"


def test_what_if_and_agreement_in_words() -> None:
    other = np.array([0.8, 0.1, 0.1])
    prediction = made(
        what_if=(WhatIf("refuse", ("4",), other), WhatIf("withhold", ("4",), None, "too few")),
        effects=(
            Effect("4", {"refuse": 1.9}, {"refuse": 0.1}),
            Effect("7", {"refuse": math.nan}, {"refuse": math.nan}),
        ),
        agreements=(
            Agreement("provfl", "round", "refuse", 0.5, (("4", "7"),), 3),
            Agreement("random", "round", "refuse", math.nan, (), 0),
            Agreement("tracefl", "round", "refuse", 1.0, (), 3),
        ),
    )
    text = printed(prediction, 100)
    for part in (
        "another prediction", "too few", "4 above 7", "2 of 3 pairs",
        "no rank correlation", "tracefl, fused again: agrees, ",
    ):  # fmt: skip
        assert part in text
    again = json.loads(json.dumps(as_json(prediction), default=str))
    assert again["what_if"][0]["prediction"] == "cat"
    assert again["what_if"][1]["probabilities"] is None
    assert again["agreement"][0]["other_way_around"] == [["4", "7"]]
