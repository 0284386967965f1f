"""Models that a trace refuses, follows by another way, or says what it leaves out: one line each, never a raw error."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from provfl_cli.errors import InputError, RunError
from provfl_cli.provenance.state_dicts import from_state_dicts
from provfl_cli.provenance.tracing import trace

from .exactness import PLAIN, by_autograd
from .federations import federation, perturbed, settings
from .unusual_models import MODELS, SIGN, Made, new


def two(forward: Callable[[nn.Module, Tensor], Tensor], classes: int = 4, **more: object) -> nn.Module:
    torch.manual_seed(2)
    return Made(forward, first=nn.Linear(6, 8), head=nn.Linear(8, classes), **more)


def plain(m: nn.Module, x: Tensor) -> Tensor:
    return m.head(m.first(x).relu())


def refused(model: nn.Module, inputs: Tensor | None = None, round_of: nn.Module | None = None) -> str:
    source, _ = federation(round_of or model)
    with pytest.raises(InputError) as error:
        trace(model, torch.randn(5, 6) if inputs is None else inputs, source, settings())
    assert "\n" not in str(error.value)
    return str(error.value)


def one_random_number(m: nn.Module, x: Tensor) -> Tensor:
    return m.head(m.first(x).relu() + torch.randn(8))


@pytest.mark.parametrize("inputs", [1, 5])
@pytest.mark.parametrize(
    ("forward", "said"),
    [
        (lambda m, x: m.head(F.dropout(m.first(x), 0.5, training=True)), "dropout in its own forward"),
        (lambda m, x: m.head(m.first(x) + torch.randn_like(m.first(x))), "randn_like in its own forward"),
        (one_random_number, "randn in its own forward"),  # the same for all inputs of a batch
        (lambda m, x: m.head(F.gumbel_softmax(m.first(x))), "gumbel_softmax"),
    ],
)
def test_a_model_that_draws_random_numbers_is_refused(
    forward: Callable[[nn.Module, Tensor], Tensor], said: str, inputs: int
) -> None:
    message = refused(two(forward), torch.randn(inputs, 6))
    assert "not deterministic in evaluation mode" in message
    assert said in message


def test_the_layer_that_draws_is_named() -> None:
    class Always(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(x, 0.5)

    assert "dropout in layer 'noise'" in refused(two(lambda m, x: m.head(m.noise(m.first(x))), noise=Always()))


def test_dropout_in_evaluation_mode_is_no_randomness() -> None:
    model = two(lambda m, x: m.head(m.drop(m.first(x))), drop=nn.Dropout(0.5))
    source, _ = federation(model)
    state = torch.get_rng_state()
    trace(model, torch.randn(5, 6, generator=torch.Generator().manual_seed(0)), source, settings())
    assert torch.equal(torch.get_rng_state(), state)


def test_inputs_that_change_each_others_answers_are_refused() -> None:
    model = two(lambda m, x: m.head((m.first(x) - m.first(x).mean(0)).relu()))
    source, _ = federation(model)
    with pytest.raises(RunError, match="inputs beside it"):
        trace(model, torch.randn(5, 6), source, settings())


@pytest.mark.parametrize("whole", [True, False])
def test_torchscript_is_refused(whole: bool) -> None:
    class Eager(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(6, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.first(x).relu())

    model = torch.jit.trace(Eager(), torch.zeros(1, 6)) if whole else Made(lambda m, x: m.body(x), body=Eager())
    if not whole:
        model.body = torch.jit.trace(model.body, torch.zeros(1, 6))
    message = refused(model)
    assert "TorchScript modules cannot be traced, give the eager module" in message
    assert whole or "layer 'body'" in message


def test_quantized_layers_are_refused() -> None:
    model = two(plain)
    quantized = copy.deepcopy(model)
    quantized.first = torch.ao.nn.quantized.dynamic.Linear(6, 8)
    assert "layer 'first' is quantized" in refused(quantized, round_of=model)


def test_complex_parameters_are_refused() -> None:
    model = two(lambda m, x: plain(m, (x * m.turn).real), turn=nn.Parameter(torch.randn(6, dtype=torch.complex64)))
    state = {name: t.clone() for name, t in model.state_dict().items()}
    source = from_state_dicts([state, state], [1, 2], state, state)
    with pytest.raises(InputError, match=r"turn is complex64.*view_as_complex"):
        trace(model, torch.randn(5, 6), source, settings())


def test_float8_is_refused() -> None:
    model = two(plain)
    source, _ = federation(model)
    model.first.weight = nn.Parameter(model.first.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(InputError, match=r"layer 'first': first\.weight is float8_e4m3fn"):
        trace(model, torch.randn(5, 6), source, settings())


def test_a_model_without_a_gradient_is_refused() -> None:
    assert "no_grad" in refused(two(lambda m, x: torch.no_grad()(plain)(m, x)))


def test_an_error_of_the_model_is_one_line_that_names_the_layer() -> None:
    assert "layer 'first'" in refused(two(plain), torch.randn(5, 7))


def test_no_tensor_of_logits() -> None:
    model = two(lambda m, x: ({0: plain(m, x)}, 1))
    source, _ = federation(model)
    with pytest.raises(RunError, match=r"a tuple: a tensor of logits .* is needed"):
        trace(model, torch.randn(5, 6), source, settings())


def test_what_is_computed_without_gradient_is_named_and_counts_for_nothing() -> None:
    def backbone(m: nn.Module, x: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = m.first(x).relu()
        return m.head(hidden)

    model = two(backbone).double()
    source, clients = federation(model)
    inputs = torch.randn(5, 6, dtype=torch.float64)
    answer = trace(model, inputs, source, settings(**PLAIN))
    assert set(answer.uncovered) == {"first.weight", "first.bias"}
    assert "torch.no_grad" in answer.uncovered["first.weight"]
    reference = by_autograd(model, inputs, clients, source.before, "centred")
    assert float((torch.as_tensor(answer.values) - reference).abs().max()) < 1e-9


def test_what_is_detached_is_named() -> None:
    model = two(lambda m, x: m.head(m.first(x).relu().detach())).double()
    source, _ = federation(model)
    answer = trace(model, torch.randn(5, 6, dtype=torch.float64), source, settings())
    assert set(answer.uncovered) == {"first.weight", "first.bias"}
    assert "no gradient" in answer.uncovered["first.weight"]


def test_what_is_done_in_another_way_is_said() -> None:
    torch.manual_seed(4)
    model = two(lambda m, x: m.head(F.linear(x, SIGN(m.first.weight), m.first.bias))).double()
    source, _ = federation(model)
    inputs = torch.randn(5, 6, dtype=torch.float64)
    (note,) = trace(model, inputs, source, settings(threshold=0.0)).notes
    assert "by autograd for each input alone" in note
    assert "without the threshold" in note
    assert "first.weight" in note
    assert trace(two(plain).double(), inputs, source, settings()).notes == ()
    make, shape = MODELS["packed"]
    recurrent = make().double()
    (note,) = trace(recurrent, torch.randn(5, *shape, dtype=torch.float64), federation(recurrent)[0], settings()).notes
    assert "one at a time" in note


@pytest.mark.parametrize("shards", [None, 2])
def test_by_autograd_in_any_batch_and_process(shards: int | None) -> None:
    model = two(lambda m, x: m.head(F.linear(x, SIGN(m.first.weight), m.first.bias).relu())).double()
    source, clients = federation(model)
    inputs = torch.randn(7, 6, dtype=torch.float64)
    answer = trace(model, inputs, source, settings(**PLAIN, batch_size=3, shards=shards), layer_sample=5)
    reference = by_autograd(model, inputs, clients, source.before, "centred")
    assert float((torch.as_tensor(answer.values) - reference).abs().max()) < 1e-9
    summed = sum(layer.contributions for layer in answer.layers)
    assert float((torch.as_tensor(summed) - reference[:5]).abs().max()) < 1e-9


def test_layers_that_are_not_asked_for_are_not_computed_by_autograd_either() -> None:
    model = two(lambda m, x: m.head(F.linear(x, SIGN(m.first.weight), m.first.bias).relu())).double()
    source, _ = federation(model)
    inputs = torch.randn(5, 6, dtype=torch.float64)
    last = trace(model, inputs, source, settings(**{**PLAIN, "layers": "last"}), layer_sample=5)
    assert [layer.layer for layer in last.layers] == ["head"]
    assert last.covered == 1.0


def test_a_recurrent_layer_is_not_masked() -> None:
    """Its numbers have been through its own activation: what follows does not select them."""
    torch.manual_seed(1)
    model = Made(
        lambda m, x: m.head(m.layer(x)[0][:, -1].relu()), layer=nn.LSTM(6, 5, batch_first=True), head=nn.Linear(5, 4)
    ).double()
    source, _ = federation(model)
    inputs = torch.randn(5, 4, 6, dtype=torch.float64)
    masked, every = (trace(model, inputs, source, settings(threshold=t), layer_sample=5) for t in (0.2, None))
    assert masked.masked_layers == ()
    assert (masked.values == every.values).all()
    layer = next(layer for layer in masked.layers if layer.layer == "layer")
    assert (layer.neurons == 4 * 5 + 2 * 5).all()  # the outputs of four steps, and two final states


def autocast(m: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = m.again(m.first(x).relu())
    return m.head(hidden.float().relu())


def test_autocast_is_traced() -> None:
    model = two(autocast, again=nn.Linear(8, 8))
    source, clients = federation(model)
    inputs = torch.randn(5, 6)
    answer = trace(model, inputs, source, settings(**PLAIN))
    reference = by_autograd(model, inputs, clients, source.before, "centred")
    assert float((torch.as_tensor(answer.values) - reference).abs().max() / reference.abs().max()) < 2e-2
    assert answer.covered == 1.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("model_too", [False, True])
def test_half_precision_rounds_are_traced(dtype: torch.dtype, model_too: bool) -> None:
    """The global model was rounded to half precision: so it is not quite the sum of its clients."""
    model = two(plain)
    previous = {name: t.to(dtype) for name, t in model.state_dict().items()}
    clients = [{n: t.to(dtype) for n, t in perturbed(previous, 0.02, k).items()} for k in range(3)]
    shares = (0.5, 0.3, 0.2)
    after = {n: sum(s * c[n].double() for s, c in zip(shares, clients, strict=True)).to(dtype) for n in previous}
    source = from_state_dicts(clients, [50, 30, 20], previous, after)
    inputs = torch.randn(5, 6)
    wide = trace(two(plain), inputs, source, settings())
    if model_too:
        half = trace(model.to(dtype), inputs.to(dtype), source, settings())
        assert abs(half.values - wide.values).max() < 5e-2 * abs(wide.values).max()
    wrong = from_state_dicts(clients, [50, 30, 20], previous, {n: t * 1.5 for n, t in after.items()})
    with pytest.raises(RunError, match="conservation fails"):
        trace(two(plain), inputs, wrong, settings())


@pytest.mark.parametrize("inside", [True, False])
def test_compiled_models_are_traced_as_written(inside: bool) -> None:
    model = two(plain).double()
    source, _ = federation(model)
    inputs = torch.randn(5, 6, dtype=torch.float64)
    expected = trace(model, inputs, source, settings()).values
    if inside:
        model.first.compile(backend="eager")
    answer = trace(model if inside else torch.compile(model, backend="eager"), inputs, source, settings())
    assert (answer.values == expected).all()


def test_whole_numbers_among_the_parameters_are_no_weights() -> None:
    order = nn.Parameter(torch.tensor([5, 4, 3, 2, 1, 0]), requires_grad=False)
    model = two(lambda m, x: plain(m, x[:, m.order]), order=order).double()
    state = {name: t.clone() for name, t in model.state_dict().items()}
    moved = {name: t + 0.1 if t.is_floating_point() else t for name, t in state.items()}
    answer = trace(model, torch.randn(5, 6, dtype=torch.float64), from_state_dicts([moved], [1], state), settings())
    assert set(answer.uncovered) == {"order"}


def test_a_parameter_that_only_some_inputs_use() -> None:
    """An expert that the first inputs do not go to is followed all the same."""

    def routed(m: nn.Module, x: Tensor) -> Tensor:
        far = x[:, 0] > 0
        hidden = m.first(x)
        hidden[far] = F.linear(x[far], m.other)
        return m.head(hidden.tanh())

    model = two(routed, other=new(8, 6)).double()
    source, clients = federation(model)
    inputs = torch.randn(6, 6, dtype=torch.float64)
    inputs[:, 0] = torch.tensor([-1.0, -1, -1, -1, 1, 1])
    answer = trace(model, inputs, source, settings(**PLAIN))
    reference = by_autograd(model, inputs, clients, source.before, "centred")
    assert float((torch.as_tensor(answer.values) - reference).abs().max()) < 1e-9
    assert answer.covered == 1.0
