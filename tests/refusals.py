"""A command line that is refused, and everything that this has to mean."""

from pathlib import Path

import pytest

from provfl_cli.cli import main


def refusal(arguments: list[str], workspace: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The line that a wrong `provfl run` says on stderr; it fails unless that is all that happens."""
    before = {path.name for path in workspace.iterdir()}
    assert main(["run", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("provfl: ")
    assert error.endswith("\n")
    assert error.count("\n") == 1
    assert len(error) < 600
    assert {path.name for path in workspace.iterdir()} == before, "no run folder, no cache"
    return error
