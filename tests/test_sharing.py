"""Sharing part of a model: what is sent, stored and fused, what is frozen, and what stays with each client."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import RecordDict
from torch import nn

import provfl_cli.federation.round as rounds
from provfl_cli.config import schema
from provfl_cli.config.validate import provenance_preset
from provfl_cli.data.federated import FederatedData
from provfl_cli.errors import InputError
from provfl_cli.federation import site
from provfl_cli.federation.client import train_client
from provfl_cli.federation.flower import app
from provfl_cli.federation.key import training_key
from provfl_cli.federation.loss import evaluate
from provfl_cli.federation.private import begin_private, private_folder, read_private
from provfl_cli.federation.sharing import Sharing, freeze, sharing_of
from provfl_cli.fusion.fedavg import FedAvg
from provfl_cli.fusion.fedprox import FedProx
from provfl_cli.fusion.scaffold import Scaffold
from provfl_cli.models.lenet import lenet
from provfl_cli.models.torchvision import resnet18
from provfl_cli.store.rounds import Round
from tests.federations import CPU, content, make_config, make_data, make_model, train

LINEAGE = replace(provenance_preset("provfl"), scope="lineage")
HEAD = {"logits.weight", "logits.bias"}
NORM = {f"norm.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}


def shared(model: nn.Module, share: Any, **changes: Any) -> Sharing:
    return sharing_of(model, make_config(share=share, **changes).federation, None)


def folder_of(stored: Round) -> Path:
    return stored.folder.parent.parent


def names_in(stored: Round) -> set[str]:
    """The names of all tensors that a round's files hold, whatever stands before them."""
    files = [stored.weights(), stored.previous(), stored.client_stack(), stored.server_state()]
    files += [stored.next_server_state(), stored.corrections(), *stored.bases().values()]
    return {name.rpartition("/")[2] for file in files for name in file}


def test_words_and_patterns_tell_a_model_apart() -> None:
    model = make_model()
    names = set(model.state_dict())
    assert shared(model, None).whole
    assert shared(model, "all").whole
    body = shared(model, "body")
    assert (set(body.shared), set(body.private), body.frozen) == (names - HEAD, HEAD, ())
    head = shared(model, "head")
    assert (set(head.shared), head.private, set(head.frozen)) == (HEAD, (), names - HEAD)
    norms = shared(model, ["!norms"])
    assert (set(norms.shared), set(norms.private)) == (names - NORM, NORM)
    mixed = shared(model, ["hidden.*", "head", "!*.bias"])
    assert set(mixed.shared) == {"hidden.weight", "logits.weight"}
    assert set(mixed.private) == names - set(mixed.shared)
    with pytest.raises(InputError, match=r"hiden\.\* fits no tensor of the model"):
        shared(model, ["hiden.*"])
    with pytest.raises(InputError, match="shares no tensor that is trained"):
        shared(model, ["norm.running_*"])
    with pytest.raises(InputError, match="nothing is private"):
        shared(model, "head", head_epochs=1)
    with pytest.raises(InputError, match=r"federation\.share="):
        make_config(share=[""])


def test_heads_and_norms_of_the_models_of_pictures() -> None:
    assert set(shared(lenet(1, 10, 28), "body").private) == {"fc3.weight", "fc3.bias"}
    model = resnet18(channels=1, classes=10, image_size=28)
    assert set(shared(model, "body").private) == {"fc.weight", "fc.bias"}
    norms = {
        f"{name}.{tensor}"
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for tensor in module.state_dict()
    }
    assert len(norms) == 100  # 20 of them, those of the shortcuts included
    assert set(shared(model, ["!norms"]).private) == norms


def test_what_is_tied_is_shared_together() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    with pytest.raises(InputError, match=r"1\.weight is tied"):
        shared(model, ["0.*"])


def test_a_training_that_shares_all_keeps_its_key() -> None:
    """Caches of former versions stay valid: what is not set is in no key."""
    model, data = make_model(), make_data()
    plain = training_key(make_config(), data, model, CPU)
    assert plain[0] == training_key(make_config(share="all"), data, model, CPU)[0]
    assert not {"adapter", "sharing"} & set(plain[1]["determined by"])  # type: ignore[call-overload]
    assert not {"share", "head_epochs"} & set(plain[1]["determined by"]["federation"])  # type: ignore[index]
    others = {"body": {}, "head": {}, "first": {"share": "body", "head_epochs": 1}}
    keys = {training_key(make_config(**{"share": name, **more}), data, model, CPU)[0] for name, more in others.items()}
    assert len({*keys, plain[0]}) == 4


def by_hand(data: FederatedData, config: schema.Config, private: set[str]) -> tuple[dict, list[dict]]:
    """FedPer and FedBN with nothing of the federation's: a model a client, of which the shared tensors are averaged."""
    models = [make_model() for _ in data.clients]
    counts = torch.tensor([len(client.labels) for client in data.clients], dtype=torch.float64)
    for number in range(1, config.federation.rounds + 1):
        for model, client in zip(models, data.clients, strict=True):
            train_client(model, client, config.federation, FedAvg(), config.seed, number)
        states = [model.state_dict() for model in models]
        for name in states[0].keys() - private:
            stack = torch.stack([state[name].double() for state in states])
            mean = (stack * (counts / counts.sum()).view(-1, *(1,) * (stack.dim() - 1))).sum(0)
            for state in states:
                state[name].copy_(mean.round() if not state[name].is_floating_point() else mean)
    return models[0].state_dict(), [model.state_dict() for model in models]


@pytest.mark.slow
@pytest.mark.parametrize(("share", "private"), [("body", HEAD), (["!norms"], NORM)])
def test_private_tensors_are_trained_by_each_client_and_kept_by_it_alone(
    share: Any, private: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FedPer and FedBN, against a loop of models of their own; nothing private is sent, or is in a round."""
    data, sent = make_data(), list[set[str]]()
    written = site.write_trained

    def watched(task: site.TrainTask, trained: site.TrainedClient) -> None:
        sent.append(set(trained.weights))
        written(task, trained)

    monkeypatch.setattr(site, "write_trained", watched)
    config = replace(make_config(share=share, clients=4), store=schema.Store("cache", "all", 20))
    config = replace(config, engine=schema.Engine("local", 1))
    monkeypatch.setattr("provfl_cli.federation.engine.can_fork", lambda: False)  # here, where it is seen
    stored, _ = train(tmp_path, config, {1, 2, 3}, data)
    assert len(sent) == 12
    assert all(not private & names for names in sent)
    assert all(not private & names_in(part) for part in stored)
    whole, own = by_hand(data, config, private)
    for name, tensor in stored[-1].weights().items():
        assert torch.allclose(tensor.double(), whole[name].double(), atol=1e-5), name
    accuracies = []
    for client, state in zip(data.clients, own, strict=True):
        kept = read_private(private_folder(folder_of(stored[-1]), 3), client.id)
        assert kept is not None
        assert set(kept) == private
        assert all(torch.allclose(kept[name].double(), state[name].double(), atol=1e-5) for name in private)
        model = make_model()
        model.load_state_dict(state)
        accuracies.append((evaluate(model, data.test.inputs, data.test.labels)[1] / 300, len(client.labels)))
    mean = sum(accuracy * count for accuracy, count in accuracies) / sum(count for _, count in accuracies)
    assert stored[-1].metrics.accuracy == pytest.approx(mean, abs=0.004)


@pytest.mark.slow
def test_a_frozen_body_stays_as_it_was_and_a_round_is_as_large_as_the_head(tmp_path: Path) -> None:
    """Linear probing: no weight and no statistic of the body changes, and neither is stored."""
    model = make_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    (stored,), _ = train(tmp_path, make_config(share="head"), model=model)
    assert names_in(stored) == HEAD
    assert set(stored.checksums) >= {"clients.safetensors"}
    head = sum(tensor.nbytes for name, tensor in before.items() if name in HEAD)
    size = sum(file.stat().st_size for file in stored.folder.glob("*.safetensors"))
    assert size < (4 + 2) * head + 5 * 2048  # of four clients, before and after
    config, data = make_config(share="head"), make_data()
    at_work = site.make_site(config, data, model, dict(stored.weights()))
    at_work.train(site.TrainTask(1, 0, "", 0), None)
    after = at_work.model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before.keys() - HEAD)
    assert not any(torch.equal(after[name], before[name]) for name in HEAD)


def test_the_head_first_then_the_body() -> None:
    """FedRep: in each part of a round only that part's tensors move."""
    model, data = make_model(), make_data()
    config = make_config(share="body", head_epochs=2, momentum=0.0)
    sharing = sharing_of(model, config.federation, None)
    published = {name: model.state_dict()[name].clone() for name in sharing.shared}
    seen: list[dict[str, torch.Tensor]] = []
    real = site.train_client

    def watched(model: nn.Module, *arguments: Any, **named: Any) -> float:
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        loss = real(model, *arguments, **named)
        seen.append({name: tensor - before[name] for name, tensor in model.state_dict().items()})
        return loss

    at_work = site.make_site(config, data, model, published)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site, "train_client", watched)
        at_work._trained(data.clients[0], site.TrainTask(1, 0, "", 0), None)
    weights = {name for name, _ in model.named_parameters()}
    moved = [{name for name, change in part.items() if name in weights and change.any()} for part in seen]
    assert moved[0] == HEAD
    assert {"hidden.weight", "convolution.weight"} <= moved[1] <= weights - HEAD
    assert all(weight.requires_grad for weight in at_work.model.parameters())


def test_fedprox_does_not_pull_on_what_is_private() -> None:
    """A pull so strong that nothing it has hold of would move."""
    data, config = make_data(), make_config(share="body", fusion=FedProx(mu=20.0), momentum=0.0)
    free, held = make_model(), make_model()
    train_client(free, data.clients[0], config.federation, config.fusion, 0, 1)
    train_client(held, data.clients[0], config.federation, config.fusion, 0, 1, private=HEAD)
    start = make_model().state_dict()
    moved = [float((model.state_dict()["logits.weight"] - start["logits.weight"]).norm()) for model in (free, held)]
    assert moved[1] > 2 * moved[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"share": "body"},
        {"share": ["!norms"], "clients_per_round": 2, "stragglers": 0.5, "straggler_delay": 1},
        {"share": "body", "momentum": 0.0, "fusion": Scaffold()},
        {"share": "body", "head_epochs": 1, "provenance": LINEAGE},
    ],
)
def test_continued_after_a_kill_the_bytes_are_those_of_an_unbroken_run(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the private tensors' rename and the round's own, when the former are a round ahead."""
    train(tmp_path / "unbroken", make_config(rounds=3, **changes))
    train(tmp_path / "broken", make_config(rounds=1, **changes))

    def killed(*_: Any, **__: Any) -> Round:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rounds, "commit_round", killed)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "broken", make_config(rounds=3, **changes))
    train(tmp_path / "broken", make_config(rounds=3, **changes))
    unbroken, broken = content(tmp_path / "unbroken"), content(tmp_path / "broken")
    last = {file: data for file, data in unbroken.items() if "0003/" in file}
    assert any("private/0003" in file for file in last)
    assert all(broken[file] == data for file, data in last.items())
    assert not any("private/0001" in file or "private/0002" in file for file in unbroken)


def test_frozen_is_what_nobody_trains() -> None:
    model = make_model()
    model.norm.requires_grad_(False)  # of a model of one's own
    sharing = shared(model, "body")
    assert set(sharing.frozen) == NORM
    freeze(model, sharing)
    held = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert held == {"norm.weight", "norm.bias"}


def test_no_message_of_flower_holds_what_is_private(tmp_path: Path) -> None:
    """What is sent to a worker and what it answers; the numbers are those of the local engine."""
    config, data = make_config(share="body"), make_data()
    model = make_model()
    sharing = sharing_of(model, config.federation, None)
    published = {name: model.state_dict()[name].clone() for name in sharing.shared}
    task = site.TrainTask(1, 0, "", 0, None, private=str(begin_private(tmp_path, 1)))
    sent = app.with_task(RecordDict({}), task, app.arrays(published), None)
    answer = app._train(site.make_site(config, data, make_model(), {}), sent)
    for message in (sent, answer):
        names = {name for record in message.array_records.values() for name in record}
        assert names == set(sharing.shared)
    kept = read_private(Path(str(task.private)), data.clients[0].id)
    here = site.make_site(config, data, make_model(), published)
    local = here.train(replace(task, private=str(begin_private(tmp_path / "local", 1))), None)
    assert kept is not None
    assert set(kept) == HEAD
    assert all(torch.equal(kept[name], here.model.state_dict()[name]) for name in HEAD)
    returned = app.trained(answer).weights
    assert all(torch.equal(tensor, returned[name]) for name, tensor in local.weights.items())


def test_private_tensors_are_kept_round_by_round(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"federation\.mode=fedbuff: what is private to clients"):
        train(tmp_path, make_config(share="body", clients_per_round=2, mode="fedbuff"))


def test_private_tensors_do_not_go_to_a_cluster(tmp_path: Path) -> None:
    config = make_config(share="body", engine=schema.Engine("flower", address="127.0.0.1:6379"))
    with pytest.raises(InputError, match=r"engine\.address=127\.0\.0\.1:6379: what is private to clients"):
        train(tmp_path, config)
