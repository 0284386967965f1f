"""Models written in unusual ways, against autograd for each input alone: equal to 1e-7, all parameters covered."""

import math

import pytest
import torch

from .exactness import assert_all_covered
from .unusual_models import MODELS


@pytest.mark.parametrize("name", MODELS)
def test_unusual_models(name: str) -> None:
    make, shape = MODELS[name]
    for batch in (1, 5, math.prod(shape[:1])):
        torch.manual_seed(5)
        model = make().double().eval()
        assert_all_covered(model, torch.randn(batch, *shape, dtype=torch.float64))
