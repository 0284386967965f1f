"""Run folders with responses made up in memory, hostile ones among them, and made-up answers about one of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from provfl_cli.results.answer import Agreement, Layer, MethodAnswer, RankedClient
from provfl_cli.results.files import write_parquet
from provfl_cli.results.response import Response, TracedTokens, Without
from provfl_cli.results.tokens import token_frame
from tests.made_runs import whole_run

HOSTILE = ("</script><script>alert(3)</script>", "\x1b[31mred", "\u202eback", "", "é", "<img src=x onerror=alert(4)>")
TEXTS = ("Das", " Land", " heißt", " Deutsch", "land", "")


def spoken_run(folder: Path, inputs: int = 12, clients: int = 5, seed: int = 0) -> Path:
    """`whole_run` of prompts and responses; every third response is hostile, what is on top of tokens is client 1."""
    whole_run(folder, inputs=inputs, clients=clients, texts=True, seed=seed, methods=("provfl",))
    frame = pd.read_parquet(folder / "inputs.parquet").drop(columns="text")
    numbers = frame["input"].to_numpy()
    said = [HOSTILE if at % 3 == 2 else TEXTS for at in range(inputs)]
    frame = frame.assign(
        prompt=[f"<b>Germany</b> {number} in German:" for number in numbers],
        response=["".join(texts) for texts in said],
        expected="Das Land heißt Deutschland",
    )
    write_parquet(folder / "inputs.parquet", frame)
    width, rows = len(TEXTS), inputs * len(TEXTS)
    values = np.random.default_rng(seed).normal(size=(rows, clients)).clip(-1, 1)
    values[:, 1] = 2.0
    values[width - 1 :: width] = -1.0  # nobody pushed the last one
    tokens = token_frame(
        5, "round", "centred", np.repeat(numbers, width), np.tile(np.arange(width), inputs), np.arange(rows),
        [text for texts in said for text in texts], tuple(range(clients)), values,
    )  # fmt: skip
    write_parquet(folder / "tokens.parquet", tokens)
    return folder


def made_response(texts: tuple[str, ...] = TEXTS, clients: int = 3) -> Response:
    """An answer about a response: client 1 is on top of all tokens but the second, which client 0 pushed."""
    values = np.tile(np.linspace(0.1, 0.3, clients), (len(texts), 1))
    values[:, 1] = 1.5
    values[1, 0] = 2.5
    tokens = TracedTokens(tuple(range(len(texts))), texts, True, np.log(np.full(len(texts), 0.5)), values)
    ranked = tuple(
        RankedClient(client, rank + 1, float(values[:, client].sum()), 0.3, None, False)
        for rank, client in enumerate(np.argsort(-values.sum(0)).tolist())
    )
    layers = (Layer("model.layers.0.mlp.up_proj", 3.0, 2.0, 100, 200, True), Layer("lm_head", 1.0, -0.5, 3, 3, False))
    return Response(
        title="input 7", where="outputs/made", round=12, prompt="<b>Germany</b> in German:", made="greedy",
        expected="".join(texts), tokens=tokens, clients=tuple(range(clients)),
        client_names=tuple(map(str, range(clients))), target="centred", value=-3.25,
        answers=(MethodAnswer("provfl", "round", "centred", ranked, clients, {"previous": 0.2}, 10.0, layers),),
        effects=(
            Without("refuse", ("1",), -20.25, "No idea \x1b[2J"),
            Without("refuse", ("0",), -3.5, "".join(texts)),
            Without("refuse", ("2",), None, reason="the fusion does not work with so few clients"),
        ),
        agreements=(Agreement("provfl", "round", "refuse", 1.0, (), 1),), says="".join(texts), topic="German",
    )  # fmt: skip
