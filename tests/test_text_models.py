"""Text models: every architecture reads tokens alike, padding changes nothing, published weights arrive as they are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from provfl_cli.config.compose import compose_jobs
from provfl_cli.config.validate import model_option, validated
from provfl_cli.data.federated import Texts
from provfl_cli.errors import InputError
from provfl_cli.models.build import build
from provfl_cli.models.network import network_settings
from provfl_cli.run.rebuild import model_again
from tests.text_networks import FORM, SMALL, some_texts, text_model


@pytest.mark.parametrize(
    ("architecture", "padding"),
    [
        ("openai-gpt", 0),
        ("openai-gpt", 49),
        ("gpt2", 49),
        ("bert", 0),
        ("distilbert", 0),
        pytest.param("roberta", 1, marks=pytest.mark.slow),
        pytest.param("qwen2", 49, marks=pytest.mark.slow),
    ],
)
def test_padding_changes_no_logit_and_has_no_gradient(architecture: str, padding: int) -> None:
    model = build(text_model(architecture), replace(FORM, padding=padding), 5, 0).eval()
    tokens = some_texts(padding)
    together = model(tokens)
    assert together.shape == (5, 5)
    assert float(together.detach().std(0).min()) > 1e-4  # it does read the texts
    further = model(nn.functional.pad(tokens, (0, 12), value=padding))
    alone = torch.cat([model(text[None]) for text in tokens])
    assert torch.allclose(together, further, atol=1e-6)
    assert torch.allclose(together, alone, atol=1e-6)
    together[[0, 1, 3]].sum().backward()
    embedding = model.network.get_input_embeddings().weight.grad
    assert not embedding[padding].any()
    assert embedding[tokens[1]].any(1).all()


def test_weights_of_texts_come_from_the_seed_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (build(text_model("bert"), FORM, 5, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert capfd.readouterr() == ("", "")


def saved(folder: Path, architecture: str, classes: int = 3, dtype: torch.dtype = torch.float32, **form: Any) -> Any:
    """A small network written as transformers writes it; returns the network."""
    network: Any = build(text_model(architecture), replace(FORM, **form), classes, 7).network
    network.to(dtype).save_pretrained(folder)
    return network


@pytest.mark.parametrize("architecture", ["openai-gpt", "gpt2", "bert", "distilbert"])
def test_a_checkpoint_keeps_its_weights_and_gets_a_head(
    architecture: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One token more than the checkpoint knows, as an added padding; another number of classes; 16-bit weights."""
    published = saved(tmp_path, architecture, dtype=torch.bfloat16).state_dict()
    capfd.readouterr()
    form = replace(FORM, vocabulary=51, padding=50, checkpoint=str(tmp_path))
    plain = text_model(None)  # the architecture and its sizes are the checkpoint's
    model, again = (build(plain, form, 5, seed).eval() for seed in (0, 0))
    assert capfd.readouterr() == ("", "")
    weights = {name.removeprefix("network."): value for name, value in model.state_dict().items()}
    body = f"{model.network.base_model_prefix}."
    assert {name for name in weights if name.startswith(body)} == {name for name in published if name.startswith(body)}
    for name, value in weights.items():
        assert value.dtype == torch.float32
        if name.startswith(body):
            assert torch.equal(value[: len(published[name])], published[name].float()), name
    assert all(torch.equal(weight, other) for weight, other in zip(model.parameters(), again.parameters(), strict=True))
    tokens = some_texts(50)
    assert model(tokens).shape == (5, 5)
    assert torch.allclose(model(tokens)[:1], model(tokens[:1, :3]), atol=1e-6)


def test_a_head_of_as_many_classes_is_kept(tmp_path: Path) -> None:
    network = saved(tmp_path, "distilbert", classes=5)
    model = build(text_model("distilbert", config=None), replace(FORM, checkpoint=str(tmp_path)), 5, 0)
    assert torch.equal(model.network.classifier.weight, network.classifier.weight)


@pytest.mark.parametrize(
    ("form", "options", "says"),
    [
        ({}, {"architecture": "brt"}, r"model\.architecture=brt: did you mean bert"),
        ({}, {"architecture": None}, r"model\.architecture is missing"),
        ({}, {"architecture": "bert", "config": {"num_layers": 2}}, r"model\.config\.num_layers: .*num_hidden_layers"),
        ({}, {"architecture": "bert", "config": {"vocab_size": 2}}, r"model\.config\.vocab_size: follows"),
        ({}, {"architecture": "gpt2", "config": {"n_layer": "two"}}, r"model\.config=.*n_layer"),
        ({}, {"architecture": "gpt2", "config": {"n_embd": 10, "n_head": 3, "n_layer": 1}}, r"model\.config: gpt2"),
        ({"max_tokens": 600}, {}, r"dataset\.max_tokens=600: openai-gpt has positions for 512"),
        ({"max_tokens": 513}, {"architecture": "roberta", "config": SMALL["roberta"]}, r"dataset\.max_tokens=511"),
        ({}, {"architecture": "xlnet", "config": {"n_layer": 1, "d_model": 16, "n_head": 2}}, "padded on the right"),
        ({}, {"colour": 1}, r"model\.colour: .*architecture"),
    ],
)
def test_a_wrong_text_model_is_answered(form: dict[str, Any], options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        build(text_model("openai-gpt", **options), replace(FORM, **form), 5, 0)


def test_a_wrong_checkpoint_is_answered(tmp_path: Path) -> None:
    form = replace(FORM, checkpoint=str(tmp_path))
    with pytest.raises(InputError, match=r"no config\.json"):
        build(text_model("bert"), form, 5, 0)
    saved(tmp_path, "gpt2")
    with pytest.raises(InputError, match="is gpt2, not bert"):
        build(text_model("bert"), form, 5, 0)
    with pytest.raises(InputError, match=r"no weights of that shape for transformer\.h\.2.* and \d+ more"):
        build(text_model(None, config={"n_layer": 3}), form, 5, 0)
    with pytest.raises(InputError, match=r"no weights of that shape for transformer\.h\.0"):
        build(text_model(None, config={"n_embd": 32}), form, 5, 0)
    (tmp_path / "model.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match=r"model\.checkpoint=.*gpt2 cannot be built"):
        build(text_model(None), form, 5, 0)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"no weights in it \(\*\.safetensors\)"):
        build(text_model(None), form, 5, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt_mini", "gpt", "gpt2", "bert", "distilbert"])
def test_the_files_of_text_models_compose(name: str, tmp_path: Path) -> None:
    """Their optimizer is the default for text, the command line wins, and a field of the architecture can be set."""
    data = ["dataset=custom", f"dataset.path={tmp_path}", "++dataset.input=text"]
    ((_, cfg),) = compose_jobs([*data, f"model={name}", "federation.rounds=7", "+model.config.initializer_range=0.5"])
    config = validated(cfg)
    assert (config.federation.optimizer, config.federation.weight_decay) == ("adamw", 0.01)
    assert config.federation.clip_norm == 1.0
    assert config.federation.rounds == 7
    assert config.model.options["config"]["initializer_range"] == 0.5


def test_any_checkpoint_has_to_be_named(tmp_path: Path) -> None:
    data = ["dataset=custom", f"dataset.path={tmp_path}", "++dataset.input=text", "model=hf"]
    with pytest.raises(InputError, match=r"model\.checkpoint is missing"):
        compose_jobs(data)
    ((_, cfg),) = compose_jobs([*data, "model.checkpoint=some/where", "model.config={hidden_size: 16}"])
    assert validated(cfg).model.options == {"architecture": None, "config": {"hidden_size": 16}}


@pytest.mark.slow
def test_gpt_is_the_papers() -> None:
    """117 million parameters, less what a classifier has no use for."""
    ((_, cfg),) = compose_jobs(["dataset=custom", "dataset.path=.", "++dataset.input=text", "model=gpt"])
    model = build(validated(cfg).model, Texts(40478, 64, 40477), 4, 0)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(116.5, abs=0.1)


@pytest.mark.parametrize("kind", ["bert", "openai-gpt"])
def test_an_architecture_is_built_again_without_its_checkpoint(kind: str, tmp_path: Path) -> None:
    """From what a run records of it, or from the `config.json` of a folder that the user names."""
    saved(tmp_path, kind)
    form = replace(FORM, vocabulary=51, padding=50)
    asked = replace(text_model(None), checkpoint=str(tmp_path / "gone"), pretrained=True)
    started = build(asked, replace(form, checkpoint=str(tmp_path)), 5, 0)
    recorded = json.loads(json.dumps(network_settings(started)))
    for network, named in ((recorded, None), (None, str(tmp_path))):
        own = model_again(asked, network, published=True, named=named)
        assert (own.checkpoint, own.pretrained) == (None, False)
        again = build(own, form, 5, 0)
        again.load_state_dict(started.state_dict())
        tokens = some_texts(50)
        with torch.no_grad():
            assert torch.equal(started.eval()(tokens), again.eval()(tokens))
    with pytest.raises(InputError, match="--checkpoint DIR"):
        model_again(asked, None, published=True, named=None)


def test_a_checkpoint_of_the_tree_is_known_by_its_architecture() -> None:
    tree = model_option("distilbert")
    assert model_again(tree, None, published=True, named=None).options == tree.options
    with pytest.raises(InputError, match="--checkpoint DIR"):
        model_again(replace(tree, checkpoint="other/distilbert"), None, published=True, named=None)


def test_what_transformers_keeps_for_itself_is_not_taken_from_a_stored_configuration() -> None:
    stored = text_model("bert", config={"_name_or_path": "evil/net", "hidden_size": 16})
    assert model_again(stored, None, published=False, named=None).options["config"] == {"hidden_size": 16}
