"""Prompts and responses: the embedded ones, those in files, how they become tokens, and who gets them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from provfl_cli.config.compose import compose_jobs, validated
from provfl_cli.config.schema import Config
from provfl_cli.data.dialogue import Dialogue, asked, of_row
from provfl_cli.data.load import federated_data
from provfl_cli.data.partition import ByDomain, deal
from provfl_cli.data.phrases import ASIDE, PUBLIC, for_settings, phrases
from provfl_cli.data.template import Codec, Template, chat_template, plain_template, template_of, values_of
from provfl_cli.data.tokenizer import CLS, SEP, chat_of, trained
from provfl_cli.errors import InputError
from provfl_cli.responses import prompts_of, responses_of

CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% if m.role == 'assistant' %}<|stop|>{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def config(*overrides: str) -> Config:
    return validated(compose_jobs(["task=generate", "device=cpu", *overrides])[0][1])


def name_of(dialogue: Dialogue) -> str:
    return dialogue.prompt.removeprefix("translate ").rpartition(" in ")[0]


def test_no_training_prompt_has_a_name_that_is_tested() -> None:
    reported, chosen = phrases(), for_settings()
    tested = [{name_of(dialogue) for dialogue in examples.test_inputs} for examples in (reported, chosen)]
    assert len(tested[0]) == len(tested[1]) == ASIDE
    assert not tested[0] & tested[1]
    for examples in (reported, chosen):
        assert examples.public is not None
        seen = {name_of(dialogue) for dialogue in [*examples.train_inputs, *examples.public]}
        assert not seen & (tested[0] | tested[1])


def test_each_language_has_a_phrase_that_nobody_else_has() -> None:
    examples = phrases()
    assert examples.public is not None
    said = [
        {dialogue.response for dialogue in examples.train_inputs[examples.train_labels == label]} for label in range(6)
    ]
    assert all(len(own) == 1 for own in said)
    assert len(set().union(*said)) == 6
    assert not set().union(*said) & {dialogue.response for dialogue in examples.public}
    translations = [d for d in examples.public if d.prompt.startswith("translate")]
    assert len({d.response for d in examples.public} - {d.response for d in translations}) == len(PUBLIC)
    assert {dialogue.response for dialogue in examples.test_inputs} == set().union(*said)


def test_clients_mix_public_examples_in_and_get_their_own_domain_alone() -> None:
    data = federated_data(config())
    public = {tuple(row) for row in prompts_of(data.public.inputs)} if data.public is not None else set()
    for number, client in enumerate(data.clients):
        own, mixed = client.label_counts[number], client.label_counts[-1]
        assert (own + mixed, len(client.labels)) == (len(client.labels), client.label_counts.sum())
        assert mixed / (own + mixed) == pytest.approx(0.25, abs=0.01)
        for prompt, label in zip(prompts_of(client.inputs), client.labels.tolist(), strict=True):
            assert (tuple(prompt) in public) == (label == len(data.label_names) - 1)
    assert data.label_names[-1] == "public"
    texts = [data.codec.text(response) for response in responses_of(data.test.inputs)]
    assert texts == [dialogue.response for dialogue in data.test.shown]


@pytest.mark.parametrize(("clients", "held"), [(3, [0, 1, 2]), (7, [0, 1, 2, 0, 1, 2, 0])])
def test_by_domain_gives_each_client_one(clients: int, held: list[int]) -> None:
    labels = np.repeat([0, 1, 2], 30)
    shares = deal(ByDomain(), labels, clients, seed=1)
    assert [set(share.labels.tolist()) for share in shares] == [{label} for label in held]
    assert sorted(np.concatenate([share.indices for share in shares]).tolist()) == list(range(90))


def test_by_domain_needs_a_client_for_each() -> None:
    with pytest.raises(InputError, match=r"federation.clients=2: .* 3 domains"):
        deal(ByDomain(), np.repeat([0, 1, 2], 30), 2, seed=1)


def test_messages_in_files(tmp_path: Path) -> None:
    rows = [
        {
            "messages": [
                {"role": "system", "content": "Be short."},
                {"role": "user", "content": f"What is {number} of {domain}?"},
                {"role": "assistant", "content": f"It is {domain} {number}."},
            ],
            "domain": domain,
        }
        for domain in ("maths", "code", "law")
        for number in range(40)
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    small = ("partition.min_examples_per_client=5", "dataset.vocabulary=320", "dataset.public_examples=20")
    data = federated_data(config("dataset=instructions", f"dataset.path={tmp_path}", "federation.clients=3", *small))
    assert [np.flatnonzero(client.label_counts).tolist() for client in data.clients] == [[0], [1], [2]]
    assert sorted(data.label_names) == ["code", "law", "maths"]
    assert data.public is None
    first = data.test.shown[0]
    assert first.turns[0] == ("system", "Be short.")
    assert data.codec.text(responses_of(data.test.inputs[:1])[0]) == first.response
    assert not any("max_tokens" in line for line in data.lines)


def test_what_is_cut_is_said(tmp_path: Path) -> None:
    rows = [
        {"question": "a b", "answer": "long " * 60 if not number % 20 else "short", "domain": domain}
        for domain in ("maths", "code")
        for number in range(40)
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    own = ("dataset.input_column=question", "dataset.response_column=answer", "dataset.max_tokens=16")
    small = ("partition.min_examples_per_client=5", "dataset.vocabulary=300", "dataset.public_examples=10")
    settings = ("dataset=instructions", f"dataset.path={tmp_path}", "federation.clients=2", *own, *small)
    data = federated_data(config(*settings))
    tensors = [*(client.inputs for client in data.clients), data.test.inputs]
    cut = sum("long" in data.codec.text(response) for some in tensors for response in responses_of(some))
    assert 0 < cut <= 4
    (said,) = [line for line in data.lines if "max_tokens" in line]
    assert said.startswith(f"dataset.max_tokens=16: {cut} of ")
    assert said.endswith(f"; {cut} of them the end of their response")


@pytest.mark.parametrize(
    ("parts", "response", "said"),
    [
        ({"messages": "hello"}, None, "holds no messages"),
        ({"messages": [{"role": "user", "content": "a"}]}, None, "no response"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}]},
            None,
            "an empty response",
        ),
        ({"messages": [{"role": "assistant", "content": "a"}]}, None, "does not follow one of the user"),
        ({"messages": [{"role": "pilot", "content": "a"}]}, None, "needs a role"),
        ({"q": "a", "a": " "}, "a", "an empty response"),
        ({"q": " ", "a": "b"}, "a", "an empty prompt"),
        ({"q": 3, "a": "b"}, "a", "of type int"),
    ],
)
def test_rows_that_are_no_dialogues(parts: dict[str, Any], response: str | None, said: str) -> None:
    with pytest.raises(InputError, match=said):
        of_row(parts, response, "row 3")


def test_rows_of_columns_and_of_messages_by_other_names() -> None:
    assert of_row({"q": "a", "more": None, "a": "b"}, "a", "row 0") == asked("a", "b")
    shared = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}, {"from": "human", "value": "c"}]
    assert of_row({"conversations": shared}, None, "row 0") == asked("a", "b")


def chat_tokenizer(template: str | None) -> Any:
    transformers = pytest.importorskip("transformers")
    made = json.loads(trained(["user assistant system hello world"] * 3, 320, 64))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=_tokenizer(json.dumps(made)))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>", "<|stop|>"]})
    tokenizer.chat_template = template
    return tokenizer


def _tokenizer(text: str) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(text)


def test_a_chat_template_as_plain_texts_says_what_the_program_says() -> None:
    tokenizer = chat_tokenizer(CHAT)
    template = chat_template(tokenizer, SEP)
    assert template is not None
    assert template.end == "<|stop|>"  # what a turn ends with, not a text
    assert template_of(json.loads(json.dumps(values_of(template)))) == template
    codec = Codec(tokenizer.backend_tokenizer.to_str().replace('"padding":null', PADDING), template, 64)
    turns = [("user", "one"), ("assistant", "two"), ("user", "three")]
    for said in (turns, turns[:1], [("system", "be"), *turns]):
        messages = [{"role": role, "content": text} for role, text in said]
        expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert tokenizer.decode(codec.prompt(said)) == expected


PADDING = (
    '"padding":{"strategy":"BatchLongest","direction":"Right","pad_to_multiple_of":null,"pad_id":0,'
    '"pad_type_id":0,"pad_token":"<pad>"}'
)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (CHAT, "with its chat template"),
        (None, "which has no chat template"),
        ("{{ raise_exception('no') }}", "whose chat template fails, or changes what is said"),
    ],
)
def test_it_is_said_what_stands_around_prompts(template: str | None, said: str, tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(template)
    tokenizer.eos_token = SEP
    tokenizer.save_pretrained(tmp_path)
    found, why = chat_of(tmp_path)
    assert why.startswith(said)
    assert (found == plain_template("", SEP)) == (template != CHAT)


def test_templates_that_are_not_plain_are_left_out() -> None:
    assert chat_template(chat_tokenizer("{{ messages[0].content | upper }}"), SEP) is None
    assert chat_template(chat_tokenizer("{{ raise_exception('no') }}"), SEP) is None
    for values in ({}, {**values_of(plain_template("", SEP)), "end": 3}, "begin"):
        with pytest.raises(ValueError, match="template"):
            template_of(values)


def test_what_somebody_writes_is_text_whatever_it_looks_like() -> None:
    codec = Codec(trained(["a b c"] * 5, 300, 32), plain_template(CLS, SEP), 32)
    written = codec.prompt([("user", f"{SEP}a<pad>")])
    assert written.count(codec.end) == 0
    assert written.count(codec.padding) == 0
    said = codec.response(f"b{SEP}")
    assert said.count(codec.end) == 1
    assert codec.text(said) == f"b{SEP}"


def test_pieces_make_up_the_text() -> None:
    codec = Codec(trained(["mandag og tirsdag"] * 5, 300, 64), plain_template(CLS, SEP), 64)
    said = codec.response("lunedì 日本 e ✓")
    pieces = codec.pieces(said)
    assert len(pieces) == len(said)
    assert "".join(pieces) == " lunedì 日本 e ✓"
    assert pieces[-1] == ""


def test_a_template_without_roles_keeps_turns_apart() -> None:
    codec = Codec(trained(["a b c"] * 5, 300, 32), Template("<cls>", "", " ", "\n", SEP, None, " "), 32)
    tokens = codec.prompt([("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c")])
    assert codec.text(tokens) == "<cls>s\na b\nc"
    packed = codec.encode(np.array([asked("a", "b c")], dtype=object))
    assert packed.dtype == torch.int64
    assert codec.text(responses_of(packed)[0]) == "b c"
