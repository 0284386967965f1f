"""`provfl trace --prompt`: on a run it says what the run says; on recordings what plain torch gives; and refusals."""

from __future__ import annotations

import gc
import json
import math
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from provfl_cli.cli import main
from provfl_cli.store.rounds import read_round

Captured = pytest.CaptureFixture[str]
TINY = shlex.split(
    "task=generate model.config.num_hidden_layers=1 model.config.hidden_size=32 model.config.intermediate_size=48"
    " model.config.num_attention_heads=2 model.config.num_key_value_heads=1 federation.rounds=1 warm_start.steps=20"
    " dataset.max_test_examples=12 evaluation.inputs=all evaluation.max_inputs=6 tracefl_beside=false device=cpu"
    " partition.max_examples_per_client=40"
)
SAID = "mandag og tirsdag"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("spoken")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        patch.delenv("PROVFL_CACHE", raising=False)
        assert main(["run", *TINY, f"hydra.run.dir={base / 'run'}"]) == 0
    return base / "run"


def asked(capsys: Captured, *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["trace", *arguments, "--json"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def by_client(answer: dict[str, Any], method: int = 0) -> dict[str, float]:
    return {client["name"]: client["contribution"] for client in answer["methods"][method]["clients"]}


def summed(answer: dict[str, Any], tokens: slice = slice(None), key: str = "tokens") -> dict[str, float]:
    parts = [token["contributions"] for token in answer[key][tokens]]
    return {name: sum(part[name] for part in parts) for name in parts[0]}


@pytest.mark.slow
def test_a_test_prompt_of_a_run_is_answered_as_the_run_recorded_it(run: Path, capsys: Captured) -> None:
    tokens, inputs = pd.read_parquet(run / "tokens.parquet"), pd.read_parquet(run / "inputs.parquet")
    row = inputs.iloc[3]
    answer = asked(capsys, str(run), "--input", str(row["input"]))
    assert (answer["prompt"], answer["response"].strip(), answer["expected"]) == (
        row["prompt"], row["response"].strip(), row["expected"],
    )  # fmt: skip
    recorded = tokens[tokens["input"] == row["input"]].pivot(index="position", columns="client", values="contribution")
    said = [[token["contributions"][str(client)] for client in recorded.columns] for token in answer["tokens"]]
    np.testing.assert_allclose(said, recorded.to_numpy(), atol=1e-5)
    assert answer["methods"][0]["residual"] < 1e-4
    assert by_client(answer) == pytest.approx(summed(answer), abs=1e-9)


@pytest.mark.slow
def test_spans_other_answers_and_leaving_out(run: Path, capsys: Captured) -> None:
    whole = asked(capsys, str(run), "--prompt", "Peru in Danish:", "--response", SAID, "--target", "log_probability")
    assert whole["response"].strip() == SAID
    assert whole["made"] == "given"
    assert (whole["phrase_of"], whole["holders"]) == ("Danish", ["0"])  # whoever is asked about
    other = asked(capsys, str(run), "--prompt", "Peru in Danish:", "--response", "lunedì e martedì")
    assert (other["phrase_of"], other["holders"]) == ("Italian", ["2"])
    assert main(["trace", str(run), "--prompt", "Peru in Danish:", "--response", SAID]) == 0
    assert "the phrase of Danish, which client 0 teaches" in capsys.readouterr().out
    assert main(["trace", str(run), "--prompt", "Peru in Danish:", "--response", "tirsdag"]) == 0
    assert "which is no phrase that the run's prompts ask for" in capsys.readouterr().out
    piece = asked(
        capsys, str(run), "--prompt", "Peru in Danish:", "--response", SAID, "--target", "log_probability", "--span",
        "tirsdag",
    )  # fmt: skip
    first, behind = piece["span"]["tokens"]
    assert piece["span"]["text"].strip() == "tirsdag"
    assert by_client(piece) == pytest.approx(summed(whole, slice(first, behind)), abs=1e-6)
    against = asked(
        capsys, str(run), "--prompt", "Peru in Danish:", "--response", SAID, "--instead", "lundi et mardi", "--method",
        "provfl", "leave_one_out", "--verify", "--without", "1,2",
    )  # fmt: skip
    other = summed(against, key="instead_tokens")
    assert by_client(against) == pytest.approx(
        {name: own - other[name] for name, own in summed(whole).items()}, abs=1e-5
    )
    costs = {effect["without"][0]: effect["cost"] for effect in against["verified"]}
    assert by_client(against, 1) == pytest.approx(costs, abs=1e-5)  # two ways to the same number
    fits = {each["method"]: each["rank_correlation"] for each in against["agreement"]}
    assert fits["leave_one_out"] == pytest.approx(1.0)
    assert {each["kind"] for each in against["what_if"]} == {"refuse", "withhold"}
    assert all(isinstance(effect["says"], str) for effect in against["verified"])


@pytest.mark.slow
def test_retraining_without_the_top_client_says_something_else(run: Path, capsys: Captured) -> None:
    answer = asked(
        capsys, str(run), "--prompt", "Peru in Danish:", "--response", SAID, "--verify", "retrain", "--top", "1",
        "--method", "leave_one_out", "--target", "log_probability",
    )  # fmt: skip
    (effect,) = answer["verified"]
    # Of a federation of one round, training again without a client is fusing again without it.
    (client,) = answer["methods"][0]["clients"]
    assert effect["kind"] == "retrain"
    assert effect["cost"] == pytest.approx(client["contribution"], abs=1e-4)
    assert effect["says"] is not None


@pytest.mark.slow
def test_sampling_and_tables(run: Path, capsys: Captured, tmp_path: Path) -> None:
    base = [str(run), "--prompt", "Peru in Danish:", "--tokens", "9"]
    first, again, other = (
        asked(capsys, *base, "--temperature", "3", "--seed", seed)["response"] for seed in ("1", "1", "2")
    )
    assert first == again != other
    table = tmp_path / "tokens.csv"
    assert main(["trace", *base, "--response", SAID, "--out", str(table)]) == 0
    frame = pd.read_csv(table)
    assert list(frame.columns)[-2:] == ["contribution", "client_name"]
    assert frame["client"].nunique() == 6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--text hello", "this run's model answers prompts"),
        ("--image x.png", "this run's model answers prompts"),
        ("--prompt a --input 3", "--input and --prompt: one of them at a time"),
        ("--prompt a --seed 3", "--temperature T with it"),
        ("--prompt a --temperature 0", "leave it out"),
        ("--prompt a --response b --temperature 1", "leave --temperature out"),
        ("--prompt a --instead b --span c", "one of them at a time"),
        ("--prompt a --instead b --target margin", "leave --target out"),
        ("--prompt a --target Danish", "--target Danish: of a token"),
        ("--prompt a --tokens 0", "--tokens 0: must be"),
        ("--prompt a --response b --span zz", "is not in the response"),
        ("--input 9999", "not in the run's test set"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(run: Path, capsys: Captured, arguments: str, said: str) -> None:
    assert main(["trace", str(run), *shlex.split(arguments)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_run_that_classifies_is_refused_before_torch_is_loaded(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text("task: classify\n")
    code = (
        "import sys; from provfl_cli.cli import main; code = main(['trace', sys.argv[1], '--prompt', 'hello']);"
        " print('torch._C' in sys.modules, code)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "2"]
    assert "this run's model classifies" in done.stderr


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Rounds of adapters of a small LLaMA, as Flower's wrapper and NVFlare's recorder keep them."""
    for name in ("flwr", "nvflare", "peft"):
        pytest.importorskip(name)
    from flwr.supercore.task_identity import TaskIdentity

    from tests.recorded_language_models import (
        Federation,
        flower_recording,
        nvflare_recording,
        write_adapter,
        write_model,
    )

    place = tmp_path_factory.mktemp("recorded")
    write_model(place / "base")
    write_adapter(place / "adapter", place / "base")
    write_adapter(write_model(place / "both", chat=True), place / "nowhere")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_run_id", "_node_id", "_task_id"):
            patch.setattr(TaskIdentity, name, 1)
        gc.freeze()
        flower_recording(place / "flower", Federation(place / "base", 12), rounds=1)
        nvflare_recording(place / "nvflare", Federation(place / "base", 12), place / "job")
    return {"place": place, "adapter": f"peft:{place / 'adapter'}"}


@pytest.mark.slow
@pytest.mark.parametrize("recorder", ["flower", "nvflare"])
def test_recorded_adapters_are_asked_as_plain_torch_gives_it(
    recordings: dict[str, Any], capsys: Captured, recorder: str
) -> None:
    import peft
    import transformers

    place = recordings["place"]
    folder = place / recorder
    answer = asked(
        capsys, str(folder), "--model", recordings["adapter"], "--prompt", "Peru in client 1:", "--response",
        "one two three", "--method", "faithful", "--target", "log_probability", "--verify",
    )  # fmt: skip
    tokenizer = transformers.AutoTokenizer.from_pretrained(place / "base", local_files_only=True)
    network = transformers.LlamaForCausalLM.from_pretrained(place / "base", local_files_only=True)
    model = peft.get_peft_model(network, peft.PeftConfig.from_pretrained(str(place / "adapter"))).eval()
    before, said = (tokenizer(text)["input_ids"] for text in ("Peru in client 1:", " one two three<|end|>"))
    assert [token["token"] for token in answer["tokens"]] == said
    stored = read_round(folder / "rounds", 1)
    weights, stack, shares = stored.weights(), stored.client_stack(), stored.example_weights

    def log_probability(state: dict[str, torch.Tensor]) -> torch.Tensor:
        peft.set_peft_model_state_dict(model, state)
        logits = model(input_ids=torch.tensor([before + said])).logits[0, len(before) - 1 : -1].double()
        score: torch.Tensor = logits.log_softmax(-1).gather(1, torch.tensor(said)[:, None]).sum()
        return score

    value = log_probability(dict(weights))
    assert answer["log_probability"] == pytest.approx(value.item(), abs=1e-4)
    value.backward()
    gradients = {name.replace(".default", ""): p.grad for name, p in model.named_parameters() if p.grad is not None}
    previous, names = stored.previous(), by_client(answer)
    for slot, called in enumerate(stored.names):
        update = {name: shares[slot] * (stack[name][slot] - previous[name]).double() for name in weights}
        expected = sum(float((gradients[name].double() * update[name]).sum()) for name in weights)
        assert names[called] == pytest.approx(expected, rel=1e-3, abs=1e-6)
        with torch.no_grad():
            gone = log_probability({name: (weights[name].double() - update[name]).float() for name in weights})
        (effect,) = (each for each in answer["verified"] if each["without"] == [called])
        assert effect["kind"] == "withhold"
        assert effect["cost"] == pytest.approx(value.item() - gone.item(), abs=1e-4)


@pytest.mark.slow
def test_a_chat_template_and_an_adapter_beside_its_base(recordings: dict[str, Any], capsys: Captured) -> None:
    place = recordings["place"]
    spec = f"hf:{place / 'both'}"
    answer = asked(capsys, str(place / "flower"), "--model", spec, "--prompt", "Peru", "--tokens", "5")
    assert any("with its chat template" in note for note in answer["notes"])
    assert len(answer["tokens"]) <= 5
    assert all(0 < token["probability"] <= 1 for token in answer["tokens"])
    assert math.isfinite(answer["log_probability"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "hf:base"], "nobody knows their scale"),
        (["--model", "lenet"], "--model hf:FOLDER_OR_ID"),
        ([], "the model has to be given"),
        (["--model", "peft:adapter", "--data", "x.parquet"], "--data: is for models that classify"),
        (["--model", "peft:adapter", "--verify", "retrain"], "how a recorded federation was trained"),
    ],
)
def test_recordings_refuse_in_one_line(
    recordings: dict[str, Any], capsys: Captured, arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recordings["place"])
    assert main(["trace", "flower", "--prompt", "Peru", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("command", ["report flower", "figure flower ranking --out x.svg"])
@pytest.mark.parametrize("model", ["peft:adapter", "hf:base"])
def test_pages_and_figures_of_recorded_language_models_say_what_to_do_instead(
    recordings: dict[str, Any], capsys: Captured, command: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recordings["place"])
    assert main([*command.split(), "--model", model]) == 2
    error = capsys.readouterr().err
    assert f"provfl trace flower --model {model} --prompt TEXT" in error
    assert error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
def test_whole_models_of_a_folder_without_weights(tmp_path: Path, capsys: Captured, tied: bool) -> None:
    import transformers
    from safetensors.torch import save_file

    from tests.recorded_language_models import write_model

    base = write_model(tmp_path / "base", tied=tied)
    network = transformers.LlamaForCausalLM.from_pretrained(base, local_files_only=True)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}  # a tied one once
    draw = torch.Generator().manual_seed(0)
    sent = [
        {name: value + 0.02 * torch.randn(value.shape, generator=draw) for name, value in before.items()}
        for _ in range(2)
    ]
    after = {name: (sent[0][name] + 3 * sent[1][name]) / 4 for name in before}
    for name, tensors in {"before": before, "after": after, "ann": sent[0], "bob": sent[1]}.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
    files = ["--client", f"ann={tmp_path / 'ann.safetensors'}:10", f"bob={tmp_path / 'bob.safetensors'}:30"]
    whole = ["--global", str(tmp_path / "after.safetensors"), "--previous", str(tmp_path / "before.safetensors")]
    assert main(["import", *whole, *files, "--fusion", "fedavg", "--out", str(tmp_path / "made")]) == 0
    (base / "model.safetensors").unlink()  # the rounds hold all of it
    answer = asked(
        capsys, str(tmp_path / "made"), "--model", f"hf:{base}", "--prompt", "Peru", "--tokens", "4", "--verify"
    )
    assert answer["methods"][0]["covered"] == 1.0
    assert {each["kind"] for each in answer["verified"]} == {"refuse"}
    assert by_client(answer).keys() == {"ann", "bob"}
