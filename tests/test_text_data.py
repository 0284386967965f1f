"""Texts from every source, tokenizers trained or published, and where published files come from."""

import fnmatch
import hashlib
import json
from pathlib import Path

import httpx
import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from babel import Locale
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from provfl_cli.config import schema
from provfl_cli.config.compose import compose_jobs, validated
from provfl_cli.data import checkpoint, tokenizer
from provfl_cli.data.encoding import Encoding, text_encoding
from provfl_cli.data.examples import Examples, digest_content, fingerprint
from provfl_cli.data.languages import LOCALES, languages
from provfl_cli.data.load import federated_data, load
from provfl_cli.errors import InputError

from .text_sets import ROWS, WORDS, config, model, text_set, write

SHARED = Path(__file__).parents[2] / "shared" / "data"


# --- the embedded texts


@pytest.fixture(scope="module")
def made() -> Examples:
    return languages()


@pytest.mark.slow
def test_languages_are_what_they_say_and_the_test_is_fair(made):
    assert (len(made.train_inputs), len(made.test_inputs)) == (12_000, 3_000)
    assert np.bincount(made.train_labels).tolist() == [1200] * 10
    assert np.bincount(made.test_labels).tolist() == [300] * 10
    assert len({*made.train_inputs, *made.test_inputs}) == 15_000, "no text twice"
    assert made.origin.startswith("Babel ")
    assert "CLDR" in made.origin
    assert {"English", "German", "Norwegian Bokmål"} < set(made.label_names)
    again = languages()
    assert again.fingerprint == made.fingerprint
    assert again.train_inputs.tolist() == made.train_inputs.tolist()


AND = {"da": " og ", "de": " und ", "en": ", and ", "es": " y ", "fr": " et ", "it": " e ", "nb": " og ", "nl": " en "}
AND |= {"pt": " e ", "sv": " och "}


def three_names(made: Examples, split: str, known: list[set[str]]) -> list[tuple[int, list[str]]]:
    """Label and names of the texts of a split that come apart without doubt."""
    named = []
    texts, labels = getattr(made, f"{split}_inputs"), getattr(made, f"{split}_labels").tolist()
    for text, label in zip(texts, labels, strict=True):
        head, _, last = text.rpartition(AND[LOCALES[label]])
        names = [*head.split(", "), last]
        if len(names) == 3 and known[label].issuperset(names):
            named.append((label, names))
    assert len(named) > 0.8 * len(texts)
    return named


def test_names_of_test_texts_are_in_no_training_text_and_no_text_could_be_in_another_of_the_ten(made):
    locales = [Locale.parse(code) for code in LOCALES]
    known = [
        {*locale.territories.values(), *locale.languages.values(), *locale.currencies.values()} for locale in locales
    ]
    train, test = (three_names(made, split, known) for split in ("train", "test"))
    assert not {name for _, names in train for name in names} & {name for _, names in test for name in names}
    for label, names in [*train, *test]:
        assert [number for number in range(10) if known[number].issuperset(names)] == [label]


# --- folders and files


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.tsv", "a.jsonl", "a.json"])
def test_every_format_gives_the_same_examples_as_file_and_in_a_folder(tmp_path, name):
    rows = [*ROWS, ('a "quoted", comma\tand tab', 1), ("two\nlines – ünïcödé", 0), ("NA", 1), ("007", 0)]
    whole = text_set(write(tmp_path / name, rows))
    examples, source = load(whole, 28)
    assert sorted([*examples.train_inputs, *examples.test_inputs]) == sorted(text for text, _ in rows)
    assert examples.train_inputs.dtype == object
    assert (len(examples.train_labels), len(examples.test_labels)) == (51, 13)
    assert load(text_set(tmp_path), 28)[1].fingerprint == source.fingerprint
    reference = write(tmp_path / "reference.parquet", rows)
    assert load(text_set(reference), 28)[1].fingerprint == source.fingerprint


def test_json_lines_may_be_called_json_and_csv_may_have_a_byte_order_mark(tmp_path):
    (tmp_path / "lines.json").write_text('{"text": "one", "label": "x"}\n{"text": "two", "label": "y"}\n')
    examples, _ = load(text_set(tmp_path / "lines.json", test_fraction=0.5), 28)
    assert {*examples.train_inputs, *examples.test_inputs} == {"one", "two"}
    assert examples.label_names == ("x", "y")
    (tmp_path / "mark.csv").write_bytes(b"\xef\xbb\xbftext,label\none,0\ntwo,1\nthree,0\nfour,1\n")
    assert load(text_set(tmp_path / "mark.csv", test_fraction=0.5), 28)[0].label_names == ("0", "1")


def test_splits_and_several_columns(tmp_path):
    for split, count in (("train", 4), ("test", 2)):
        lines = [
            {"title": f"title {i}", "body": [None, "", " ", f"body {i}"][i % 4], "topic": "ab"[i % 2]}
            for i in range(count)
        ]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    examples, _ = load(text_set(tmp_path, input_column=["title", "body"], label_column="topic"), 28)
    assert examples.train_inputs.tolist() == ["title 0", "title 1", "title 2", "title 3 body 3"]
    assert examples.test_inputs.tolist() == ["title 0", "title 1"]
    assert (examples.label_names, examples.train_labels.tolist()) == (("a", "b"), [0, 1, 0, 1])


def test_fingerprints_tell_texts_apart():
    assert fingerprint(np.array(["ab", "c"], dtype=object)) != fingerprint(np.array(["a", "bc"], dtype=object))
    assert fingerprint(np.array([1, 2])) != fingerprint(np.array([2, 1]))
    digest = hashlib.sha256()
    digest_content(digest, np.array(["é"], dtype=object))
    assert digest.hexdigest() == hashlib.sha256(b"\x02" + b"\0" * 7 + "é".encode()).hexdigest()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "text,label\none,0\n  ,1\n", r"dataset.input_column=text: .*a.csv row 1 holds no text: remove it"),
        ("a.jsonl", '{"text": "x", "label": 0}\n{"text": null, "label": 1}\n', "row 1 holds no text"),
        ("a.json", '[{"text": "x", "label": 0}, {"label": 1}]', "row 1 holds no text"),
        ("a.jsonl", '{"text": 5, "label": 0}\n{"text": 6, "label": 1}\n', "row 0 holds a value of type int, no text"),
        ("a.csv", "txt,label\none,0\n", r"input_column=text: no such column in .*: did you mean txt\?"),
        ("a.tsv", "text,label\none,0\n", "no such column in .*a.tsv"),
        ("a.csv", "text,text,label\none,one,0\n", "several columns of that name"),
        ("a.csv", "text,label\none,0\ntwo\n", "a.csv: broken CSV file"),
        ("a.csv", b"text,label\n\xff\xfe,0\n", "a.csv: broken CSV file: .*UTF-?8"),
        ("a.jsonl", '{"text": "x"', "a.jsonl: broken JSON lines file"),
        ("a.json", '["x", "y"]', "a.json: broken JSON file: a list of something else"),
        ("a.json", '[{"text": "x", "label": 0}', "a.json: broken JSON file"),
        ("a.json", '[{"text": "\\ud800", "label": 0}]', "a.json: broken JSON file"),
        ("a.csv", "text,label\none,0\ntwo,\n", "no label in row 1"),
        ("a.csv", "text,label\n", "no training examples"),
        ("a.csv", "", "a.csv: broken CSV file"),
        ("a.txt", "words", "a file of another kind than parquet, csv, tsv, jsonl, json"),
        ("a.npz", "words", "a file of another kind than parquet, csv, tsv, jsonl, json"),
    ],
)
def test_what_is_wrong_with_texts_is_said_in_one_line(tmp_path, name, content, says):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=says) as caught:
        load(text_set(file), 28)
    assert "\n" not in str(caught.value)


def test_a_folder_without_texts(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").write_bytes(b"")
    with pytest.raises(InputError, match="no parquet, csv, tsv, jsonl, json files in it"):
        load(text_set(tmp_path), 28)


# --- tokenizers


TRAINED = tokenizer.trained([text for text, _ in ROWS], 400, 4096)
ENCODE = tokenizer.from_json(TRAINED)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), min_size=1, max_size=5))
def test_every_text_is_got_back_and_padded_on_the_right(texts):
    texts = [*texts, "<pad> <cls> elm<sep>"]  # what looks like a special token is text
    tokens = ENCODE(np.array(texts, dtype=object))
    vocabulary, padding = tokenizer.vocabulary_and_padding(TRAINED)
    assert tokens.dtype == torch.int64
    assert (padding, int(tokens.max()) < vocabulary) == (0, True)
    lengths = (tokens != padding).sum(1)
    assert int(lengths.max()) == tokens.shape[1], "no wider than the longest"
    for text, row, length in zip(texts, tokens, lengths.tolist(), strict=True):
        assert (row[:length] != padding).all()
        assert (row[length:] == padding).all()
        assert (int(row[0]), int(row[length - 1])) == (1, 2)
        assert Tokenizer.from_str(TRAINED).decode(row[1 : length - 1].tolist(), skip_special_tokens=False) == text
    alone = [ENCODE(np.array([text], dtype=object))[0] for text in texts]
    assert all(torch.equal(row[: len(own)], own) for row, own in zip(tokens, alone, strict=True))


def test_training_is_repeatable_and_keeps_to_its_limits():
    texts = [text for text, _ in ROWS]
    made = tokenizer.trained(texts, 300, 6)
    assert made == tokenizer.trained(texts, 300, 6)
    assert tokenizer.vocabulary_and_padding(made) == (300, 0)
    tokens = tokenizer.from_json(made)(np.array(["elm " * 50, "elm"], dtype=object))
    assert tokens.shape == (2, 6)
    assert tokens[0, -1] == 2, "what is cut still ends with the last token that models look at"
    assert len(tokenizer.trained(texts, 320, 6)) > len(made)


def test_texts_in_several_chunks_are_encoded_as_in_one(monkeypatch):
    texts = np.array([text for text, _ in ROWS], dtype=object)
    whole = ENCODE(texts)
    monkeypatch.setattr(tokenizer, "CHUNK", 7)
    assert torch.equal(ENCODE(texts), whole)
    assert ENCODE(texts[:0]).shape[0] == 0


def save_checkpoint(folder: Path, kind: str, weights: bool = True, tokens: bool = True) -> Path:
    """A folder as on the hub: a small tokenizer of that kind, and weights that nobody reads here."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.joinpath("config.json").write_text(json.dumps({"model_type": kind}))
    if weights:
        folder.joinpath("model.safetensors").write_bytes(b"")
    if tokens:
        names = ["[UNK]", *(["[PAD]", "[CLS]", "[SEP]"] if kind == "bert" else []), *WORDS]
        made = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="[UNK]"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        special = {"unk_token": "[UNK]"}
        if kind == "bert":
            special |= {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
            made.post_processor = processors.TemplateProcessing(
                single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
            )
        transformers.PreTrainedTokenizerFast(tokenizer_object=made, **special).save_pretrained(folder)
    return folder


def encoded(text_model: schema.Model, dataset: schema.Dataset) -> tuple[Encoding, Examples]:
    """The encoding of `ROWS`, and those of them that are not set aside."""
    return text_encoding(text_model, dataset, texts_of(), checkpoint.resolve(text_model))


def texts_of(rows: list[tuple[str, int]] = ROWS) -> Examples:
    """Examples without a file."""
    inputs, labels = np.array([text for text, _ in rows], dtype=object), np.array([label for _, label in rows])
    return Examples(inputs, labels, inputs[:2], labels[:2], ("even", "odd"), "", "")


def test_the_own_tokenizer_pads_with_its_own_token_or_with_a_new_last_one(tmp_path):
    dataset = text_set(tmp_path)
    for kind, padding, vocabulary, elm in (("bert", 1, 10, [2, 8, 3]), ("gpt2", 7, 8, [5])):
        folder = save_checkpoint(tmp_path / kind, kind)
        encoding, left = encoded(model(checkpoint=str(folder), pretrained="auto"), dataset)
        assert (encoding.form.padding, encoding.form.vocabulary) == (padding, vocabulary)
        assert encoding.form.checkpoint == str(folder)
        assert len(left.train_labels) == 60, "an own tokenizer needs no public texts"
        tokens = encoding.encode(np.array(["elm", "elm elm elm"], dtype=object))
        assert tokens[0].tolist() == elm + [padding] * 2
        again = tokenizer.from_json(encoding.tokenizer)(np.array(["elm", "elm elm elm"], dtype=object))
        assert torch.equal(again, tokens)
        assert encoding.lines == (f"tokenizer: the one of {folder}",)
        long = encoding.encode(np.array(["elm " * 99], dtype=object))
        assert long.shape == (1, 16)


# --- where published files come from


@pytest.fixture
def offline(tmp_path, monkeypatch) -> Path:
    """No network, and an empty cache of the hub; returns its folder."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(checkpoint, "reachable", lambda url: False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    return cache


def cached(cache: Path, kind: str = "bert", **other: bool) -> Path:
    """The folder of some/net in the hub's cache, its files there."""
    top = cache / "models--some--net"
    (top / "refs").mkdir(parents=True, exist_ok=True)
    (top / "refs" / "main").write_text("7" * 40)
    return save_checkpoint(top / "snapshots" / ("7" * 40), kind, **other)


def test_without_network_or_cache_auto_starts_at_random_and_true_is_an_error(offline, tmp_path):
    published = checkpoint.resolve(model(checkpoint="some/net", pretrained="auto"))
    assert (published.folder, published.weights) == (None, False)
    assert "drawn from the seed" in published.line
    assert "some/net is not in the Hugging Face cache" in published.line
    encoding, left = encoded(model(checkpoint="some/net", pretrained="auto"), text_set(tmp_path))
    assert (encoding.form.checkpoint, len(left.train_labels), len(encoding.lines)) == (None, 50, 2)
    with pytest.raises(InputError, match=r"cannot be reached.*model\.checkpoint=DIR.*HF_HOME=DIR.*pretrained=auto"):
        checkpoint.resolve(model(checkpoint="some/net", pretrained=True))
    with pytest.raises(InputError, match=r"tokenizer=own: no published tokenizer.*tokenizer=trained"):
        checkpoint.resolve(model(checkpoint="some/net", tokenizer="own"))
    assert checkpoint.resolve(model(checkpoint="some/net")) == checkpoint.Published()
    assert checkpoint.resolve(model(checkpoint="some/net", tokenizer="trained")) == checkpoint.Published()


def test_the_cache_of_the_hub_is_read(offline, tmp_path):
    snapshot = cached(offline)
    for pretrained in ("auto", True):
        published = checkpoint.resolve(model(checkpoint="some/net", pretrained=pretrained))
        assert (published.folder, published.weights, published.line) == (snapshot, True, None)
    published = checkpoint.resolve(model(checkpoint="some/net", revision="7" * 40, tokenizer="own"))
    assert (published.folder, published.weights) == (snapshot, False), "the tokenizer alone"
    (snapshot / "model.safetensors").rename(snapshot / "pytorch_model.bin")
    assert "no model.safetensors" in checkpoint.resolve(model(checkpoint="some/net", pretrained="auto")).line
    with pytest.raises(InputError, match=r"no model\.safetensors"):
        checkpoint.resolve(model(checkpoint="some/net", pretrained=True))


def test_the_hub_is_asked_for_what_is_missing_and_never_for_pickles(offline, monkeypatch):
    asked = []

    def download(repo: str, *, revision, allow_patterns, local_files_only):
        if local_files_only:
            raise FileNotFoundError
        asked.append((repo, revision, allow_patterns))
        return str(cached(offline))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(checkpoint, "reachable", lambda url: True)
    assert checkpoint.resolve(model(checkpoint="some/net", pretrained=True, revision="abc")).weights
    ((repo, revision, patterns),) = asked
    assert (repo, revision) == ("some/net", "abc")

    def wanted(file: str) -> bool:
        return any(fnmatch.fnmatch(file, pattern) for pattern in patterns)

    assert all(map(wanted, ["config.json", "model.safetensors", "model-00001-of-00002.safetensors", "tokenizer.json"]))
    assert not any(map(wanted, ["pytorch_model.bin", "tf_model.h5", "training_args.bin", "onnx/model.onnx", "x.pkl"]))
    checkpoint.resolve(model(checkpoint="some/net", tokenizer="own"))
    assert not any("safetensors" in pattern for pattern in asked[1][2]), "weights that nobody wants are not fetched"


def test_errors_of_the_hub_are_told_apart(offline, monkeypatch):
    monkeypatch.setattr(checkpoint, "reachable", lambda url: True)
    response = httpx.Response(404, request=httpx.Request("GET", "https://huggingface.co/some/net"))
    for error, says in (
        (huggingface_hub.errors.RepositoryNotFoundError("no", response=response), "no such model on"),
        (huggingface_hub.errors.RevisionNotFoundError("no", response=response), "model.revision=abc"),
        (OSError("disk full\nand more"), r"fails \(disk full\): model.checkpoint=DIR"),
    ):

        def download(*_: object, local_files_only: bool, error: Exception = error, **__: object):
            raise FileNotFoundError if local_files_only else error

        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
        with pytest.raises(InputError, match=says):
            checkpoint.resolve(model(checkpoint="some/net", pretrained=True, revision="abc"))


def test_local_folders(offline, tmp_path):
    folder = save_checkpoint(tmp_path / "net", "bert")
    assert checkpoint.resolve(model(checkpoint=str(folder), pretrained=True)).folder == folder
    for missing in (str(tmp_path / "nowhere"), "./nowhere", "~/no/where"):
        with pytest.raises(InputError, match="no such folder"):
            checkpoint.resolve(model(checkpoint=missing, pretrained="auto"))
    no_tokens = save_checkpoint(tmp_path / "no_tokens", "bert", tokens=False)
    with pytest.raises(InputError, match="weights without their tokenizer"):
        encoded(model(checkpoint=str(no_tokens), pretrained=True), text_set(tmp_path))
    with pytest.raises(InputError, match=r"tokenizer=own: no published tokenizer: none of tokenizer\.json"):
        encoded(model(checkpoint=str(no_tokens), tokenizer="own"), text_set(tmp_path))
    own_trained = model(checkpoint=str(no_tokens), pretrained=True, tokenizer="trained")
    encoding, left = encoded(own_trained, text_set(tmp_path))
    assert "tokens of another tokenizer" in encoding.lines[-1]
    assert len(left.train_labels) == 50
    (no_tokens / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="its tokenizer cannot be loaded"):
        encoded(model(checkpoint=str(no_tokens), pretrained=True), text_set(tmp_path))


def test_shards_have_to_be_there(tmp_path):
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-1.safetensors").write_bytes(b"")
    assert not checkpoint.has_weights(tmp_path)
    (tmp_path / "model-2.safetensors").write_bytes(b"")
    assert checkpoint.has_weights(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    assert not checkpoint.has_weights(tmp_path)


# --- the whole


def test_public_texts_are_nobodys_and_the_same_for_every_seed(tmp_path):
    write(tmp_path / "train.jsonl")
    write(tmp_path / "test.jsonl", [("elm ash", 0), ("fir birch", 1), ("oak", 1)])
    dataset = text_set(tmp_path, max_tokens=4096)
    data = [federated_data(config(dataset, seed=seed)) for seed in (0, 1)]
    assert data[0].tokenizer == data[1].tokenizer
    decoder = Tokenizer.from_str(data[0].tokenizer)
    held = [
        [text for client in federated.clients for text in decoder.decode_batch(client.inputs.tolist())]
        for federated in data
    ]
    assert sorted(held[0]) == sorted(held[1])
    assert len(held[0]) == 50
    assert set(held[0]) < {text for text, _ in ROWS}, "texts of the training set, each once"
    assert len(set(held[0])) == 50
    labels = torch.cat([client.labels for client in data[0].clients])
    assert torch.bincount(labels).tolist() == [25, 25], "every label keeps its share"
    test = data[0].test
    assert test.shown.tolist() == ["elm ash", "fir birch", "oak"]
    assert decoder.decode_batch(test.inputs.tolist()) == test.shown.tolist()
    assert data[0].form.max_tokens == 4096
    assert any("trained on 10 of the training texts" in line for line in data[0].lines)
    # Clients' texts are only as wide as their longest.
    for client in data[0].clients:
        assert (client.inputs[:, -1] != 0).any()


def test_too_large_a_public_sample(tmp_path):
    write(tmp_path / "train.csv")
    with pytest.raises(InputError, match=r"public_examples=40: more than half of the 48 .*public_examples=4$"):
        federated_data(config(text_set(tmp_path, public_examples=40)))


def test_shared_news_load():
    if not (SHARED / "ag_news").is_dir():
        pytest.skip("no shared data")
    ((_, cfg),) = compose_jobs(["dataset=ag_news", f"dataset.path={SHARED / 'ag_news'}", "model=gpt_mini"])
    examples, source = load(validated(cfg).dataset, 28)
    assert (source.train_examples, source.test_examples) == (6000, 1600)
    assert len(examples.label_names) == 4
    assert all(isinstance(text, str) and text for text in examples.test_inputs)


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        (["dataset=languages", "model=lenet"], "models for text: bert, distilbert, gpt, gpt2, gpt_mini, hf"),
        (["dataset=mnist", "model=gpt_mini"], "models for image: densenet121, lenet, resnet18"),
    ],
)
def test_text_and_image_do_not_mix_and_the_models_that_fit_are_named(choices, says):
    with pytest.raises(InputError, match=says):
        compose_jobs(choices)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_tokens": 1}, "dataset.max_tokens=1"),
        ({"vocabulary": 100}, "dataset.vocabulary=100"),
        ({"public_examples": 0}, "dataset.public_examples=0"),
        ({"input_column": ["title", 5]}, r"such as \[title,content\]"),
        ({"input": "image", "input_column": ["a", "b"]}, "only texts are joined from several columns"),
        ({"input": "sound"}, "dataset.input=sound: "),
    ],
)
def test_settings_of_texts_have_bounds(settings, says):
    with pytest.raises(InputError, match=says):
        text_set(Path("anywhere"), **settings)
