"""Recorded federations with models and data as Hugging Face and Lightning give them: terminal, tables, JSON, page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from provfl_cli.cli import main
from provfl_cli.provenance.settings import PRESETS

from . import recorded_apps as apps
from .recorded_apps import CLIENTS, TEXTS, Giving, point_share, recorded, spearman, text_network, texts, without

APPS = "tests.recorded_apps:"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"word{number}" for number in range(4, apps.VOCABULARY))]


def hub_texts() -> datasets.Dataset:
    """What `--data` calls: texts as the library `datasets` has them, with a column that no model takes."""
    rows = {name: value.tolist() for name, value in texts().items()}
    features = datasets.Features(
        {
            "input_ids": datasets.Sequence(datasets.Value("int64")),
            "attention_mask": datasets.Sequence(datasets.Value("int64")),
            "label": datasets.ClassLabel(names=["bad", "good", "odd"]),
            "idx": datasets.Value("int64"),
        }
    )
    columns = {"input_ids": rows["input_ids"], "attention_mask": rows["attention_mask"], "label": rows["labels"]}
    return datasets.Dataset.from_dict({**columns, "idx": list(range(TEXTS))}, features)


def hub_splits() -> datasets.DatasetDict:
    return datasets.DatasetDict(train=hub_texts(), test=hub_texts())


def nested() -> dict[str, Any]:
    named = texts()
    return {"inputs": {name: named[name] for name in ("input_ids", "attention_mask")}, "labels": named["labels"]}


@pytest.fixture(scope="module")
def text_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recorded federation of texts, its files, a network's folder, a tokenizer and tables of texts."""
    place = tmp_path_factory.mktemp("texts")
    recorded(place, text_network(), apps.cross_entropy, apps.text_share, 0.1)
    text_network().save_pretrained(place / "network")
    text_network().config.save_pretrained(place / "settings")
    save_file(texts(), place / "texts.safetensors")
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save(str(place / "tokenizer.json"))
    rows = zip(texts()["input_ids"].tolist(), texts()["attention_mask"].tolist(), strict=True)
    written = [" ".join(WORDS[token] for token, seen in zip(*row, strict=True) if seen) for row in rows]
    pd.DataFrame({"text": written, "label": texts()["labels"].tolist()}).to_parquet(place / "texts.parquet")
    return place


@pytest.fixture(scope="module")
def point_places(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Recorded federations of networks that put out so many numbers."""
    places = {}
    for width in (1, 2, 3, 6):
        places[width] = tmp_path_factory.mktemp(f"points{width}")
        share = point_share(lambda x, width=width: (x[:, :width] * 1.5).sin())
        recorded(places[width], Giving(lambda z: z, width), apps.squares, share, 0.05)
    return places


def trace(place: Path, model: str, data: str, *more: str) -> int:
    return main(["trace", str(place / "made"), "--model", model, "--data", data, *more])


def answer(capsys: pytest.CaptureFixture[str], place: Path, model: str, data: str, *more: str) -> dict[str, Any]:
    capsys.readouterr()
    assert trace(place, model, data, "--json", *more) == 0
    read: dict[str, Any] = json.loads(capsys.readouterr().out)
    return read


def contributions(read: dict[str, Any]) -> dict[str, float]:
    return {client["name"]: client["contribution"] for client in read["methods"][0]["clients"]}


WAYS = {
    "a function that returns a dict": ("text_network", "texts"),
    "inputs in a mapping of their own": ("text_network", "nested"),
    "a LightningModule by its class": ("Lightning", "texts"),
    "a function that returns the class": ("lightning_class", "texts"),
    "a data loader": ("text_network", "batches"),
    "a data set of dicts": ("text_network", "Items"),
    "a data set of the hub's library": ("text_network", "hub_texts"),
    "a network's folder, a file": ("hf:{}/network", "{}/texts.safetensors"),
    "a folder without weights": ("hf:{}/settings", "{}/texts.safetensors"),
    "a table of texts": ("text_network", "{}/texts.parquet --tokenizer {}/tokenizer.json"),
}


@pytest.fixture(scope="module")
def expected(text_place: Path) -> dict[str, Any]:
    """What the text of number 4 has, by the plainest way; asked once."""
    out = text_place / "expected.json"
    assert trace(text_place, f"{APPS}text_network", f"{APPS}texts", "--input", "4", "--out", str(out)) == 0
    read: dict[str, Any] = json.loads(out.read_text())
    return read


@pytest.mark.slow
@pytest.mark.parametrize("way", list(WAYS)[1:])
def test_every_way_to_give_model_and_data_has_the_same_answer(
    way: str, text_place: Path, expected: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = (part.replace("{}", str(text_place)) for part in WAYS[way])
    model = model if ":" in model else APPS + model
    own = data if data.startswith("/") else (APPS if hasattr(apps, data) else "tests.test_recorded_models:") + data
    read = answer(capsys, text_place, model, own.split(" ")[0], *own.split(" ")[1:], "--input", "4")
    assert contributions(read) == pytest.approx(contributions(expected), rel=1e-4)
    assert list(read["probabilities"].values()) == pytest.approx(list(expected["probabilities"].values()), abs=1e-5)
    if data == "hub_texts":
        assert read["label"] == ["bad", "good", "odd"][int(expected["label"])]
        assert "--data: idx is no argument of the model: left out" in read["notes"]
    else:
        assert read["label"] == expected["label"]
    if data == "Items":
        assert "--data: the first 2,000 of 5,000 inputs were read, at most 2,000" in read["notes"]
    if "parquet" in data:
        assert read["text"].startswith("word")


def log_probabilities(place: Path, left_out: int | None) -> Tensor:
    """By hand: log-probabilities of the texts by the global model without a client."""
    network = text_network()
    network.load_state_dict(without(place, left_out))
    named = texts()
    with torch.no_grad():
        logits = network(input_ids=named["input_ids"], attention_mask=named["attention_mask"]).logits
    return logits.double().log_softmax(1)


@pytest.mark.slow
def test_leaving_clients_out_by_hand_agrees(text_place: Path) -> None:
    """The measured effects are those worked by hand; the ranking of `faithful` follows them."""
    out = text_place / "all.parquet"
    methods = ["--method", "faithful", "leave_one_out"]
    where = (text_place, f"{APPS}Lightning", f"{APPS}texts", "--inputs", "all", *methods, "--out", str(out))
    assert trace(*where) == 0
    table = pd.read_parquet(out)
    whole = log_probabilities(text_place, None)
    predicted = whole.argmax(1, keepdim=True)
    losses = [
        (whole - log_probabilities(text_place, client)).gather(1, predicted)[:, 0] for client in range(len(CLIENTS))
    ]
    by_hand = torch.stack(losses, 1).numpy()
    for method in ("leave_one_out", "faithful"):
        rows = table[table["method"] == method]
        values = rows.pivot_table(index="input", columns="client_name", values="contribution")[list(CLIENTS)].to_numpy()
        if method == "leave_one_out":
            assert np.allclose(values, by_hand, atol=1e-6)
        assert np.mean([spearman(row, hand) for row, hand in zip(values, by_hand, strict=True)]) > 0.95
    assert (table["prediction"].to_numpy() == predicted[table["input"].to_numpy(), 0].numpy()).all()


@pytest.mark.slow
def test_every_method_and_question_takes_inputs_by_name(text_place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    methods = ("cosine", "shapley_withhold", "static_weights", "random", "data_size", "gradient_neurons", *PRESETS)
    read = answer(
        capsys, text_place, f"{APPS}Lightning", f"{APPS}batches", "--input", "2",
        "--method", *methods, "--without", "ada", "--verify",
    )  # fmt: skip
    assert {said["method"] for said in read["methods"]} == set(methods)
    for said in read["methods"]:
        assert np.isfinite([client["contribution"] for client in said["clients"]]).all()
    by_hand = log_probabilities(text_place, 0)[2].exp()
    assert list(read["what_if"][0]["probabilities"].values()) == pytest.approx(by_hand.tolist(), abs=1e-6)
    assert read["verified"][0]["cost"]["refuse"] is not None


@pytest.mark.slow
def test_a_page_shows_texts_and_what_is_in_them_does_nothing(
    text_place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "word4 \x1b[2J\u202e<script>alert(1)</script> word5"
    pd.DataFrame({"text": [hostile, "word6 word7"], "label": [0, 1]}).to_parquet(tmp_path / "x.parquet")
    where = (f"{APPS}text_network", str(tmp_path / "x.parquet"), "--tokenizer", str(text_place / "tokenizer.json"))
    assert trace(text_place, *where) == 0
    shown = capsys.readouterr().out
    assert "␛[2J" in shown
    assert "\x1b[2J" not in shown
    assert "\u202e" not in shown
    page = tmp_path / "page.html"
    arguments = ["report", str(text_place / "made"), "--model", where[0], "--data", *where[1:], "--out", str(page)]
    assert main(arguments) == 0
    content = page.read_text()
    assert "word6 word7" in content
    assert "<script>alert(1)" not in content
    assert "\x1b" not in content
    assert trace(text_place, *where, "--text", "word8 word9", "--json") == 0
    read = json.loads(capsys.readouterr().out.partition("\n")[2])
    assert read["text"] == "word8 word9"
    save_file({"input_ids": texts()["input_ids"], "\x1b[2Jmore": torch.zeros(TEXTS)}, tmp_path / "ids.safetensors")
    tokenizer = ("--tokenizer", str(text_place / "tokenizer.json"))
    decoded = answer(capsys, text_place, f"{APPS}text_network", str(tmp_path / "ids.safetensors"), *tokenizer)
    assert decoded["text"].startswith("word")
    assert "--data: ␛[2Jmore is no argument of the model: left out" in decoded["notes"]


@pytest.mark.slow
def test_adapters_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rank and scale are those of `adapter_config.json`; the base is what the folder names; only adapters are sent."""
    text_network().save_pretrained(tmp_path / "base")
    settings = peft.LoraConfig(
        task_type="SEQ_CLS", r=3, lora_alpha=12, target_modules=["q_lin", "v_lin"], init_lora_weights=False
    )
    torch.manual_seed(1)
    model = peft.get_peft_model(text_network(), settings)
    model.save_pretrained(tmp_path / "adapters")
    described = json.loads((tmp_path / "adapters" / "adapter_config.json").read_text())
    described["base_model_name_or_path"] = str(tmp_path / "base")
    (tmp_path / "adapters" / "adapter_config.json").write_text(json.dumps(described))
    before = peft.get_peft_model_state_dict(model)
    sent = [{name: t + 0.05 * torch.cos(9 * t + n) for name, t in before.items()} for n in range(len(CLIENTS))]
    apps.save(tmp_path / "before", before)
    apps.save(tmp_path / "after", apps.fused(before, sent))
    for name, tensors in zip(CLIENTS, sent, strict=True):
        apps.save(tmp_path / name, tensors)
    files = [f"{name}={tmp_path / name}.safetensors:{count}" for name, count in CLIENTS.items()]
    whole = ["--global", f"{tmp_path}/after.safetensors", "--previous", f"{tmp_path}/before.safetensors"]
    assert main(["import", *whole, "--client", *files, "--fusion", "fedavg", "--out", f"{tmp_path}/made"]) == 0
    methods = ("--method", "faithful", "cosine", "static_weights", "leave_one_out")
    read = answer(capsys, tmp_path, f"peft:{tmp_path}/adapters", f"{APPS}texts", *methods)
    peft.set_peft_model_state_dict(model, load_file(tmp_path / "after.safetensors"))
    first = {name: texts()[name][:1] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        by_hand = model.eval()(**first).logits.softmax(1)[0]
    assert list(read["probabilities"].values()) == pytest.approx(by_hand.tolist(), abs=1e-5)
    assert any("not shared" in note for note in read["notes"])


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["giving_dict", "giving_tuple"])
def test_logits_in_what_a_model_gives(
    shape: str, point_places: dict[int, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    plain = answer(capsys, point_places[3], f"{APPS}plain", f"{APPS}classes", "--input", "5")
    for data in ("pairs", "classes"):
        read = answer(capsys, point_places[3], APPS + shape, APPS + data, "--input", "5")
        assert contributions(read) == pytest.approx(contributions(plain))
        assert read["label"] == plain["label"]
    order = [answer(capsys, point_places[3], APPS + shape, f"{APPS}loader", "--input", "5") for _ in range(2)]
    assert order[0] == order[1]  # it shuffles the same way each time


@pytest.mark.slow
def test_one_logit_tells_two_classes_apart(point_places: dict[int, Path], capsys: pytest.CaptureFixture[str]) -> None:
    network = Giving(lambda z: z, 1)
    network.load_state_dict(without(point_places[1], None))
    z = network(apps.points())[:, 0].detach()
    for number in (int(z.argmax()), int(z.argmin())):
        methods = (*PRESETS, "leave_one_out", "cosine")
        read = answer(
            capsys, point_places[1], f"{APPS}one_logit", f"{APPS}signs", "--input", str(number), "--method", *methods
        )
        assert read["prediction"] == str(int(z[number] > 0))
        assert read["probabilities"]["1"] == pytest.approx(float(z[number].sigmoid()), abs=1e-5)
        for said in read["methods"]:
            assert np.isfinite([client["contribution"] for client in said["clients"]]).all()
        assert any("a single logit" in note for note in read["notes"]) == (z[number] <= 0)
    assert answer(capsys, point_places[1], f"{APPS}one_logit", f"{APPS}unlabelled", "--target", "1")["explained"] == "1"


VALUES = {  # model, data, what is typed; the value explained, of outputs and what they should be
    "the only number": (1, "one_logit", "number", (), lambda z, wanted: z[:, 0]),
    "a number": (2, "two_numbers", "two_values", ("--target", "output:1"), lambda z, wanted: z[:, 1]),
    "the error": (2, "two_numbers", "two_values", ("--target", "mse"), lambda z, wanted: (z - wanted).square().mean(1)),
    "a label": (3, "plain", "several", ("--target", "2"), lambda z, wanted: z[:, 2]),
    "an autoencoder": (6, "autoencoder", "unlabelled", ("--target", "mse"),
                       lambda z, wanted: (z - apps.points()).square().mean(1)),
    "a map": (6, "maps", "unlabelled", ("--target", "output:5"), lambda z, wanted: z.reshape(8, 6)[:, 5]),
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [name if name in ("the error", "a map") else pytest.param(name, marks=pytest.mark.slow) for name in VALUES],
)
def test_models_without_classes_are_explained_in_values(
    name: str, point_places: dict[int, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    width, model, data, target, explained = VALUES[name]
    place, rows = point_places[width], getattr(apps, data)()
    wanted = rows.get("labels") if isinstance(rows, dict) else None

    def by_hand(left_out: int | None) -> np.ndarray:
        network = getattr(apps, model)()
        network.load_state_dict(without(place, left_out))
        with torch.no_grad():
            value: np.ndarray = explained(network(apps.points()), wanted).numpy()
        return value

    whole, (first, *_) = by_hand(None), CLIENTS
    read = answer(capsys, place, APPS + model, APPS + data, *target, "--input", "3", "--without", first, "--verify")
    assert read["value"] == pytest.approx(float(whole[3]), abs=1e-5)
    assert read["what_if"][0]["values"][read["explained"]] == pytest.approx(float(by_hand(0)[3]), abs=1e-5)
    assert "probabilities" not in json.dumps(read)
    assert read["prediction"] is read["label"] is None
    out = tmp_path / "all.parquet"
    methods = ("--method", "faithful", "leave_one_out", "shapley", "cosine", "last_layer")
    assert trace(place, APPS + model, APPS + data, *target, "--inputs", "all", *methods, "--out", str(out)) == 0
    table = pd.read_parquet(out)
    assert "probability" not in table
    assert set(table["target"]) <= {"output", "mse"}
    losses = np.stack([whole - by_hand(client) for client in range(len(CLIENTS))], 1)
    rows = table[table["method"] == "leave_one_out"]
    values = rows.pivot_table(index="input", columns="client_name", values="contribution")[list(CLIENTS)].to_numpy()
    assert np.allclose(values, losses, atol=1e-5)
    capsys.readouterr()
    assert trace(place, APPS + model, APPS + data, *target, "--without", first, "--verify") == 0
    shown = capsys.readouterr().out
    assert "%" not in shown.partition("Who pushed")[0]
    assert "robabilit" not in shown
    page = tmp_path / "page.html"
    where = ["--model", APPS + model, "--data", APPS + data, *target]
    assert main(["report", str(place / "made"), *where, "--out", str(page)]) == 0
    assert f'"explains": "{"labels" if data == "several" else "values"}"' in page.read_text().replace('":"', '": "')
    assert main(["figure", str(place / "made"), "ranking", *where, "--out", str(tmp_path / "ranking.png")]) == 0


def test_the_trace_of_a_value_follows_leaving_clients_out(point_places: dict[int, Path], tmp_path: Path) -> None:
    """Withheld: with small updates the effects are those of the first order, which `faithful` gives."""
    out = tmp_path / "all.parquet"
    methods = ("--method", "faithful", "leave_one_out_withhold")
    more = ("--target", "mse", "--inputs", "all", *methods, "--out", str(out))
    assert trace(point_places[2], f"{APPS}two_numbers", f"{APPS}two_values", *more) == 0
    table = pd.read_parquet(out)
    traced, measured = (
        table[table["method"] == method].pivot_table(index="input", columns="client", values="contribution").to_numpy()
        for method in methods[1:]
    )
    assert np.mean([spearman(row, effect) for row, effect in zip(traced, measured, strict=True)]) > 0.95


MISFITS = {
    "values without a choice": (2, "two_numbers", "two_values", (), "type --target output:J (J from 0 to 1)"),
    "a number that there is not": (2, "two_numbers", "two_values", ("--target", "output:2"), "2 numbers: 0 to 1"),
    "no number": (2, "two_numbers", "two_values", ("--target", "output"), "--target output:0 to output:1"),
    "a label of values": (2, "two_numbers", "two_values", ("--target", "yes"), "type --target output:J"),
    "fractions": (1, "one_logit", "fractions", (), "two classes or a value?"),
    "no labels": (1, "one_logit", "unlabelled", (), "type --target 1 (two classes) or --target output"),
    "labels beyond the classes": (1, "one_logit", "classes", (), "holds label 2, the model tells 2 classes apart"),
    "margin of labels": (3, "plain", "several", ("--target", "margin"), "type --target LABEL, such as --target 0"),
    "no label of several": (3, "plain", "several", (), "type --target LABEL"),
    "no such label": (3, "plain", "several", ("--target", "7"), "no such label"),
    "no classes": (6, "maps", "unlabelled", (), "no classes: type --target output:J"),
    "nothing to compare with": (3, "plain", "classes", ("--target", "mse"), "to compare with"),
    "fractions for classes": (3, "plain", "number", (), "must be whole numbers"),
    "an error of one": (2, "two_numbers", "two_values", ("--target", "mse:1"), "all numbers together"),
    "a class with arguments": (3, "Asking", "classes", (), "is built by a function"),
    "no data": (3, "plain", "pictures", (), "a DataLoader, or a Dataset"),
    "a tokenizer for numbers": (3, "plain", "classes", ("--tokenizer", "{texts}/tokenizer.json"), "leave it out"),
    "no tokenizer": (3, "plain", "classes", ("--tokenizer", "nowhere"), "no such folder or file"),
    "no tokenizer in it": (3, "plain", "classes", ("--tokenizer", "{texts}/made"), "no tokenizer can be read there"),
    "no network there": (3, "hf:./nowhere", "classes", (), "--model hf:./nowhere: no such folder"),
    "no network in it": (3, "hf:{texts}/made", "classes", (), "no config.json"),
    "no adapters": (3, "peft:{texts}/network", "classes", (), "no adapter_config.json"),
    "splits": (None, "text_network", "tests.test_recorded_models:hub_splits", (), "returns the splits train, test"),
    "texts without a tokenizer": (None, "text_network", "{texts}/texts.parquet", (), "--tokenizer FOLDER_OR_FILE"),
    "no table": (None, "text_network", "{texts}/nowhere.parquet", (), "no such file"),
    "no generated texts": (None, "text_network", "texts", ("--method", "feddebug"), "choose another method"),
    "an input beyond": (None, "text_network", "Items", ("--input", "2000"), "the first 2,000 of 5,000 inputs"),
    "a text that nobody reads": (None, "text_network", "texts", ("--text", "word4"), "--tokenizer FOLDER_OR_FILE"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_is_said_in_one_line(
    name: str, text_place: Path, point_places: dict[int, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    width, model, data, more, words = MISFITS[name]
    place = text_place if width is None else point_places[width]
    model, data, *options = (part.replace("{texts}", str(text_place)) for part in (model, data, *more))
    model = model if ":" in model else APPS + model
    data = data if ":" in data or data.startswith("/") else APPS + data
    capsys.readouterr()
    assert trace(place, model, data, *options) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert words in error


def test_weights_that_neither_folder_nor_rounds_hold_are_missed(
    text_place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = [name for name in load_file(text_place / "after.safetensors") if name.startswith("classifier")]
    for file in ("before", "after", *CLIENTS):
        whole = load_file(text_place / f"{file}.safetensors")
        save_file({name: whole[name] for name in head}, tmp_path / f"{file}.safetensors")
    files = [f"{name}={tmp_path / name}.safetensors:{count}" for name, count in CLIENTS.items()]
    ends = ["--global", f"{tmp_path}/after.safetensors", "--previous", f"{tmp_path}/before.safetensors"]
    assert main(["import", *ends, "--client", *files, "--fusion", "fedavg", "--out", f"{tmp_path}/made"]) == 0
    capsys.readouterr()
    assert trace(tmp_path, f"hf:{text_place}/settings", f"{APPS}texts") == 2
    assert "the rounds do not hold them either" in capsys.readouterr().err
    assert trace(tmp_path, f"hf:{text_place}/network", f"{APPS}texts") == 0
