"""The pages of documentation are true: links, code, commands, and the numbers that stand in a table of results."""

from __future__ import annotations

import re
import runpy
from dataclasses import fields
from functools import cache
from importlib import import_module
from keyword import iskeyword
from pathlib import Path

import pandas as pd
import pytest
import yaml

from provfl_cli import __version__
from provfl_cli.cli import main, reproduce, trace
from provfl_cli.config import reference, schema
from provfl_cli.config.compose import hydra_session, parse, plan
from provfl_cli.errors import InputError
from provfl_cli.evaluation.contributions import COLUMNS
from provfl_cli.results import frames, label_counts
from tests.documentation import PAGES, PROJECT, REPOSITORY, WRITTEN, Block, anchors, blocks, commands, links, prose

HOME = PROJECT["project"]["urls"]["Homepage"]
MISSING_EXTRA = "pip install 'provfl["
SMALL = {  # what a command of a page is run with here, unless it says otherwise
    "experiment": "smoke", "federation.clients": "8", "federation.rounds": "2", "federation.local_epochs": "1",
    "engine.workers": "1", "evaluation.inputs": "all", "evaluation.max_inputs": "10", "evaluation.repeats": "1",
}  # fmt: skip
RESULTS = REPOSITORY / "outputs" / "paper"
FILES_OF_USERS = {"mails.csv", "mine.yaml", "wide.yaml", "strong.yaml"}


def named(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(REPOSITORY)) for page in pages]


@pytest.mark.parametrize("page", PAGES, ids=named(PAGES))
def test_every_link_leads_to_a_file_and_heading(page: Path) -> None:
    for link in links(page):
        place, _, anchor = link.partition("#")
        if place.startswith(f"{HOME}/"):
            target = REPOSITORY / place.removeprefix(f"{HOME}/").removeprefix("blob/main/").partition("?")[0]
        elif "://" in place:
            continue
        else:
            target = (page.parent / place).resolve() if place else page
        assert target.exists(), f"{page}: {link}"
        assert not anchor or anchor in anchors(target), f"{page}: {link} has no such heading"


@pytest.mark.parametrize("page", WRITTEN, ids=named(WRITTEN))
def test_no_row_stands_outside_its_table(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for table in re.findall(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE):
        below = table.splitlines()[1:2]
        assert below, f"{page}: {table}"
        assert re.fullmatch(r"\|(\s*:?-+:?\s*\|)+\s*", below[0]), f"{page}: {table}"


def test_the_first_page_has_only_links_that_work_on_a_package_index() -> None:
    assert all("://" in link for link in links(REPOSITORY / "README.md"))


def test_the_first_page_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", WRITTEN, ids=named(WRITTEN))
def test_every_file_of_code_that_a_page_names_is_there(page: Path) -> None:
    names = set(re.findall(r"`([\w./*]+\.(?:py|yaml))`", prose(page))) - FILES_OF_USERS
    places = [page.parent, *(REPOSITORY / name for name in ("", "provfl_cli", "conf", "scripts", "tests"))]
    for name in names:
        exists = any(next(place.glob(name), None) for place in places)
        if "/" not in name:
            exists |= any(next(place.rglob(name), None) for place in places if place != REPOSITORY)
        assert exists or "NAME" in name, f"{page}: {name}"


@cache
def known_keys() -> set[str]:
    groups = (*reference.BLOCKS, *reference.SHARED, *reference.OWN, "experiment")
    return {f"{group}.{row.name}" for group in groups for row in reference.keys(group)}


@pytest.mark.parametrize("page", WRITTEN, ids=named(WRITTEN))
def test_every_key_that_a_page_names_is_one(page: Path) -> None:
    known = known_keys()
    text = page.read_text(encoding="utf-8")
    groups = "|".join((*reference.BLOCKS, *reference.SHARED, "partition", "injection", "fusion", "privacy", "tracker"))
    for key in re.findall(rf"`(?:[^`\n]* )?((?:{groups})\.\w+)(?==|`)", text):
        assert key in known or key.endswith(".py"), f"{page}: {key}"


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_runs_as_it_stands(block: Block, workspace: Path) -> None:
    exec(compile("\n".join(block.lines), str(block), "exec"), {"__name__": "a_page"})


def accepted(arguments: list[str]) -> None:
    """Check a command as far as it can be without working: its flags, names, keys and values."""
    name, *rest = arguments
    if name == "run" and not {"--cfg", "-sc"} & set(rest):
        args = parse(rest)
        with hydra_session(args) as hydra:
            plan(hydra, args)
    elif arguments == ["ls", "mine"]:  # the recording that the commands above it make
        pass
    elif name in ("ls", "cp"):
        assert main(arguments) == 0
    elif name == "reproduce":
        args, _ = reproduce._parser().parse_known_args(rest)
        assert args.name in {None, "all", *(experiment.name for experiment in reproduce.experiments())}
        assert args.scale in reproduce.SCALES
    elif name != "run":
        command = import_module(f"provfl_cli.cli.{name}_" if iskeyword(name) else f"provfl_cli.cli.{name}")
        command._parser().parse_args(trace._verifying(rest) if command is trace else rest)


@pytest.mark.slow
@pytest.mark.parametrize("block", [block for block in blocks("bash", "text") if commands(block)], ids=str)
def test_every_command_is_accepted(block: Block, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workspace / "DIR").mkdir()
    (workspace / "mails.csv").touch()
    (workspace / "chats.jsonl").touch()
    (workspace / "mnist").mkdir()
    monkeypatch.setenv("PROVFL_DATA", str(workspace))
    for arguments in commands(block):
        try:
            accepted(arguments)
        except InputError as error:
            if MISSING_EXTRA not in str(error):
                pytest.fail(f"{block}: provfl {' '.join(arguments)}: {error}")


def test_a_wrong_command_is_noticed(workspace: Path) -> None:
    for wrong in (["run", "federation.round=3"], ["trace", "DIR", "--verfy"], ["run", "fusion=fedavgg"]):
        with pytest.raises(InputError):
            accepted(wrong)


def small(arguments: list[str], folder: str) -> list[str]:
    """The arguments of a command, a run made small, its results in `folder`."""
    if arguments[0] != "run":
        return arguments
    said = {word.partition("=")[0] for word in arguments}
    more = [f"{key}={value}" for key, value in SMALL.items() if key not in said]
    if "experiment" not in said and "dataset" in said:
        more.append("dataset=digits")
    kept = [word for word in arguments if not word.startswith("dataset=")]
    return [*kept, *more, f"hydra.{'sweep' if '-m' in arguments else 'run'}.dir={folder}"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a run at `outputs/DATE/TIME` and a sweep at `outputs/multirun/DATE/TIME`."""
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.delenv("PROVFL_CACHE", raising=False)
        assert main(small(["run", "evaluation.max_inputs=500"], "outputs/DATE/TIME")) == 0
        assert main(small(["run", "-m", "fusion=fedavg,median"], "outputs/multirun/DATE/TIME")) == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("block", [block for block in blocks("bash") if commands(block)], ids=str)
def test_the_commands_of_a_page_work(
    block: Block, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    monkeypatch.delenv("PROVFL_CACHE", raising=False)
    monkeypatch.setattr("webbrowser.open", lambda _: True)
    for number, arguments in enumerate(commands(block)):
        code = main(small(arguments, f"elsewhere/{block.page.parent.name}/{number}"))
        said = capsys.readouterr()
        assert code == 0 or MISSING_EXTRA in said.err, f"{block}: provfl {' '.join(arguments)}: {said.err}"


def cells(page: Path, width: int) -> list[list[str]]:
    rows = [
        line.strip("|").split("|") for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("|")
    ]
    return [[cell.strip() for cell in row] for row in rows if len(row) == width][2:]


def spread(values: pd.Series[float]) -> str:
    """The least and the largest of some means, as the table writes them."""
    if values.dropna().empty:
        return "–"
    least, most = f"{values.min():.2f}", f"{values.max():.2f}"
    return least if least == most else f"{least} to {most}"


ROWS = cells(RESULTS / "README.md", 10)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join((*row[:2], row[3])))
def test_the_table_of_results_is_that_of_the_csv(row: list[str]) -> None:
    link, where, metric, method, result, largest, beside, chance, published, seeds = row
    (name,) = re.findall(r"^\[`(\w+)`\]\(\1\.md\)$", link)
    metric, method = metric.strip("`"), method.strip("`")
    frame = pd.read_csv(RESULTS / f"{name}.csv")
    for key, value in (pair.split("=") for pair in re.findall(r"`(\S+=\S+)`", where)):
        frame = frame[frame[key].astype(str) == value]
    if "scope" in frame and "`scope=" not in where:
        frame = frame[(frame["scope"] == "round") | frame["method"].str.startswith("published: ")]

    def of(asked: str, figure: str) -> pd.DataFrame:
        return frame[(frame["method"] == asked) & (frame["metric"] == figure)]

    ours = of(method, metric)
    assert len(ours)
    assert result == spread(ours["mean"])
    if metric == "localization_accuracy":
        assert largest == spread(of(method, "majority_accuracy")["mean"])
    else:
        assert largest == "–"
    if beside != "–":
        rival, figures = re.fullmatch(r"`(\w+)` (.+)", beside).groups()  # type: ignore[union-attr]
        assert figures == spread(of(rival, metric)["mean"])
    assert chance == spread(ours["chance"])
    others = frame["method"].str.startswith("published: ") & ~frame["method"].str.contains("global accuracy|FedDebug")
    assert published == spread(frame[others & (frame["metric"] == metric)]["mean"])
    count = ours["seeds"].dropna()
    assert seeds == (f"{count.min():.0f}" if count.min() == count.max() else f"{count.min():.0f} to {count.max():.0f}")


def test_the_script_that_fills_in_the_table_of_results_agrees() -> None:
    filled = runpy.run_path(str(REPOSITORY / "scripts" / "results_table.py"))["filled"]
    lines = (RESULTS / "README.md").read_text(encoding="utf-8").splitlines()
    assert list(map(filled, lines)) == lines
    assert filled(next(line for line in lines if "`rare_labels`" in line).replace("0.78", "0.79")) in lines


@pytest.mark.slow
def test_every_experiment_has_a_row_or_is_named_below() -> None:
    page = (RESULTS / "README.md").read_text(encoding="utf-8")
    assert len(ROWS) >= 30
    assert [
        experiment.name
        for experiment in reproduce.experiments()
        if f"[`{experiment.name}`]({experiment.name}.md)" not in page
    ] == []


def test_every_column_of_a_run_is_described() -> None:
    page = (REPOSITORY / "provfl_cli" / "results" / "README.md").read_text(encoding="utf-8")
    columns = {*COLUMNS, *frames.LAYER_COLUMNS, *label_counts.COLUMNS, "status", "epochs", "from_round"}
    columns |= {"split", "probabilities", "residual", "picture", "text"}
    quoted = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", page))))
    assert columns <= quoted


def test_the_reference_of_keys_is_what_the_schema_and_the_files_give() -> None:
    page = (REPOSITORY / "conf" / "README.md").read_text(encoding="utf-8")
    assert page == reference.with_reference(page), "python -m provfl_cli.config.reference writes it anew"


def test_the_reference_explains_every_key() -> None:
    groups = (*reference.BLOCKS, *reference.SHARED, *reference.OWN, "experiment")
    assert [f"{group}.{row.name}" for group in groups for row in reference.keys(group) if not row.meaning] == []
    known = known_keys()
    # Of a model `_target_` and the options of its function; the others belong to the methods that set them.
    inside = {
        "dataset.subset",  # of a domain
        "model.target",
        "model.options",
        "provenance.neurons",
        "provenance.neuron_fraction",
        "provenance.neuron_seed",
    }
    for group, kind in {**reference.BLOCKS, **reference.SHARED, "experiment": schema.Experiment}.items():
        assert {f"{group}.{field.name}" for field in fields(kind)} - known <= inside


def test_the_reference_is_listed_by_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "--keys"]) == 0
    assert "| `federation.rounds` | a whole number, 1 or more" in capsys.readouterr().out


def test_one_version_everywhere() -> None:
    assert "version" in PROJECT["project"]["dynamic"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "provfl_cli/__init__.py"
    assert str(yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))["version"]) == __version__
    assert f"This is version {__version__}" in " ".join((REPOSITORY / "README.md").read_text(encoding="utf-8").split())
    assert f"\n## {__version__}\n" in (REPOSITORY / ".github" / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_extra_of_the_tests_names_extras_that_there_are() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    (named_there,) = [requirement for requirement in extras["test"] if requirement.startswith("provfl[")]
    assert set(named_there.removeprefix("provfl[").rstrip("]").split(",")) <= set(extras) - {"test"}
    own = {re.split(r"[<>=\[]", requirement)[0] for requirement in extras["test"]} - {"provfl"}
    others = {
        re.split(r"[<>=\[]", requirement)[0] for name, pins in extras.items() if name != "test" for requirement in pins
    }
    assert not own & others, "a pin stands in two places"
