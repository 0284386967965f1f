"""Whole apps in the style of Flower's examples, recorded, traced in Python and by the command, and reported.

Adapters of a language model, a text classifier of Hugging Face, a body that is shared while heads stay private.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from provfl_cli.cli.report import main as report
from provfl_cli.cli.trace import main as command
from provfl_cli.provenance import Contributions, trace
from provfl_cli.provenance.outputs import tensor_of
from provfl_cli.store.rounds import Round, read_round

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
pytest.importorskip("flwr")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

from flwr.app import ArrayRecord, RecordDict  # noqa: E402
from flwr.serverapp import strategy as flower  # noqa: E402
from flwr.supercore.task_identity import TaskIdentity  # noqa: E402

from provfl_cli.flower import ProvenanceStrategy  # noqa: E402

from .flower_clients import Clients, Net, examples, quiet, reply  # noqa: E402
from .page_data import page_data  # noqa: E402

CLIENTS, ROUNDS, CLASSES, WORDS = 5, 3, 3, 60
State = dict[str, Tensor]


def texts(index: int, count: int = 24) -> tuple[Tensor, Tensor]:
    """A client's texts of 8 words, most of one class, whose words are a third of all; client -1 is the server."""
    draw = torch.Generator().manual_seed(index + 50)
    labels = torch.randint(CLASSES, (count,), generator=draw)
    if index >= 0:
        labels[: 2 * count // 3] = index % CLASSES
    common = 1 + torch.randint((WORDS - 1) // CLASSES, (count, 8), generator=draw) * CLASSES + labels[:, None]
    other = torch.randint(1, WORDS, (count, 8), generator=draw)
    return torch.where(torch.rand(count, 8, generator=draw) < 0.6, common, other), labels


def trained(model: nn.Module, data: tuple[Tensor, Tensor], rate: float) -> None:
    """Ten steps over all of a client's data; what the model keeps fixed stays so."""
    inputs, labels = data
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    model.train()
    for _ in range(10):
        optimizer.zero_grad()
        nn.functional.cross_entropy(tensor_of(model(inputs)), labels).backward()
        optimizer.step()
    model.eval()


# -- the apps --------------------------------------------------------------------------------------------------------


def base() -> nn.Module:
    """A small LLaMA with a head for classes, the same each time."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlamaConfig(**sizes, vocab_size=WORDS, num_labels=CLASSES, pad_token_id=0)
    return transformers.LlamaForSequenceClassification(config)


def with_adapters() -> nn.Module:
    """The frozen base, with adapters of rank 4 on every linear layer and a head that is trained."""
    torch.manual_seed(1)
    settings = peft.LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, task_type="SEQ_CLS", target_modules="all-linear")
    return peft.get_peft_model(base(), settings).eval()


def adapters_of(model: nn.Module) -> State:
    return {name: tensor.clone() for name, tensor in peft.get_peft_model_state_dict(model).items()}


def set_adapters(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    peft.set_peft_model_state_dict(model, {name: tensor.clone() for name, tensor in state.items()})


def lora_client(index: int, state: State) -> State:
    model = with_adapters()
    set_adapters(model, state)
    trained(model, texts(index), 2e-3)
    return adapters_of(model)


def classifier() -> nn.Module:
    """A small DistilBERT that gives a `SequenceClassifierOutput`."""
    torch.manual_seed(0)
    sizes = {"dim": 24, "hidden_dim": 48, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 16}
    config = transformers.DistilBertConfig(
        **sizes, vocab_size=WORDS, num_labels=CLASSES, pad_token_id=0, dropout=0.0, seq_classif_dropout=0.0
    )
    return transformers.DistilBertForSequenceClassification(config).eval()


def text_client(index: int, state: State) -> State:
    model = classifier()
    model.load_state_dict(state)
    trained(model, texts(index), 3e-4)
    return model.state_dict()


HEADS: dict[int, State] = {}  # what each client keeps to itself, as Flower's `Context.state` does


def with_head(index: int = 2) -> nn.Module:
    """The model of a client: its own head; the body comes from the round."""
    torch.manual_seed(0)
    net = Net()
    net.head.load_state_dict(HEADS.get(index, net.head.state_dict()))
    return net.eval()


def body_of(net: nn.Module) -> State:
    return {name: tensor.clone() for name, tensor in net.state_dict().items() if name.startswith("body.")}


def body_client(index: int, state: State) -> State:
    net = with_head(index)
    net.load_state_dict(state, strict=False)
    trained(net, examples(index), 0.01)
    HEADS[index] = {name: tensor.clone() for name, tensor in net.head.state_dict().items()}  # type: ignore[union-attr]
    return body_of(net)


def load_body(net: nn.Module, state: Mapping[str, Tensor]) -> None:
    net.load_state_dict(dict(state), strict=False)


def plain_load(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    model.load_state_dict(dict(state))


def texts_of_the_server() -> tuple[Tensor, Tensor]:
    return texts(-1)


def numbers_of_the_server() -> tuple[Tensor, Tensor]:
    inputs, labels = examples(-1)
    return inputs[:24], labels[:24]


@dataclass(frozen=True)
class App:
    """What an app's parts are called; `model` is what `--model` names, `load` puts a round into it by hand."""

    model: Callable[[], nn.Module]
    client: Callable[[int, State], State]
    sent: Callable[[nn.Module], State]
    load: Callable[[nn.Module, Mapping[str, Tensor]], None]
    data: Callable[[], tuple[Tensor, Tensor]]
    shared: tuple[str, ...]  # patterns of what clients share


APPS = {
    "lora": App(
        with_adapters, lora_client, adapters_of, set_adapters, texts_of_the_server, ("lora_", "score.modules_to_save")
    ),
    "huggingface": App(
        classifier, text_client, lambda model: model.state_dict(), plain_load, texts_of_the_server, ("",)
    ),
    "private heads": App(with_head, body_client, body_of, load_body, numbers_of_the_server, ("body.",)),
}
SLOW_BUT_ONE = [name if name == "private heads" else pytest.param(name, marks=pytest.mark.slow) for name in APPS]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The recording of each app, made when it is first asked for."""

    @cache
    def recorded(name: str) -> Path:
        app, folder = APPS[name], tmp_path_factory.mktemp(name.replace(" ", "-"))

        def answer(index: int, number: int, arrays: dict[str, np.ndarray]) -> RecordDict:
            made = app.client(index, {key: torch.from_numpy(value.copy()) for key, value in arrays.items()})
            count = 24 + 8 * index
            return reply({k: t.numpy() for k, t in made.items()}, **{"num-examples": count, "partition-id": index})

        with pytest.MonkeyPatch.context() as patch:
            for identity in ("_run_id", "_node_id", "_task_id"):
                patch.setattr(TaskIdentity, identity, 1)
            gc.freeze()
            strategy = ProvenanceStrategy(flower.FedAvg(**quiet), folder, names="partition-id", strict=True)
            strategy.start(Clients(CLIENTS, answer), ArrayRecord(app.sent(app.model())), num_rounds=ROUNDS)
        return folder

    return recorded


def left_out(app: App, stored: Round, inputs: Tensor, classes: Tensor) -> np.ndarray:
    """By how much each client's update moved the log-odds of the classes, `[inputs, clients]`, by hand."""
    model = app.model()

    def answer(state: State) -> Tensor:
        app.load(model, state)
        with torch.no_grad():
            logits = torch.cat([tensor_of(model(row[None])) for row in inputs]).double()
        chosen = nn.functional.one_hot(classes, CLASSES).bool()
        return logits[chosen] - logits.masked_fill(chosen, -torch.inf).logsumexp(1)

    weights, before, stack = dict(stored.weights()), stored.previous(), stored.client_stack()
    shares = stored.decomposition.example_weights.tolist()
    whole = answer(weights)
    columns = [
        whole
        - answer(
            {n: (w.double() - q * (stack[n][k].double() - before[n].double())).float() for n, w in weights.items()}
        )
        for k, q in enumerate(shares)
    ]
    return torch.stack(columns, 1).numpy()


def traced(app: App, stored: Round, settings: str) -> Contributions:
    return trace(app.model(), app.data()[0], stored, settings)


@pytest.mark.parametrize("name", SLOW_BUT_ONE)
def test_leaving_each_client_out_by_hand_agrees(name: str, folders: Callable[[str], Path]) -> None:
    app, stored = APPS[name], read_round(folders(name) / "rounds", ROUNDS)
    found = traced(app, stored, "faithful")
    assert found.covered == 1.0
    assert found.names == () or len(found.names) == CLIENTS
    measured = left_out(app, stored, app.data()[0], torch.as_tensor(found.predictions))
    agreement = [spearmanr(found.values[n], measured[n]).statistic for n in range(len(measured))]
    assert np.mean(agreement) > 0.95
    assert np.mean(found.values.argmax(1) == measured.argmax(1)) > 0.9
    names = [name for name, _ in app.model().named_parameters()]
    assert set(found.not_shared) == {name for name in names if not any(part in name for part in app.shared)}


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW_BUT_ONE)
def test_the_command_says_the_same_as_python(
    name: str, folders: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    app, folder = APPS[name], folders(name)
    found = traced(app, read_round(folder / "rounds", ROUNDS), "provfl")
    where = ["--model", f"{__name__}:{app.model.__name__}", "--data", f"{__name__}:{app.data.__name__}"]
    capsys.readouterr()
    assert command([str(folder), *where, "--input", "3", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["methods"][0]["clients"]
    values = {client["client"]: client["contribution"] for client in said}
    assert [values[k] for k in found.clients] == pytest.approx(found.values[3].tolist(), rel=1e-4, abs=1e-7)
    assert {client["name"] for client in said} == {f"partition-id {k}" for k in range(CLIENTS)}
    page = folder / "page.html"
    assert report([str(folder), *where, "--out", str(page)]) == 0
    shown = page_data(page.read_text(encoding="utf-8"))
    assert shown["clients"]["names"] == {str(k): f"partition-id {k}" for k in range(CLIENTS)}
    assert shown["traces"][0]["value"][3] == pytest.approx(sorted(found.values[3], reverse=True), rel=1e-3, abs=1e-6)


def test_only_adapters_are_stored(folders: Callable[[str], Path]) -> None:
    stored = read_round(folders("lora") / "rounds", ROUNDS)
    assert all("lora_" in name or "score" in name for name in stored.weights())
    whole = sum(parameter.nbytes for parameter in base().parameters())
    assert sum(tensor.nbytes for tensor in stored.weights().values()) < whole / 3


def test_private_heads_never_leave_the_client(folders: Callable[[str], Path]) -> None:
    folder = folders("private heads")
    assert len(HEADS) == CLIENTS
    assert set(read_round(folder / "rounds", ROUNDS).weights()) == {"body.weight", "body.bias"}
    stored = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    for head in HEADS.values():
        assert all(tensor.numpy().tobytes() not in stored for tensor in head.values())


def test_each_head_has_a_trace_of_its_own(folders: Callable[[str], Path]) -> None:
    stored = read_round(folders("private heads") / "rounds", ROUNDS)
    inputs, labels = numbers_of_the_server()
    first, second = (trace(with_head(k), inputs, stored, "faithful", labels) for k in (0, 1))
    assert not np.allclose(first.values, second.values, rtol=1e-2)
    assert first.residuals.max() < 1e-4
