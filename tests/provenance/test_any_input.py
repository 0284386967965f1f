"""What only some inputs show of a model, wherever in the batch they stand: traced right, or refused in one line."""

import contextlib
import itertools
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from provfl_cli.errors import InputError, RunError
from provfl_cli.provenance.contributions import Contributions
from provfl_cli.provenance.directions import DIRECTIONS, Directions
from provfl_cli.provenance.tracing import trace

from .exactness import PLAIN, assert_all_covered, by_autograd
from .federations import federation, settings
from .unusual_models import PRODUCT, SIGN, Made, new


def model_of(forward: Callable[[nn.Module, Tensor], Tensor], **parts: nn.Module | nn.Parameter) -> nn.Module:
    torch.manual_seed(3)
    first = {} if "table" in parts else {"a": nn.Linear(6, 8)}
    return Made(forward, **{**first, "b": nn.Linear(8, 4), **parts}).double().eval()


def vectors(count: int = 12) -> Tensor:
    return torch.randn(count, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def traced(model: nn.Module, inputs: Tensor, **changed: object) -> Contributions:
    return trace(model, inputs, federation(model)[0], settings(**{**PLAIN, **changed}))


# -- answers that depend on the inputs beside ------------------------------------------------------------------------


def by_largest(m: nn.Module, x: Tensor) -> Tensor:
    h = m.a(x).relu()
    return m.b(h / h.max())


def by_largest_as_a_number(m: nn.Module, x: Tensor) -> Tensor:
    """No gradient tells that the others are read."""
    h = m.a(x).relu()
    return m.b(h / h.detach().max())


def less_the_later(m: nn.Module, x: Tensor) -> Tensor:
    return m.b(m.a(x) - m.a(x)[3:].sum(0))


def trimmed(m: nn.Module, x: Tensor) -> Tensor:
    """The mean over as many tokens as the longest text of the batch has."""
    longest = int((x != 0).sum(1).max())
    return m.b(m.table(x[:, :longest]).mean(1))


def texts(longest: list[int], count: int = 12) -> Tensor:
    """Texts of two tokens, but those at `longest` of seven; padded by zeros."""
    tokens = torch.randint(1, 20, (count, 7), generator=torch.Generator().manual_seed(1))
    for row in set(range(count)) - set(longest):
        tokens[row, 2:] = 0
    return tokens


@pytest.mark.parametrize("largest", [0, 1, 2, 7, 8, 11])
@pytest.mark.parametrize("forward", [by_largest, by_largest_as_a_number])
def test_the_largest_input_decides_whatever_its_place(largest: int, forward: Callable[..., Tensor]) -> None:
    inputs = vectors()
    inputs[largest] *= 5
    with pytest.raises(RunError, match="inputs beside it"):
        traced(model_of(forward), inputs)


@pytest.mark.parametrize("longest", [[0], [5], [0, 1, 2], list(range(11))])
def test_the_longest_text_decides_whatever_its_place(longest: list[int]) -> None:
    with pytest.raises(RunError, match="inputs beside it"):
        traced(model_of(trimmed, table=nn.Embedding(20, 8)), texts(longest))


def first_three_kept(m: nn.Module, x: Tensor) -> Tensor:
    """As an expert of limited capacity does it: whoever comes later is left out."""
    return m.b(m.a(x) * ((x[:, 0] != 0).cumsum(0) <= 3)[:, None])


def by_moments(m: nn.Module, x: Tensor) -> Tensor:
    return m.b(F.batch_norm(m.a(x), None, None, training=True))


@pytest.mark.parametrize("forward", [less_the_later, first_three_kept, by_moments])
def test_the_place_in_the_batch_and_the_others_decide(forward: Callable[..., Tensor]) -> None:
    with pytest.raises(RunError, match="inputs beside it"):
        traced(model_of(forward), vectors())


def first_takes_the_later(m: nn.Module, x: Tensor) -> Tensor:
    """Only the first answer depends on others, and those are not looked at together with it."""
    mixed = torch.eye(len(x), dtype=x.dtype)
    mixed[0, 3:] = -1
    return m.b((mixed @ m.a(x)).relu())


def needs_two(m: nn.Module, x: Tensor) -> Tensor:
    if len(x) == 1:
        raise ValueError("two inputs at least")
    return m.b(m.a(x).relu())


@pytest.mark.parametrize("forward", [first_takes_the_later, needs_two])
@pytest.mark.parametrize("batch_size", [None, 6])
def test_answers_in_a_batch_are_those_to_the_same_input_alone(
    forward: Callable[..., Tensor], batch_size: int | None
) -> None:
    with pytest.raises(RunError, match="inputs beside it"):
        traced(model_of(forward), vectors(), batch_size=batch_size)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("hidden", [True, False])
def test_any_order_in_which_gradients_come_back_is_seen(order: tuple[int, ...], hidden: bool) -> None:
    """The first three of a batch get each other's gradients; an input alone gets its own."""

    class Mixed(torch.autograd.Function):
        @staticmethod
        def forward(context: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(context: object, gradient: Tensor) -> Tensor:
            return gradient if len(gradient) < 3 else torch.cat([gradient[list(order)], gradient[3:]])

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        h = m.a(x).tanh()
        with torch._C.DisableTorchFunction() if hidden else contextlib.nullcontext():
            h = Mixed.apply(h)
        return m.b(h)

    (*notes,) = assert_all_covered(model_of(forward), vectors()).notes
    assert hidden or (order != (0, 1, 2)) == any("one at a time" in note for note in notes)


def test_an_ordinary_model_costs_one_input_alone_and_three_together_once() -> None:
    sizes: list[int] = []
    model, inputs = model_of(lambda m, x: m.b(m.a(x).tanh())), vectors()
    source, _ = federation(model)
    model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    first, later = (trace(model, inputs, source, settings(**PLAIN)) for _ in range(2))
    asked = [12, 1]  # the trace itself: the batch, and one of its inputs alone
    assert sizes == [1, 3, *asked, *asked]
    assert (first.values == later.values).all()
    assert first.notes == later.notes == ()


# -- paths that only later inputs take -------------------------------------------------------------------------------


def pooled(m: nn.Module, x: Tensor) -> Tensor:
    return m.b(m.table(x).mean(1))


@pytest.mark.parametrize(
    "options",
    [
        {"padding_idx": 0},
        {"padding_idx": -40},
        {"scale_grad_by_freq": True},
        {"padding_idx": 0, "scale_grad_by_freq": True},
        {"sparse": True, "padding_idx": 0},
    ],
)
@pytest.mark.parametrize("bag", [False, True])
def test_rows_to_which_torch_gives_less_of_the_gradient(options: dict, bag: bool) -> None:
    table = (nn.EmbeddingBag if bag else nn.Embedding)(40, 8, **options)
    nn.init.normal_(table.weight)
    inputs = texts([0, 1, 2])
    inputs[:3] = torch.arange(1, 22).view(3, 7)  # not padded, and no token twice
    inputs[6] = torch.tensor([3, 3, 5, 3, 0, 0, 0])
    for order in (range(12), range(11, -1, -1)):
        model = model_of(pooled if not bag else lambda m, x: m.b(m.table(x)), table=table)
        made = assert_all_covered(model, inputs[list(order)])
        assert bag or "scale_grad_by_freq" in options or made.notes == ()


def rounded_for_some(m: nn.Module, x: Tensor) -> Tensor:
    """Inputs whose first number is large go through a layer of signs, with a made-up gradient."""
    some = x[:, :1] > 0
    hidden = m.a(x)
    if bool(some.any()):
        hidden = torch.where(some, F.linear(x, SIGN(m.w)), hidden)
    return m.b(hidden.tanh())


def product_for_some(m: nn.Module, x: Tensor) -> Tensor:
    hidden = m.a(x).tanh()
    if bool((x[:, 0] > 0).any()):
        hidden = torch.where(x[:, :1] > 0, PRODUCT(hidden, m.w), hidden)
    return m.b(hidden)


class Signs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = new(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, SIGN(self.weight))


def routed(m: nn.Module, x: Tensor) -> Tensor:
    """Each input goes to one expert; the second holds signs."""
    hidden = torch.zeros(len(x), 8, dtype=x.dtype)
    for number, expert in enumerate(m.experts):
        rows = ((x[:, 0] > 0) == bool(number)).nonzero().squeeze(1)
        if len(rows):
            hidden = hidden.index_add(0, rows, expert(x[rows]))
    return m.b(hidden.tanh())


def gated(m: nn.Module, x: Tensor) -> Tensor:
    """All inputs go through both experts, and a gate of 0 or 1 leaves one out."""
    return m.b(torch.where(x[:, :1] > 0, F.linear(x, SIGN(m.w)), m.a(x)).tanh())


def experts() -> nn.ModuleList:
    return nn.ModuleList([nn.Linear(6, 8), Signs()])


PATHS: dict[str, Callable[[], nn.Module]] = {
    "signs": lambda: model_of(rounded_for_some, w=new(8, 6)),
    "product": lambda: model_of(product_for_some, w=new(8, 8)),
    "expert": lambda: Made(routed, experts=experts(), b=nn.Linear(8, 4)).double().eval(),
    "gate": lambda: model_of(gated, w=new(8, 6)),
}


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("batch_size", [None, 4, 1])
def test_a_path_that_only_later_inputs_take(name: str, batch_size: int | None) -> None:
    inputs = vectors()
    inputs[:, 0] = -inputs[:, 0].abs()
    inputs[[5, 9], 0] *= -1
    torch.manual_seed(3)
    model = PATHS[name]()
    there = assert_all_covered(model, inputs, batch_size=batch_size)
    assert any("by autograd" in note for note in there.notes)
    source, _ = federation(PATHS[name]())  # another model, of which nothing is known yet
    ways = [trace(PATHS[name](), x, source, settings(**PLAIN, batch_size=batch_size)) for x in (inputs, inputs.flip(0))]
    assert float(np.abs(ways[0].values - ways[1].values[::-1]).max()) < 1e-9


# -- weights that forward changes ------------------------------------------------------------------------------------


def clamped(m: nn.Module, x: Tensor) -> Tensor:
    m.a.weight.data.clamp_(-0.1, 0.1)
    return m.b(m.a(x).relu())


def normalised(m: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        m.a.weight.div_(m.a.weight.norm(dim=1, keepdim=True))
    return m.b(m.a(x).relu())


def clamped_for_some(m: nn.Module, x: Tensor) -> Tensor:
    if bool((x[:, 0] > 2).any()):
        m.a.weight.data.clamp_(-0.1, 0.1)
    return m.b(m.a(x).relu())


@pytest.mark.parametrize("forward", [clamped, normalised, clamped_for_some])
def test_a_layer_that_changes_its_weight_in_forward_is_named(forward: Callable[..., Tensor]) -> None:
    inputs = vectors()
    inputs[:, 0] = 0
    inputs[7, 0] = 3
    with pytest.raises(InputError, match="layer 'a' changes its weight in forward"):
        traced(model_of(forward), inputs)


@pytest.mark.parametrize("later", [False, True])
def test_an_embedding_that_bounds_its_rows_is_named(later: bool) -> None:
    table = nn.Embedding(20, 8, max_norm=1.0)
    nn.init.normal_(table.weight, std=0.1)
    with torch.no_grad():
        table.weight[7 if later else 3] = 9.0
    inputs = torch.full((12, 4), 3)
    inputs[8] = 7
    with pytest.raises(InputError, match=r"layer 'table' changes its weight in forward \(max_norm\)"):
        traced(model_of(pooled, table=table), inputs)


def test_an_embedding_whose_rows_are_within_their_bound_is_traced() -> None:
    table = nn.Embedding(20, 8, max_norm=100.0)
    assert assert_all_covered(model_of(pooled, table=table), texts([4])).notes == ()


# -- random numbers --------------------------------------------------------------------------------------------------


def drop_path(m: nn.Module, x: Tensor) -> Tensor:
    return m.b(m.a(x).relu() * (torch.rand(len(x), 1) >= 0.02))


def drawn_by_numpy(m: nn.Module, x: Tensor) -> Tensor:
    return m.b(m.a(x).relu() * (0.5 if np.random.rand() < 1e-6 else 1.0))


def drawn_by_python(m: nn.Module, x: Tensor) -> Tensor:
    return m.b(m.a(x).relu() * (0.5 if random.random() < 1e-6 else 1.0))


def slightly(m: nn.Module, x: Tensor) -> Tensor:
    return m.b(m.a(x).relu() + 1e-6 * torch.randn(len(x), 8))


def slightly_for_some(m: nn.Module, x: Tensor) -> Tensor:
    hidden = m.a(x).relu()
    if bool((x[:, 0] > 2).any()):
        hidden = hidden + 1e-6 * torch.randn(len(x), 8)
    return m.b(hidden)


@pytest.mark.parametrize(
    ("forward", "said"),
    [
        (drop_path, "rand in its own forward"),
        (drawn_by_numpy, r"numpy\.random"),
        (drawn_by_python, "Python's random"),
        (slightly, "randn in its own forward"),
        (slightly_for_some, "randn in its own forward"),
    ],
)
def test_random_numbers_are_refused_however_seldom_or_small(forward: Callable[..., Tensor], said: str) -> None:
    inputs = vectors()
    inputs[:, 0] = 0
    inputs[7, 0] = 3
    with pytest.raises(InputError, match=rf"not deterministic in evaluation mode: .*{said}"):
        traced(model_of(forward), inputs)


def test_a_generator_of_the_models_own_is_watched_too() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return m.b(m.a(x).relu() + 1e-6 * torch.randn(8, generator=m.noise))

    model = model_of(forward)
    model.noise = torch.Generator()
    with pytest.raises(InputError, match="not deterministic"):
        traced(model, vectors())


def seeded(m: nn.Module, x: Tensor) -> Tensor:
    """Fixed random features."""
    torch.manual_seed(4)
    return m.b(m.a(x @ torch.randn(6, 6, dtype=x.dtype)).relu())


def with_own_generator(m: nn.Module, x: Tensor) -> Tensor:
    turn = torch.randn(6, 6, generator=torch.Generator().manual_seed(4), dtype=x.dtype)
    return m.b(m.a(x @ turn).relu())


def drawn_once(m: nn.Module, x: Tensor) -> Tensor:
    if "turn" not in vars(m):
        vars(m)["turn"] = torch.randn(6, 6, dtype=x.dtype)
    return m.b(m.a(x @ m.turn).relu())


def in_training_only(m: nn.Module, x: Tensor) -> Tensor:
    hidden = F.dropout(m.a(x).relu(), 0.3, m.training)
    return m.b(hidden + torch.randn_like(hidden) if m.training else hidden)


@pytest.mark.parametrize("forward", [seeded, with_own_generator, drawn_once, in_training_only])
def test_random_numbers_that_are_the_same_each_time_are_none(forward: Callable[..., Tensor]) -> None:
    assert assert_all_covered(model_of(forward), vectors()).notes == ()


# -- what torch itself would say in its own words --------------------------------------------------------------------


def plain(m: nn.Module, x: Tensor) -> Tensor:
    return m.b(m.a(x).relu())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda x: x.to_sparse(), r"is sparse_coo, give a dense tensor .*to_dense\(\)"),
        (lambda x: x.to_sparse_csr(), r"is sparse_csr, give a dense tensor .*to_dense\(\)"),
        (lambda x: torch.nested.nested_tensor(list(x)), r"is nested, give a dense tensor"),
        (lambda x: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8), r"is quantized, .*dequantize\(\)"),
    ],
)
def test_inputs_that_are_not_dense_are_refused(make: Callable[[Tensor], Tensor], said: str) -> None:
    with pytest.raises(InputError, match=said):
        traced(model_of(plain), make(vectors()))


def test_a_lazy_layer_is_refused() -> None:
    source, _ = federation(model_of(plain))
    with pytest.raises(InputError, match=r"layer 'a': a\.weight has no shape yet.*run the model once"):
        trace(model_of(plain, a=nn.LazyLinear(8)), vectors(), source, settings())


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_the_mode_of_the_caller_changes_nothing(mode: Callable[[], torch.autograd.grad_mode.no_grad]) -> None:
    model = model_of(plain)
    source, clients = federation(model)
    ours = trace(model, vectors(), source, settings(**PLAIN))
    with mode():
        inside = trace(model, vectors(), source, settings(**PLAIN))
    assert (ours.values == inside.values).all()
    reference = by_autograd(model, vectors(), clients, source.before, "centred")
    assert float((torch.as_tensor(ours.values) - reference).abs().max()) < 1e-9


def test_a_round_made_under_inference_mode_is_traced() -> None:
    model = model_of(plain)
    plainly = traced(model, vectors())
    with torch.inference_mode():
        source, _ = federation(model_of(plain))
        assert (trace(model, vectors(), source, settings(**PLAIN)).values == plainly.values).all()


def test_a_model_made_under_inference_mode_is_refused() -> None:
    with torch.inference_mode():
        model = model_of(plain)
    with pytest.raises(InputError, match=r"a\.weight was made under torch\.inference_mode"):
        trace(model, vectors(), federation(model_of(plain))[0], settings())


@pytest.mark.parametrize("direction", range(DIRECTIONS))
def test_a_wrong_gradient_that_is_orthogonal_to_one_direction_is_seen(direction: int) -> None:
    model = model_of(plain)
    along = Directions(dict(model.named_parameters()))["a.weight"][direction].double()
    wrong = torch.randn_like(along)
    wrong -= (wrong * along).sum() / along.square().sum() * along
    model.a.weight.register_hook(lambda gradient: gradient + wrong)
    assert "by autograd" in traced(model, vectors()).notes[0]
