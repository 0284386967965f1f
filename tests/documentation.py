"""The pages of documentation as data: their text, headings, links, code blocks and commands."""

from __future__ import annotations

import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = ("provfl_cli", "conf", "tests", "scripts", "outputs/paper", ".github")
PAGES = sorted([REPOSITORY / "README.md", *(page for name in FOLDERS for page in (REPOSITORY / name).rglob("*.md"))])
WRITTEN = [page for page in PAGES if page.parent.name != "paper" or page.name == "README.md"]  # the others are made
PLACEHOLDERS = {"RUN1": "outputs/multirun/DATE/TIME/0", "RUN2": "outputs/multirun/DATE/TIME/1"}


@dataclass(frozen=True)
class Block:
    """One fenced block of a page: its language and lines, and the number of its first line."""

    page: Path
    number: int
    language: str
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}:{self.number}"


def blocks(*languages: str) -> list[Block]:
    """The fenced blocks of all pages in one of these languages."""
    return [block for page in WRITTEN for block in _blocks(page) if block.language in languages]


def commands(block: Block) -> list[list[str]]:
    """The arguments of each `provfl` line of a block, comments and placeholders of nothing left out."""
    arguments = []
    for line in "\n".join(block.lines).replace("\\\n", " ").splitlines():
        plain = re.sub(r"^(\w+=\S+ )*(scripts/)?", "", line.strip())
        if re.match(r"provfl( -| [a-z]|$)", plain):  # not the rows of a table
            words = shlex.split(plain.partition(" && ")[0], comments=True)
            arguments.append([PLACEHOLDERS.get(word, word) for word in words[1:] if word != "…"])
    return arguments


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def links(page: Path) -> list[str]:
    """What the links and pictures of a page point to."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _blocks(page: Path) -> list[Block]:
    blocks, inside = [], None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip().startswith("```"):
            if inside is None:
                inside = (number + 1, line.strip("` "), [])
            else:
                blocks.append(Block(page, inside[0], inside[1], tuple(inside[2])))
                inside = None
        elif inside is not None:
            inside[2].append(line)
    assert inside is None, f"{page}: a block has no end"
    return blocks
