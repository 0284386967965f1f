"""A stored tokenizer that is damaged, or made to harm: one line, whatever the library does."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from provfl_cli.data.federated import Texts
from provfl_cli.data.rust import TokenizerPanic, panics_caught
from provfl_cli.data.tokenizer import from_json, trained
from provfl_cli.errors import RunError
from provfl_cli.run.inputs import RunInputs

from .unread import never_read

BACKTRACKS = {"Regex": "(x+x+)+y"}
TEXTS = np.array(["x" * 80 + "b"], dtype=object)


@pytest.fixture(scope="module")
def tokenizer() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(trained(["a b c", "some words"], 300, 16))
    return content


def backtracking(tokenizer: dict[str, Any]) -> str:
    split = {"type": "Split", "pattern": BACKTRACKS, "behavior": "Isolated", "invert": False}
    return json.dumps(tokenizer | {"normalizer": {"type": "Replace", "pattern": BACKTRACKS, "content": "z"},
                                   "pre_tokenizer": split})  # fmt: skip


def run_inputs(folder: Path, content: str, form: Texts) -> RunInputs:
    (folder / "tokenizer.json").write_text(content)
    return RunInputs(folder, SimpleNamespace(), never_read, form, (), "")  # type: ignore[arg-type]


def test_a_panic_is_an_error_like_any_other(tokenizer: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TokenizerPanic):
        from_json(backtracking(tokenizer))(TEXTS)
    assert capfd.readouterr().err == ""


def test_what_else_is_written_meanwhile_is_kept(capfd: pytest.CaptureFixture[str]) -> None:
    with panics_caught():
        os.write(2, b"a warning\n")
    assert capfd.readouterr().err == "a warning\n"
    with pytest.raises(KeyboardInterrupt), panics_caught():
        raise KeyboardInterrupt


def test_a_stored_tokenizer_is_answered_in_one_line(tokenizer: dict[str, Any], tmp_path: Path) -> None:
    form = Texts(400, 16, 0)
    padding = tokenizer["padding"] | {"pad_id": 9999}
    for content, says in (
        (backtracking(tokenizer), "tokenizer.json cannot be read: the tokenizers library gives up on it"),
        ("{}", "tokenizer.json cannot be read"),
        (json.dumps(tokenizer | {"padding": None}), "tokenizer.json cannot be read"),
        (json.dumps(tokenizer | {"padding": padding}), "is not the tokenizer of the run's model"),
        (json.dumps(tokenizer | {"truncation": None}), "is not the tokenizer of the run's model"),
    ):
        inputs = run_inputs(tmp_path, content, form)
        with pytest.raises(RunError, match=says) as raised:
            inputs.encode(np.array([TEXTS[0], "a"], dtype=object))
        assert "\n" not in str(raised.value)
    assert run_inputs(tmp_path, json.dumps(tokenizer), form).encode(TEXTS).shape[1] <= 16
