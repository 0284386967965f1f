"""Padding beside selected neurons, and texts that are nothing but padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from provfl_cli.provenance.calls import Call
from provfl_cli.provenance.neurons import activated_neurons, attended_positions, positions_of, selected_neurons
from provfl_cli.provenance.tracing import trace

from .federations import federation, settings

PADDING, WIDTH = 0, 5


class Bag(nn.Module):
    """Words through a layer with ReLU, summed over those that are none of padding (the first counts always)."""

    padding = PADDING

    def __init__(self) -> None:
        super().__init__()
        self.words, self.hidden, self.head = nn.Embedding(12, 6), nn.Linear(6, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        there = (tokens != PADDING).clone()
        there[:, 0] |= ~there.any(1)
        return self.head((self.hidden(self.words(tokens)).relu() * there[..., None]).sum(1))


@pytest.fixture
def bag() -> tuple:
    torch.manual_seed(0)
    model = Bag()
    return model, federation(model, scale=0.3)[0]


TEXTS = torch.tensor([[3, 4, 5, 0, 0, 0], [7, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6]])


def test_positions_that_are_read() -> None:
    """A text of nothing but padding is its first position; one that begins with padding is not."""
    texts = torch.tensor([[0, 0, 0], [0, 4, 0], [4, 0, 0]])
    expected = [[True, False, False], [False, True, False], [True, False, False]]
    positions = attended_positions(Bag(), {"": texts})
    assert positions is not None
    assert positions.tolist() == expected
    named = attended_positions(nn.Identity(), {"input_ids": texts, "attention_mask": (texts != 0).long()})
    assert named is not None
    assert named.tolist() == expected
    assert attended_positions(Bag(), {"": texts.float()}) is None
    assert attended_positions(nn.Identity(), {"": texts}) is None
    assert attended_positions(nn.Identity(), {"attention_mask": torch.ones(2, 3, 3)}) is None


def test_positions_in_the_shape_of_a_layer() -> None:
    attended = torch.tensor([[True, True, False], [True, False, False]])
    assert positions_of(None, torch.ones(2, 3, 4)) is None
    assert positions_of(attended, torch.ones(2, 3)) is None  # no positions there
    assert positions_of(attended, torch.ones(2, 4, 5)) is None  # more of them than the texts have
    whole = positions_of(attended, torch.ones(2, 3, 4))
    assert whole is not None
    assert whole.shape == (2, 3, 1)
    cut = positions_of(attended, torch.ones(2, 2, 4))  # where all is padding columns may be cut off
    assert cut is not None
    assert cut.squeeze(2).tolist() == attended[:, :2].tolist()
    assert positions_of(attended, torch.ones(2, 1, 4)) is None  # a word would be cut off: these are no positions


@pytest.mark.parametrize("scale", ["absolute", "minmax"])
def test_activation_at_the_threshold_is_none(scale: str) -> None:
    activation = torch.tensor([[[0.0, 2.0], [4.0, 99.0]]])
    attended = torch.tensor([[[True], [False]]])
    threshold = 2.0 if scale == "absolute" else 1.0
    assert not activated_neurons(
        activation, threshold, scale, attended
    ).any()  # the largest attended is 2, which is 1 of minmax
    assert activated_neurons(activation, threshold - 0.01, scale, attended).tolist() == [
        [[False, True], [False, False]]
    ]


@pytest.mark.parametrize("threshold", [None, 0.0])
@pytest.mark.parametrize("neurons", ["all", "gradient"])
def test_a_text_of_padding_alone_has_the_neurons_of_one_position(
    bag: tuple, threshold: float | None, neurons: str
) -> None:
    model, source = bag
    chosen = settings(threshold=threshold, neurons=neurons, neuron_fraction=0.4)
    answer = trace(model, TEXTS, source, chosen, layer_sample=4)
    layers = {layer.layer: layer for layer in answer.layers}
    assert layers["hidden"].neurons.tolist() == [3 * WIDTH, WIDTH, WIDTH, 6 * WIDTH]
    assert np.abs(answer.values[2]).min() > 0
    alone = trace(model, TEXTS[2:3, :1], source, chosen)
    assert answer.values[2] == pytest.approx(alone.values[0], rel=1e-4, abs=1e-7)
    if neurons == "gradient" and threshold is None:
        assert layers["hidden"].active.tolist() == [6, 2, 2, 12]  # of 15, 5, 5 and 30


@pytest.mark.parametrize("threshold", [None, 0.0])
@pytest.mark.parametrize("fraction", [0.1, 0.5, 1.0])
def test_padding_changes_nothing_where_neurons_are_chosen_by_gradient(
    bag: tuple, threshold: float | None, fraction: float
) -> None:
    model, source = bag
    chosen = settings(threshold=threshold, neurons="gradient", neuron_fraction=fraction)
    together = trace(model, TEXTS, source, chosen).values
    longer = trace(model, torch.nn.functional.pad(TEXTS, (0, 7)), source, chosen).values
    assert longer == pytest.approx(together, rel=1e-4, abs=1e-6)
    for row, words in enumerate((3, 1, 1, 6)):
        alone = trace(model, TEXTS[row : row + 1, :words], source, chosen).values[0]
        assert together[row] == pytest.approx(alone, rel=1e-4, abs=1e-6)


def test_neurons_by_gradient_are_those_of_the_largest_part() -> None:
    """Scores by hand: `|g o a|`, at padding none, a half of what is attended to."""
    g = torch.tensor([[[1.0, -2.0], [3.0, 0.5], [9.0, 9.0]], [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
    output = torch.tensor([[[5.0, 1.0], [-1.0, 1.0], [9.0, 9.0]], [[1.0, 1.0], [1.0, 1.0], [1.0, -1.0]]])
    call = Call(nn.functional.linear, {}, 0, {}, {}, output, 0, 2, "layer")
    attended = torch.tensor([[[True], [True], [False]], [[True], [True], [True]]])
    chosen = selected_neurons(settings(neurons="gradient", neuron_fraction=0.5), call, g, attended)
    assert chosen.tolist() == [
        [[True, False], [True, False], [False, False]],  # 5 and 3, of 5, 2, 3, 0.5
        [[False, False], [False, True], [True, True]],
    ]
    few = selected_neurons(settings(neurons="gradient", neuron_fraction=0.01), call, g, attended)
    assert few.flatten(1).sum(1).tolist() == [1, 1]  # never none
    assert bool(few[0, 0, 0])
    whole = selected_neurons(settings(neurons="gradient", neuron_fraction=1.0), call, g, None)
    assert bool(whole.all())


def test_neurons_at_random_are_the_share_that_was_asked_for() -> None:
    call = Call(nn.functional.linear, {}, 0, {}, {}, torch.ones(2, 40), 0, 2, "layer")
    g = torch.ones(2, 40)
    drawn = selected_neurons(settings(neurons="random", neuron_fraction=0.25), call, g, None)
    assert drawn.shape == (1, 40)
    assert int(drawn.sum()) == 10
    again = selected_neurons(settings(neurons="random", neuron_fraction=0.25, neuron_seed=1), call, g, None)
    assert int(again.sum()) == 10
    assert not torch.equal(drawn, again)
    other = Call(nn.functional.linear, {}, 0, {}, {}, torch.ones(2, 40), 0, 2, "another")
    assert not torch.equal(drawn, selected_neurons(settings(neurons="random", neuron_fraction=0.25), other, g, None))
    assert int(selected_neurons(settings(neurons="random", neuron_fraction=1e-6), call, g, None).sum()) == 1
