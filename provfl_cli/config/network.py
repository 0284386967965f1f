"""How large a network of transformers may become by `model.config`, before anything is built of it."""

from collections.abc import Mapping
from typing import Any

from ..checks import Range, check_number
from ..errors import InputError

WIDTHS = ("n_embd", "hidden_size", "dim", "d_model", "embedding_size")
LAYERS = ("n_layer", "n_layers", "num_layers", "num_hidden_layers")
WIDTH, LAYER, NUMBER = Range(1, 65_536), Range(1, 1000), Range(-10_000_000, 10_000_000)
MOST_PARAMETERS = 100_000_000_000  # 400 GB in float32, and a federation holds a model of each client


def check_size(config: Mapping[str, Any]) -> None:
    """Raise InputError where fields of an architecture's configuration ask for what no memory holds.

    A layer of width `d` has about `12 d^2` parameters (Kaplan et al. 2020, "Scaling Laws for Neural Language Models").
    """
    for name, value in config.items():
        allowed = WIDTH if name in WIDTHS else LAYER if name in LAYERS else NUMBER
        if not isinstance(value, bool):
            check_number(f"model.config.{name}", value, allowed)
    width = max((value for name, value in config.items() if name in WIDTHS and isinstance(value, int)), default=0)
    layers = max((value for name, value in config.items() if name in LAYERS and isinstance(value, int)), default=1)
    if 12 * width**2 * layers > MOST_PARAMETERS:
        raise InputError(
            f"model.config: {layers} layers of width {width} have about {12 * width**2 * layers:,} parameters, at most "
            f"{MOST_PARAMETERS:,} are accepted"
        )
