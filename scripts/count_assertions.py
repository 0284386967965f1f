#!/usr/bin/env python
"""How many assertions and tests each file of `tests/` has, now and in an earlier revision.

    scripts/count_assertions.py                  # of the working tree
    scripts/count_assertions.py f121e04          # beside those of a revision; ends with 1 if any is lost
    scripts/count_assertions.py f121e04 --cases  # the cases that pytest collects as well (imports everything, twice)

An assertion is an `assert`, or a call of `pytest.raises`, `pytest.warns`, `pytest.fail` or of any function whose name
begins with `assert_` (numpy's, pandas', torch's, our own). What a file lost counts as moved as far as the same words
stand in another file that did not have them before: a test that goes elsewhere is no loss, one that is made weaker is.
A loop or a parameter is not seen in the source; `--cases` counts the parameters.
"""

from __future__ import annotations

import argparse
import ast
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
CHECKS = {"raises", "warns", "fail", "deprecated_call"}  # of pytest


@dataclass(frozen=True)
class Counted:
    """What a file of tests has: its assertions and tests word by word, and how many cases were collected."""

    assertions: Counter[str] = field(default_factory=Counter)
    tests: Counter[str] = field(default_factory=Counter)
    cases: int = 0


def counted(source: str, cases: int = 0) -> Counted:
    """Count the assertions and tests in the source of a file."""
    nodes = list(ast.walk(ast.parse(source)))
    functions = (node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return Counted(Counter(_assertions(nodes)), Counter(name for name in functions if name.startswith("test_")), cases)


def _assertions(nodes: list[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Assert):
            yield ast.unparse(node)
        elif isinstance(node, ast.Call):
            owner, _, name = ast.unparse(node.func).rpartition(".")
            if name.startswith("assert_") or (owner == "pytest" and name in CHECKS):
                yield ast.unparse(node)


def lost(before: Mapping[str, Counter[str]], now: Mapping[str, Counter[str]]) -> dict[str, int]:
    """How many a file has fewer than before, without those that stand word by word in another file that gained them."""
    gained: Counter[str] = Counter()
    for path, words in now.items():
        gained += words - before.get(path, Counter())
    losses = {}
    for path, words in before.items():
        own = now.get(path, Counter())
        moved = (words - own) & gained
        gained -= moved
        missing = words.total() - own.total() - moved.total()
        if missing > 0:
            losses[path] = missing
    return losses


def files(root: Path, cases: bool) -> dict[str, Counted]:
    """The files of tests below a folder of the project, by their paths."""
    collected = _cases(root) if cases else Counter[str]()
    paths = {path.relative_to(root).as_posix(): path for path in sorted((root / "tests").rglob("*.py"))}
    return {name: counted(path.read_text(encoding="utf-8"), collected[name]) for name, path in paths.items()}


def _cases(root: Path) -> Counter[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n", "0", "-o", "addopts=", "tests"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{root}: the tests cannot be collected:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return Counter(line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line)


def of_revision(revision: str, cases: bool) -> dict[str, Counted]:
    """The files of tests of a revision, written into a temporary folder without being checked out."""
    done = subprocess.run(["git", "archive", "--format=tar", revision], cwd=REPOSITORY, capture_output=True)
    if done.returncode:
        sys.exit(f"{revision}: no revision of this repository: {done.stderr.decode(errors='replace').strip()}")
    with tempfile.TemporaryDirectory() as folder, tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
        return files(Path(folder), cases)


def main() -> int:
    """Print the table; 1 if an assertion, a test or a case is lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("revision", nargs="?", help="compare with this revision of the repository")
    parser.add_argument("--cases", action="store_true", help="collect the cases with pytest as well")
    args = parser.parse_args()
    now = files(REPOSITORY, args.cases)
    before = of_revision(args.revision, args.cases) if args.revision else {}
    kinds = ["assertions", "tests", *(["cases"] if args.cases else [])]
    print(f"{'':44}" + "".join(f"{kind:>22}" for kind in kinds))
    if args.revision:
        print(f"{'':44}" + f"{'before':>8}{'now':>7}{'±':>7}" * len(kinds))
    totals = {kind: [0, 0] for kind in kinds}
    for path in sorted({*now, *before}):
        line = f"{path:44}"
        for kind in kinds:
            pair = [_number(side.get(path, Counted()), kind) for side in (before, now)]
            totals[kind] = [total + number for total, number in zip(totals[kind], pair, strict=True)]
            line += _columns(pair, compared=bool(args.revision))
        print(line)
    print(f"{'all':44}" + "".join(_columns(totals[kind], compared=bool(args.revision)) for kind in kinds))
    return _verdict(before, now, totals) if args.revision else 0


def _number(file: Counted, kind: str) -> int:
    return {"assertions": file.assertions.total(), "tests": file.tests.total(), "cases": file.cases}[kind]


def _columns(pair: list[int], compared: bool) -> str:
    before, now = pair
    difference = f"{now - before:+}" if now != before else ""
    return f"{before:8}{now:7}{difference:>7}" if compared else f"{now:22}"


def _verdict(before: dict[str, Counted], now: dict[str, Counted], totals: dict[str, list[int]]) -> int:
    code = 0
    for kind in ("assertions", "tests"):
        earlier, later = ({path: getattr(file, kind) for path, file in side.items()} for side in (before, now))
        for path, number in lost(earlier, later).items():
            print(f"lost: {number} {kind} of {path}")
            code = 1
    if "cases" in totals and totals["cases"][1] < totals["cases"][0]:
        print(f"lost: {totals['cases'][0] - totals['cases'][1]} cases")
        code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
