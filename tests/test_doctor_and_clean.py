"""`provfl doctor` and `provfl clean`: what is looked at, what fails, what the cache holds, what is deleted."""

from __future__ import annotations

import json
import os
import time
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest

from provfl_cli.cli import main
from provfl_cli.errors import RunError
from provfl_cli.run import health
from provfl_cli.store.cache import in_use, open_entry
from provfl_cli.store.held_federations import held_federations, runs_of

Captured = pytest.CaptureFixture[str]
DAY = 86400.0


@pytest.fixture
def cache(workspace: Path) -> Path:
    """Three federations: used 40, 10 and 0 days ago; a run below the working folder points to the second."""
    place = Path("outputs/cache")
    for key, days in (("aaa1", 40), ("aab2", 10), ("ccc3", 0)):
        about = {"came from": {"dataset": {"name": "mni\x1b[2Jst"}}, "determined by": {"federation": {"clients": 7}}}
        with open_entry(place, key, about, 20.0) as entry:
            (entry.rounds / "tensors").write_bytes(bytes(1000 * (days + 1)))
        when = time.time() - days * DAY
        os.utime(entry.folder, (when, when))
    run = Path("outputs/2026-01-01/10-00-00")
    run.mkdir(parents=True)
    (run / "rounds").symlink_to(os.path.relpath(place / "federations/aab2/rounds", run))
    return place


def there(cache: Path) -> list[str]:
    return [each.key for each in held_federations(cache)]


def test_what_the_cache_holds(cache: Path, capsys: Captured) -> None:
    held = held_federations(cache)
    assert [each.key for each in held] == ["aaa1", "aab2", "ccc3"], "the one used longest ago first"
    assert [round(each.days()) for each in held] == [40, 10, 0]
    assert held[0].size > 41_000
    assert runs_of(held, Path()) == {"aaa1": [], "aab2": [Path("outputs/2026-01-01/10-00-00")], "ccc3": []}
    assert main(["clean"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    lines = out.splitlines()
    assert "40 days ago" in lines[0]
    assert "7 clients" in lines[0]
    assert "no run" in lines[0]
    assert "runs: outputs/2026-01-01/10-00-00" in lines[1]
    assert there(cache) == ["aaa1", "aab2", "ccc3"], "only shown"


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        (["--older-than", "30"], ["aab2", "ccc3"]),
        (["--older-than", "5"], ["ccc3"]),
        (["--older-than", "5", "--unused"], ["aab2", "ccc3"]),
        (["--unused"], ["aab2"]),
        (["cc"], ["aaa1", "aab2"]),
        (["--all"], []),
    ],
)
def test_what_is_deleted(asked: list[str], left: list[str], cache: Path, capsys: Captured) -> None:
    assert main(["clean", *asked, "--yes"]) == 0
    assert there(cache) == left
    out = capsys.readouterr().out
    assert ("1 run points to these" in out) == ("aab2" not in left), "what loses its rounds is said"
    assert not list(cache.glob("federations/.*.removed"))


@pytest.mark.parametrize("asked", [["--all"], ["--unused"], ["aa", "--older-than", "1"]])
def test_what_is_beside_federations_goes_with_all_of_them(asked: list[str], cache: Path, capsys: Captured) -> None:
    for name in ("bases", "partitions", "mine"):
        (cache / name).mkdir()
        (cache / name / f"{'ab' * 10}.safetensors").write_bytes(bytes(2_000_000))
    (cache / "bases" / "of_mine.safetensors").write_bytes(b"nobody else's")
    main(["clean", *asked, "--yes"])
    left = {f"{file.parent.name}/{file.name[:2]}" for file in cache.glob("*/*.safetensors")}
    kept = {"mine/ab", "bases/of"}
    assert left == (kept if asked == ["--all"] else {*kept, "bases/ab", "partitions/ab"})
    assert (cache / "partitions").exists() == (asked != ["--all"])
    assert ("4.0 MB of partitions" in capsys.readouterr().out) == (asked == ["--all"])


def test_nothing_goes_unasked(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["clean", "--all", "--yes"]) == 0
    (cache / "bases").mkdir()
    stdin = StringIO("")
    monkeypatch.setattr("sys.stdin", stdin)
    monkeypatch.setattr(stdin, "isatty", lambda: True, raising=False)
    assert main(["clean", "--all"]) == 0
    assert (cache / "bases").exists()


def test_what_is_open_stays(cache: Path, capsys: Captured) -> None:
    with in_use(cache / "federations/aaa1/rounds"):
        assert main(["clean", "--all", "--yes"]) == 1
        assert there(cache) == ["aaa1"]
    assert "left: aaa1" in capsys.readouterr().err


@pytest.mark.parametrize(("answer", "left"), [("n\n", 3), ("\n", 3), ("", 3), ("y\n", 0)])
def test_it_asks_first(answer: str, left: int, cache: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = StringIO(answer)
    monkeypatch.setattr("sys.stdin", stdin)
    assert main(["clean", "--all"]) == 2, "nobody is there to be asked"
    assert "--yes" in capsys.readouterr().err
    monkeypatch.setattr(stdin, "isatty", lambda: True, raising=False)
    assert main(["clean", "--all"]) == 0
    assert len(there(cache)) == left


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["aa"], "2 federations begin so"),
        (["zzz"], "no such federation"),
        (["--all", "--unused"], "--all is everything"),
        (["--older-than", "soon"], "whole number"),
        (["--cache", "nowhere"], "no training cache here"),
    ],
)
def test_wrong_questions(asked: list[str], said: str, cache: Path, capsys: Captured) -> None:
    assert main(["clean", *asked]) == 2
    assert said in capsys.readouterr().err
    assert len(there(cache)) == 3


@pytest.mark.slow
def test_the_doctor_traces_a_federation(workspace: Path, capsys: Captured) -> None:
    assert main(["doctor", "--offline", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    found = {each["name"]: each for each in said["findings"]}
    assert list(found) == ["versions", "machine", "gpu", "extras", "cache", "self-test"]
    assert said["ok"]
    assert 0 <= found["self-test"]["details"]["residual"] < 1e-3
    assert found["cache"]["details"]["federations"] == 0
    assert not list(workspace.iterdir()), "nothing is left"


def test_a_doctor_finds_what_fails(workspace: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RunError("conservation fails")

    monkeypatch.setattr("provfl_cli.run.health.job", SimpleNamespace(run=broken))
    assert main(["doctor", "--offline"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("fails self-test") and "conservation fails" in line for line in lines)
    Path("file").write_text("")
    monkeypatch.setattr(health, "_self_test", lambda: health.Finding("self-test", True, "", {}))
    assert main(["doctor", "--offline", "--cache", "file/cache"]) == 1
