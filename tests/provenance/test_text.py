"""Text networks: Algorithm 1 for each architecture, padding that contributes nothing, one mask an activation."""

import dataclasses
import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers.activations import ACT2CLS, ACT2FN
from transformers.pytorch_utils import Conv1D

from provfl_cli.config.validate import provenance_preset
from provfl_cli.errors import RunError
from provfl_cli.models.text import TextClassifier
from provfl_cli.provenance import factors
from provfl_cli.provenance.contributions import Contributions
from provfl_cli.provenance.state_dicts import from_state_dicts
from provfl_cli.provenance.tracing import trace

from .exactness import assert_exact, close
from .federations import federation, settings
from .networks import ARCHITECTURES, CLASSES, PADDING, SHARED, VOCABULARY, Classifier, classifier, gpt, gpt2, texts
from .reference import algorithm1, counted


def behind(name: str) -> Callable[[str], str | None]:
    """For the reference: the module whose output is a layer's activation."""

    def activation_of(layer: str) -> str | None:
        for pattern, activation in ARCHITECTURES[name][1].items():
            if layer.endswith(pattern):
                return layer.removesuffix(pattern) + activation
        return None

    return activation_of


def relative(ours: Contributions, other: Contributions) -> float:
    return float(np.abs(ours.values - other.values).max() / np.abs(other.values).max())


@pytest.fixture
def no_fallback(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every function with parameters has a rule of its own."""
    without_rule = []

    def refused(call: object, g: Tensor) -> dict:
        without_rule.append(f"{call.function} in {call.layer}")  # type: ignore[attr-defined]
        raise NotImplementedError

    monkeypatch.setattr("provfl_cli.provenance.gradients.fallback", refused)
    yield
    assert not without_rule


def assert_algorithm1(name: str, preset: str, dtype: torch.dtype, **changed: object) -> None:
    model = classifier(name, dtype)
    source, clients = federation(model, clients=3)
    chosen = dataclasses.replace(provenance_preset(preset), **changed)  # type: ignore[arg-type]
    ours = trace(model, texts(), source, chosen)
    reference = algorithm1(
        model, texts(), clients, source.after, source.before, of=chosen.of, kind=chosen.target,
        decay=chosen.layer_decay, threshold=chosen.threshold, minmax=chosen.threshold_scale == "minmax",
        padding=PADDING, activation=behind(name), layers=(lambda module: True) if chosen.layers == "all" else counted,
    )  # fmt: skip
    if chosen.client_weighting == "fusion":
        reference = reference * source.decomposition.example_weights
    close(ours.values, reference, 1e-9 if dtype == torch.float64 else 1e-4)
    assert ours.covered == 1.0
    assert not ours.uncovered
    assert not ours.unchecked
    assert ours.residuals.max() < (1e-9 if dtype == torch.float64 else 1e-4)
    masked = [n for n, _ in model.named_modules() if behind(name)(n)] if chosen.threshold is not None else []
    assert sorted(ours.masked_layers) == sorted(masked)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_contributions_are_those_of_algorithm_1(name: str, no_fallback: None) -> None:
    assert_algorithm1(name, "provfl", torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("preset", ["provfl", "tracefl", "equations", "faithful"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_preset(name: str, preset: str, dtype: torch.dtype, no_fallback: None) -> None:
    assert_algorithm1(name, preset, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize(("threshold", "scale"), [(0.02, "absolute"), (0.4, "minmax")])
def test_other_thresholds(name: str, threshold: float, scale: str) -> None:
    if (name, scale) == ("distilbert", "minmax"):
        pytest.skip("its last ReLU is made anew in each call, so that the reference has no output of it to scale")
    assert_algorithm1(name, "provfl", torch.float64, threshold=threshold, threshold_scale=scale)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "bert", "distilbert"])  # transformers has only eager attention for openai-gpt
def test_the_way_attention_is_computed_changes_nothing(name: str) -> None:
    model = classifier(name)
    source, _ = federation(model)
    answers = []
    for way in ("eager", "sdpa"):
        model.network.set_attn_implementation(way)
        answers.append(trace(model, texts(), source))
        assert answers[-1].covered == 1.0
    assert relative(*answers) < 1e-9


# -- padding -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["absolute", "minmax"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_padding_changes_nothing(name: str, scale: str) -> None:
    """A text alone, with more columns of padding, and beside longer texts."""
    model = classifier(name)
    source, _ = federation(model)
    chosen = settings(threshold=0.4 if scale == "minmax" else 0.0, threshold_scale=scale)
    usual = trace(model, texts(), source, chosen, layer_sample=4)
    wider = trace(model, texts(width=20), source, chosen, layer_sample=4)
    assert relative(wider, usual) < 1e-12
    for a, b in zip(wider.layers, usual.layers, strict=True):
        assert (a.active == b.active).all()
        assert (a.neurons == b.neurons).all()
    alone = [trace(model, text[text != PADDING][None], source, chosen) for text in texts()]
    assert (
        relative(dataclasses.replace(usual, values=np.concatenate([answer.values for answer in alone])), usual) < 1e-12
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_is_cut_off_is_not_missed(name: str) -> None:
    """`TextClassifier` cuts columns of padding off; tokens and mask by name are the same again; one text is empty."""
    tokens, model = texts((9, 0, 1, 7), width=22), classifier(name)
    source, _ = federation(model)
    chosen = settings(threshold=0.4, threshold_scale="minmax")
    usual = trace(model, tokens, source, chosen, layer_sample=4)
    named = {"tokens": tokens, "attention_mask": (tokens != PADDING).long()}
    for other, inputs in ((TextClassifier(model.network, PADDING), tokens), (model, named)):
        ours = trace(other, inputs, source, chosen, layer_sample=4)
        assert relative(ours, usual) < 1e-12
        assert ours.covered == 1.0
        for a, b in zip(ours.layers, usual.layers, strict=True):
            assert (a.neurons == b.neurons).all()
            assert (a.active == b.active).all()


@pytest.mark.slow
@pytest.mark.parametrize("of", ["weights", "updates"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_rows_that_only_padding_looks_up_count_for_nothing(name: str, of: str) -> None:
    """The padding token's embedding and the positions behind a text may be anything, in every client, bit for bit."""
    model = classifier(name)
    source, clients = federation(model)
    (words,) = (n for n, t in source.before.items() if t.shape == (VOCABULARY, 16))
    (positions,) = (n for n, t in source.before.items() if t.shape == (24, 16))
    generator = torch.Generator().manual_seed(2)
    changed = []
    for client in clients:
        client = {key: tensor.clone() for key, tensor in client.items()}
        client[words][PADDING] = 100 * torch.randn(16, generator=generator, dtype=torch.float64)
        client[positions][7:] += torch.randn(17, 16, generator=generator, dtype=torch.float64)
        changed.append(client)
    other = from_state_dicts(changed, [10 * (k + 1) for k in range(len(clients))], source.before)
    inputs = texts(width=12)
    chosen = settings(of=of, threshold=0.0)
    usual, moved = trace(model, inputs, source, chosen), trace(model, inputs, other, chosen)
    assert np.array_equal(usual.values[1:], moved.values[1:])
    assert not np.array_equal(usual.values[0], moved.values[0])  # nine tokens: it uses positions 7 and 8


@pytest.mark.parametrize("kind", [nn.Linear, lambda i, o: Conv1D(o, i)], ids=["Linear", "Conv1D"])
def test_positions_without_gradient_are_left_out(kind: Callable[..., nn.Module]) -> None:
    """Wide enough for `_live_positions` to look; each text has its last token at another place."""

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.layer, self.head = nn.Embedding(VOCABULARY, 64), kind(64, 72), nn.Linear(72, CLASSES)

        def forward(self, tokens: Tensor) -> Tensor:
            last = (tokens != PADDING).sum(1) - 1
            states = F.gelu(self.layer(self.words(tokens)))
            return self.head(states[torch.arange(len(tokens)), last] + states[:, 0])

    torch.manual_seed(5)
    model, sizes = Last(), list[int]()
    forming = factors._Gradient.__init__

    def seen(self: factors._Gradient, left: Tensor, right: Tensor) -> None:
        sizes.append(left.shape[2])
        forming(self, left, right)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factors._Gradient, "__init__", seen)
        patch.setattr(factors, "outputs_are_cheaper", lambda *_: False)
        assert_exact(model, texts((9, 5, 1, 7), width=12))
    assert 2 in sizes  # of twelve: the last token of a text, and its first


# -- what the threshold means ------------------------------------------------------------------------------------------


class Feed(nn.Module):
    """Look up, a layer, an activation, a head; the layer is a Linear or transformers' Conv1D."""

    def __init__(self, layer: nn.Module, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.words, self.layer, self.head = nn.Embedding(VOCABULARY, 6), layer, nn.Linear(8, CLASSES)
        self.activation = activation

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.activation(self.layer(self.words(tokens)))).mean(1)


class Named(nn.Module):
    """A function as a module, so that the reference can hook it."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


MODULES = [name for name in ACT2CLS if name not in ("linear", "xielu", "prelu")]  # the last two have parameters
FUNCTIONS: list[Callable[..., object]] = [
    nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Tanh(), nn.Mish(), nn.Sigmoid(), F.gelu, F.silu, F.tanh, F.relu, F.mish,
    torch.tanh, torch.sigmoid, Tensor.tanh,
]  # fmt: skip


@pytest.mark.parametrize(
    ("layer", "activation"),
    [("Linear", activation) for activation in (*MODULES, *FUNCTIONS)]
    + [("Conv1D", activation) for activation in ("gelu_new", "relu", F.gelu)],
    ids=lambda activation: re.sub(" at 0x[0-9a-f]+", "", str(activation)),  # the same in every process
)
def test_an_activation_is_one_whatever_it_computes_inside(layer: str, activation: object) -> None:
    """The mask is that of the activation's own output: Algorithm 1 with that module hooked."""
    torch.manual_seed(4)
    function = ACT2FN[activation] if isinstance(activation, str) else activation
    named = function if isinstance(function, nn.Module) else Named(function)
    model = Feed(nn.Linear(6, 8) if layer == "Linear" else Conv1D(8, 6), named).double()
    source, clients = federation(model, clients=2, scale=0.3)
    inputs = torch.randint(0, VOCABULARY, (2, 5))
    ours = trace(model, inputs, source, settings(threshold=0.05))
    reference = algorithm1(
        model, inputs, clients, source.after, source.before, of="updates", kind="centred", decay=0.9, threshold=0.05,
        activation={"layer": "activation"}.get,
    )  # fmt: skip
    close(ours.values, reference, 1e-9)
    assert ours.masked_layers == ("layer",)


@pytest.mark.parametrize("activation", [ACT2FN["linear"], nn.Identity(), nn.Softmax(-1)], ids=str)
def test_what_is_no_activation_masks_nothing(activation: nn.Module) -> None:
    torch.manual_seed(4)
    model = Feed(nn.Linear(6, 8), activation).double()
    source, _ = federation(model)
    assert trace(model, torch.randint(0, VOCABULARY, (2, 5)), source, settings(threshold=0.0)).masked_layers == ()


@pytest.mark.parametrize("name", ["gelu", "gelu_new", "quick_gelu", "silu", "relu"])
def test_threshold_zero_takes_the_neurons_with_a_positive_sum(name: str) -> None:
    """As under ReLU; but there the others have no gradient, and here they have."""
    torch.manual_seed(4)
    model = Feed(nn.Linear(6, 8), ACT2FN[name]).double()
    source, clients = federation(model, scale=0.3)
    inputs = torch.randint(0, VOCABULARY, (3, 5))
    masked = trace(model, inputs, source, settings(threshold=0.0))
    reference = algorithm1(
        model, inputs, clients, source.after, source.before, of="updates", kind="centred", decay=0.9, threshold=0.0,
        activation={"layer": "layer"}.get,  # the sum itself, before the activation
    )  # fmt: skip
    close(masked.values, reference, 1e-9)
    without = trace(model, inputs, source, settings(threshold=None))
    assert (relative(masked, without) < 1e-12) == (name == "relu")


# -- tied, repeated, hidden --------------------------------------------------------------------------------------------


class TwoSegments(nn.Module):
    """OpenAI GPT with segment tokens: they are looked up in the table of the words, a second use of it."""

    def __init__(self) -> None:
        super().__init__()
        self.network = gpt()

    def forward(self, tokens: Tensor) -> Tensor:
        segments = 1 + (torch.arange(tokens.shape[1]) > 3).long().expand_as(tokens)
        return self.network(tokens, attention_mask=(tokens != PADDING).long(), token_type_ids=segments).logits


class TiedHead(nn.Module):
    """The words' table once more as the output layer, on the mean over the tokens that are none of padding."""

    def __init__(self) -> None:
        super().__init__()
        self.network = gpt2().transformer
        self.head = nn.Linear(16, VOCABULARY, bias=False)
        self.head.weight = self.network.wte.weight

    def forward(self, tokens: Tensor) -> Tensor:
        real = (tokens != PADDING)[..., None]
        states = self.network(tokens, attention_mask=real.squeeze(2).long()).last_hidden_state
        return self.head((states * real).sum(1) / real.sum(1))[:, :CLASSES]


class Encoder(nn.Module):
    """torch's own transformer, with padding: in evaluation mode it would take its fused path and nested tensors."""

    def __init__(self, nested: bool = True) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, activation="gelu")
        self.words, self.positions = nn.Embedding(VOCABULARY, 8), nn.Parameter(torch.randn(24, 8))
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens) + self.positions[: tokens.shape[1]]
        return self.head(self.encoder(x, src_key_padding_mask=tokens == PADDING)[:, 0])


def albert() -> nn.Module:
    """One layer, called three times."""
    sizes = {"embedding_size": 8, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = transformers.AlbertConfig(
        max_position_embeddings=24, intermediate_size=32, bos_token_id=1, eos_token_id=1, **sizes, **SHARED
    )
    return Classifier(transformers.AlbertForSequenceClassification(config))


class Relative(nn.Module):
    """DeBERTa's positions: projected by the keys' layer, repeated for every head of every input."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.keys = nn.Embedding(VOCABULARY, 8), nn.Linear(8, 8)
        self.positions, self.head = nn.Parameter(torch.randn(2, 9, 4)), nn.Linear(9, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        keys = self.keys(self.words(tokens)).unflatten(2, (2, 4)).transpose(1, 2).flatten(0, 1)
        scores = keys @ self.positions.repeat(len(tokens), 1, 1).transpose(1, 2)
        return self.head(scores.unflatten(0, (len(tokens), 2)).sum((1, 2)))


class DropoutBetween(nn.Module):
    """Dropout gives its own argument back in evaluation mode, which is then overwritten (XLM, Flaubert)."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.layer, self.head = nn.Embedding(VOCABULARY, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        x = F.dropout(self.layer(self.words(tokens)), 0.1, self.training)
        x *= (tokens != PADDING)[..., None]
        return self.head(x.tanh_()).sum(1)


@pytest.mark.parametrize("make", [TwoSegments, TiedHead, Encoder, albert, Relative, DropoutBetween])
def test_tied_repeated_and_hidden(make: Callable[[], nn.Module], no_fallback: None) -> None:
    """Against autograd, one input at a time; inputs in batches of 3 of different lengths."""
    torch.manual_seed(5)
    assert_exact(make().eval(), texts(), batch_size=3)


def test_an_output_changed_through_a_view_is_noticed() -> None:
    """What einsum returns is itself a view: autograd would go round it to its base, and a hook on it see nothing."""

    class Scores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(VOCABULARY, 8), nn.Linear(8, CLASSES)
            self.form = nn.Parameter(torch.randn(8, 8))

        def forward(self, tokens: Tensor) -> Tensor:
            scores = torch.einsum("bti,ij->bjt", self.words(tokens), self.form)
            part = scores[:, :, 1:]
            part *= 2
            return self.head(part.sum(2))

    model = Scores().double()
    source, _ = federation(model)
    with pytest.raises(RunError, match="changed in place through another view"):
        trace(model, texts(), source)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_equal_clients_count_alike_and_one_that_did_not_move_for_nothing(name: str) -> None:
    model = classifier(name)
    source, clients = federation(model)
    same = from_state_dicts([clients[0], clients[0], source.before], [5, 50, 10], source.before)
    values = trace(model, texts(), same).values
    assert np.array_equal(values[:, 0], values[:, 1])
    assert (values[:, 2] == 0).all()
    assert np.abs(values[:, 0]).min() > 0
