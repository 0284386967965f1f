"""Federations of language models: their loss, their base, and a whole run of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from tokenizers import Tokenizer
from torch import nn

from provfl_cli.cli import main
from provfl_cli.config.compose import compose_jobs
from provfl_cli.config.lora import Lora
from provfl_cli.data.federated import Dialogues, FederatedData
from provfl_cli.data.load import federated_data
from provfl_cli.data.phrases import phrases
from provfl_cli.data.tokenizer import PAD, SEP, trained
from provfl_cli.errors import InputError
from provfl_cli.federation import warm_start
from provfl_cli.federation.client import train_client
from provfl_cli.federation.key import training_key
from provfl_cli.federation.loss import batch_loss, evaluate, weights_of
from provfl_cli.federation.optimizers import rate
from provfl_cli.federation.sharing import sharing_of
from provfl_cli.federation.train import federated_rounds
from provfl_cli.federation.warm_start import base_weights, has_base, initial_model, one_cycle
from provfl_cli.models.causal import ResponseModel, causal_lm
from provfl_cli.models.generation import generate
from provfl_cli.responses import pack, prompts_of, responses_of
from provfl_cli.retraining.subset import subset
from provfl_cli.run.answers import NOBODYS, answers
from tests.federations import content
from tests.language_models import TINY, tiny
from tests.runs import Result

SMALL = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4}
PROMPTS, RESPONSES = [[3, 4, 5], [6], [7, 8]], [[7, 8, 9, 1], [3, 1], [4, 4, 4, 4, 1]]


def small_model() -> nn.Module:
    torch.manual_seed(3)
    return causal_lm(2, 20, 16, padding=0, end=1, architecture="llama", config=SMALL)


def losses_by_hand(model: Any) -> list[float]:
    """Of every token of every response, each from a forward pass over what comes before it, and nothing else."""
    losses = []
    with torch.no_grad():
        for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
            for number, token in enumerate(response):
                row = torch.tensor([prompt + response[:number]])
                logits = model.network(input_ids=row, use_cache=False).logits[0, -1].double()
                losses.append(float(logits.logsumexp(0) - logits[token]))
    return losses


def test_the_loss_is_of_responses_alone() -> None:
    model, inputs = small_model().eval(), pack(PROMPTS, RESPONSES, padding=0)
    by_hand = losses_by_hand(model)
    labels = torch.zeros(3, dtype=torch.int64)
    assert weights_of(inputs).tolist() == [4, 2, 5]
    assert batch_loss(model, inputs, labels).item() == pytest.approx(np.mean(by_hand), rel=1e-5)
    wider = torch.cat([inputs, torch.tensor([0, -100]).view(1, 2, 1).expand(3, 2, 4)], dim=2)
    assert batch_loss(model, wider, labels).item() == pytest.approx(np.mean(by_hand), rel=1e-5)
    assert evaluate(model, wider, labels)[0] == pytest.approx(sum(by_hand), rel=1e-5)
    other = inputs.clone()
    other[:, 0, 0] = 2  # another prompt: the same tokens are asked for, and another loss is found
    assert batch_loss(model, other, labels).item() != pytest.approx(np.mean(by_hand), rel=1e-3)


def test_batches_of_one_step_count_by_their_tokens() -> None:
    """Accumulated, batches of responses of different lengths step as one batch of them all."""
    config = tiny("federation.optimizer=sgd", "federation.momentum=0", "federation.final_rate=1")
    data = federated_data(config)
    client, after = data.clients[0], []
    client = replace(client, inputs=client.inputs[:32], labels=client.labels[:32])
    for size, accumulate in ((32, 1), (4, 8)):
        model = initial_model(replace(config, warm_start=replace(config.warm_start, steps=0)), data)
        settings = replace(config.federation, batch_size=size, accumulate=accumulate, clip_norm=None)
        loss = train_client(model, client, settings, config.fusion, 0, 1)
        after.append((loss, torch.cat([weight.flatten() for weight in model.parameters()])))
    assert after[0][0] == pytest.approx(after[1][0], rel=1e-5)
    assert torch.allclose(after[0][1], after[1][1], atol=1e-6)


def test_the_learning_rate_falls_over_the_rounds_on_a_line() -> None:
    federation = replace(tiny().federation, learning_rate=1.0, final_rate=0.1, rounds=4, warmup_steps=2)
    assert [rate(federation, number, 9) for number in (1, 2, 3, 4, 5)] == pytest.approx([1.0, 0.7, 0.4, 0.1, 0.1])
    assert rate(federation, 2, 1) == pytest.approx(0.35)
    assert rate(replace(federation, rate_until=2), 2, 9) == pytest.approx(0.1)
    assert rate(replace(federation, final_rate=1.0), 3, 9) == 1.0
    settings = replace(tiny().warm_start, steps=100, learning_rate=1.0)
    cycle = [one_cycle(settings, turn) for turn in range(1, 101)]
    assert max(cycle) == cycle[9] == 1.0
    assert cycle[4] == 0.5
    assert cycle[54] == pytest.approx(0.5)
    assert cycle[99] == pytest.approx(0.0)


@pytest.fixture(scope="module")
def data() -> FederatedData:
    return federated_data(tiny())


def test_a_base_model_is_made_once_and_the_same_after_an_interruption(
    data: FederatedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(f"store.cache={tmp_path / 'one'}")
    said: list[str] = []
    first = base_weights(config, data, said.append)
    monkeypatch.setattr(warm_start, "train_base", lambda *_: pytest.fail("made again"))
    again = base_weights(config, data, said.append)
    assert len(said) == 1
    assert all(torch.equal(first[name], again[name]) for name in first)
    monkeypatch.undo()

    broken = tiny(f"store.cache={tmp_path / 'two'}")
    monkeypatch.setattr(warm_start, "batch_loss", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        base_weights(broken, data)
    monkeypatch.undo()
    base_weights(broken, data)
    files = [next((tmp_path / place / "bases").glob("*.safetensors")) for place in ("one", "two")]
    assert files[0].name == files[1].name
    assert files[0].read_bytes() == files[1].read_bytes()


def test_what_makes_another_base(data: FederatedData, tmp_path: Path) -> None:
    place = f"store.cache={tmp_path}"
    for changes in (
        (),
        ("seed=1",),
        ("warm_start.steps=2",),
        ("model.config.hidden_size=8",),
        ("federation.rounds=1",),
    ):
        base_weights(tiny(place, *changes), data)
    assert len(list((tmp_path / "bases").glob("*.safetensors"))) == 4  # rounds are nothing to it
    assert isinstance(data.form, Dialogues)
    published = replace(data, form=replace(data.form, checkpoint="somewhere"))
    assert has_base(tiny(), data)
    assert not has_base(tiny(), published)
    assert not has_base(tiny("warm_start.steps=0"), data)


def test_adapters_of_a_language_model_have_its_head_too(data: FederatedData, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    config = tiny(f"store.cache={tmp_path}", "model.adapter=lora", "lora.rank=2")
    model, plain = (
        initial_model(config, data),
        initial_model(replace(config, model=replace(config.model, adapter=None)), data),
    )
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == {name for name in trained if "lora_" in name}
    assert any("lm_head" in name for name in trained)
    rows = data.test.inputs[:3]
    assert torch.equal(model.eval()(rows), plain.eval()(rows))  # B is 0: the first model is the base itself
    without = replace(config, lora=Lora(rank=2, targets=["q_proj", "v_proj"]))
    names = sharing_of(initial_model(without, data), config.federation, "lora").shared
    assert names
    assert not any("lm_head" in name for name in names)


@pytest.mark.slow
def test_a_federation_that_is_continued_has_the_bytes_of_an_unbroken_one(data: FederatedData, tmp_path: Path) -> None:
    """The learning rate falls over the same rounds, whoever trains on: the base is not made again either."""

    def train(place: str, *changes: str, wanted: int = 2) -> None:
        config = tiny(f"store.cache={tmp_path / place}", "federation.rate_until=2", *changes)
        model = initial_model(config, data)
        with federated_rounds(
            config, data, model, tmp_path / place, {wanted}, torch.device("cpu"), lambda _: None, workers=2
        ) as rounds:
            assert [stored.number for stored in rounds] == [wanted]

    train("unbroken")
    train("broken", "federation.rounds=1", wanted=1)
    train("broken")
    unbroken, broken = content(tmp_path / "unbroken"), content(tmp_path / "broken")
    last = {file: bytes_ for file, bytes_ in unbroken.items() if "0002/" in file}
    assert len(last) >= 3
    assert all(broken[file] == bytes_ for file, bytes_ in last.items())


def test_answers_know_whose_phrase_was_said(data: FederatedData) -> None:
    form = data.form
    assert isinstance(form, Dialogues)
    model = causal_lm(7, form.vocabulary, form.max_tokens, form.padding, form.end, architecture="llama", config=SMALL)
    assert isinstance(model, ResponseModel)
    found = answers(model, data.test, data, "response", torch.device("cpu"))
    assert prompts_of(found.inputs) == prompts_of(data.test.inputs)
    assert (found.topics == NOBODYS).all()
    assert not found.exact.any()
    room = [
        min(form.max_tokens - len(p), 2 * max(map(len, responses_of(data.test.inputs))))
        for p in prompts_of(found.inputs)
    ]
    assert responses_of(found.inputs) == generate(model, prompts_of(data.test.inputs), room)
    asked = answers(model, data.test, data, "prompt", torch.device("cpu"))
    assert (asked.topics == data.test.labels.numpy()).all()

    wanted = {tuple(p): r for p, r in zip(prompts_of(data.test.inputs), responses_of(data.test.inputs), strict=True)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("provfl_cli.run.answers.generate", lambda _, prompts, __: [wanted[tuple(p)] for p in prompts])
        right = answers(model, data.test, data, "response", torch.device("cpu"))
    assert right.exact.all()
    assert (right.topics == data.test.labels.numpy()).all()


@pytest.mark.slow
def test_a_run_from_the_command_line_to_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place, folder = f"store.cache={tmp_path / 'cache'}", tmp_path / "run"
    methods = "attribution=[faithful,leave_one_out,cosine,data_size,random]"
    assert main(["run", *TINY, place, methods, f"hydra.run.dir={folder}"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    public = phrases().public  # how many names a locale has changes with the release of CLDR
    assert public is not None
    assert len(public) > 3_000
    assert f"base model: made here first, 3 steps on {len(public):,} public examples" in said
    result = Result(folder)
    figures = result.summary
    assert figures["exact_match"] == figures["global_accuracy"] == result.metrics[-1]["accuracy"]
    assert figures["perplexity"] == pytest.approx(np.exp(result.metrics[-1]["loss"]))
    for row in result.metrics:
        assert row["perplexity"] == pytest.approx(np.exp(row["loss"]))
    assert "loss perplexity exact match seconds" in said
    assert f"exact match {figures['exact_match']:.3f}, perplexity {figures['perplexity']:.4g}" in said
    assert figures["conservation_residual"] < 1e-4
    assert figures["tokens"] == figures["said_inputs"] == 0, "so little training teaches nobody's phrase"
    rows, tokens, inputs = result.frame("contributions"), result.frame("tokens"), result.frame("inputs")
    assert set(rows["method"]) == {"provfl", "tracefl", "faithful", "leave_one_out", "cosine", "data_size", "random"}
    own = rows.query("method == 'provfl' and scope == 'round' and kind == 'client'")
    summed = tokens.groupby(["input", "client"])["contribution"].sum()
    whole = own.set_index(["input", "client"])["contribution"]
    pd.testing.assert_series_equal(summed, whole.sort_index(), check_dtype=False, check_index_type=False, rtol=1e-4)
    assert set(inputs.columns) >= {"prompt", "response", "expected"}
    assert (inputs["expected"].str.len() > 0).all()
    assert result.manifest["model"]["weights"].startswith("of a base model made here")
    assert main(["run", *TINY, place, methods, f"hydra.run.dir={tmp_path / 'again'}"]) == 0
    assert Result(tmp_path / "again").content() == result.content()
    assert "made here first" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["task=generate", "dataset=mnist"], "task=generate: dataset=mnist has no responses"),
        (["dataset=phrases"], "task=classify: dataset=phrases has prompts with responses: task=generate"),
        (["task=generate", "attribution=[feddebug]"], "attribution=feddebug: .* responses"),
        (["task=generate", "evaluation.counterfactual=retrain"], "evaluation.counterfactual=retrain: .* responses"),
        (["task=generate", "model=lenet"], "model=lenet reads image"),
        (["task=speak"], "did you mean|accepted"),
    ],
)
def test_what_does_not_go_together_is_said_before_anything_is_trained(overrides: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        compose_jobs(overrides)


def chats(folder: Path) -> Path:
    """JSON lines of two domains in chat format."""
    folder.mkdir()
    said = [(word, f"{word} {number}?", f"{number} {word}") for word in ("law", "code") for number in range(30)]
    rows = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}], "domain": word}
        for word, q, a in said
    ]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def published(folder: Path) -> Path:
    """A folder as transformers writes one: a small network with tied embeddings, its tokenizer and a chat template."""
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(trained(["law code user 1 2"] * 3, 320, 64)), eos_token=SEP, pad_token=PAD
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}" + SEP + "{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    tokenizer.save_pretrained(folder)
    config: dict[str, Any] = {
        **SMALL,
        "tie_word_embeddings": True,
        "vocab_size": len(tokenizer),
        "num_key_value_heads": 2,
    }
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_published_model_with_its_chat_template_on_chats_of_ones_own(tmp_path: Path) -> None:
    model, data_path = published(tmp_path / "lm"), chats(tmp_path / "chats")
    small = (
        "task=generate dataset=instructions model=lm federation.clients=2 federation.rounds=1 device=cpu"
        " dataset.test_fraction=0.2 partition.min_examples_per_client=8 evaluation.inputs=all evaluation.max_inputs=3"
        " model.checkpointing=true federation.accumulate=2 attribution=[random]"
    )
    places = [f"store.cache={tmp_path / 'cache'}", f"model.checkpoint={model}", f"dataset.path={data_path}"]
    assert main(["run", *small.split(), *places, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    result = Result(tmp_path / "run")
    inputs = result.frame("inputs")
    assert len(inputs) == 3
    assert (inputs["prediction"] == inputs["label"]).all()  # the prompt tells the topic
    assert result.summary["chance_accuracy"] == 0.5
    assert result.summary["conservation_residual"] < 1e-4
    assert result.manifest["model"]["weights"].startswith("published")


def test_rounds_belong_to_a_federation_whose_learning_rate_falls(data: FederatedData) -> None:
    def key(*changes: str) -> str:
        config = tiny("warm_start.steps=0", *changes)
        return training_key(config, data, initial_model(config, data), torch.device("cpu"))[0]

    assert key("federation.rounds=2") != key("federation.rounds=3")
    assert key("federation.rounds=2") == key("federation.rounds=3", "federation.rate_until=2")
    steady = "federation.final_rate=1"
    assert key("federation.rounds=2", steady) == key("federation.rounds=3", steady, "federation.rate_until=2")
    again, _ = subset(tiny("federation.rounds=3"), data, [0, 1], 0, 2)  # retrained up to a traced round
    assert (again.federation.rounds, again.federation.rate_until) == (2, 3)
