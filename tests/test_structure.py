"""Data flows one way: a part imports only from the parts above it; and torch stays out of what has to be quick."""

import ast
import re
import subprocess
import sys
from collections.abc import Collection
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from provfl_cli.config import tree
from provfl_cli.config.tree import conf_dir

from .fusions import configured

PACKAGE = Path(__file__).parents[1] / "provfl_cli"
PARTS = (
    "fusion", "store", "provenance", "config", "data", "models", "recording", "flower", "nvflare", "federation",
    "retraining", "attribution", "evaluation", "results", "comparison", "reporting", "trackers", "run", "cli",
)  # fmt: skip


def modules(package: Path = PACKAGE) -> dict[str, Path]:
    """Every module of a package by its dotted name."""
    named = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package.parent).with_suffix("").parts
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return named


@cache
def nodes(path: Path) -> list[ast.AST]:
    """Everything that a module says."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imported(name: str, path: Path, known: Collection[str]) -> set[str]:
    """Modules among those known that a module imports, wherever in the file, those for its types as well."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    targets = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            targets |= {inner if (inner := f"{base}.{alias.name}") in known else base for alias in node.names}
    return targets & set(known)


@cache
def imports() -> dict[str, set[str]]:
    """What each module imports."""
    known = modules()
    return {name: imported(name, path, known) for name, path in known.items()}


def part_of(module: str) -> str | None:
    """The folder below the package that a module lies in, None for those beside the folders."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in PARTS else None


@pytest.mark.parametrize("part", PARTS)
def test_a_part_imports_only_from_those_above_it(part: str) -> None:
    above = {*PARTS[: PARTS.index(part)], part, None}
    for module, targets in imports().items():
        if part_of(module) == part:
            below = [target for target in targets if part_of(target) not in above]
            assert not below, f"{module} imports {below[0]}, which lies below it"


def test_no_modules_import_each_other_in_a_circle() -> None:
    order = TopologicalSorter(imports())
    try:
        order.prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' <- '.join(error.args[1])}")


def test_a_circle_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    circle = {"a": {"b"}, "b": {"c"}, "c": {"a"}}
    monkeypatch.setattr(f"{__name__}.imports", lambda: circle)
    with pytest.raises(pytest.fail.Exception, match="a circle: "):
        test_no_modules_import_each_other_in_a_circle()


def test_no_test_imports_another() -> None:
    """What several of them use is in a module of its own, whose name says what it is."""
    tests = modules(Path(__file__).parent)
    of_tests = [name for name in tests if name.rpartition(".")[2].startswith("test_")]
    assert __name__ in of_tests
    others = {name: imported(name, path, of_tests) - {name} for name, path in tests.items()}
    assert {name: targets for name, targets in others.items() if targets} == {}


def test_every_folder_is_a_part() -> None:
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} <= {*PARTS, "conf"}


@pytest.mark.parametrize(
    "module", ["provfl_cli", "provfl_cli.cli", "provfl_cli.config.validate", "provfl_cli.fusion.fedprox"]
)
def test_torch_is_not_imported(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch._C' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_is_put_off_is_imported_when_it_is_first_used() -> None:
    code = """
import sys
from provfl_cli.imports import later
wave = later("wave")
assert "wave" not in sys.modules
assert wave.Error is sys.modules["wave"].Error
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_the_heart_stands_alone() -> None:
    """A trace needs the fusions and the files of rounds; no runner, and not what configures one."""
    code = """
import sys
from provfl_cli.provenance import *
runner = ("config", "data", "models", "flower", "nvflare", "federation", "attribution", "run", "cli", "reporting")
runner += ("results", "recording")
more = [name for name in sys.modules if name.split(".")[:2] in [["provfl_cli", part] for part in runner]]
others = ("hydra", "omegaconf", "antlr4", "ray", "flwr", "nvflare", "pandas._libs")
more += [name for name in others if name in sys.modules]
sys.exit(", ".join(more) or 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_settings_of_a_trace_import_no_torch() -> None:
    code = (
        "import sys; from provfl_cli.provenance import preset; preset('faithful'); sys.exit('torch._C' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_a_run_imports_nothing_that_takes_seconds_and_is_not_needed() -> None:
    code = """
import sys
import provfl_cli.run.job
from provfl_cli.config.compose import compose_jobs, validated
from provfl_cli.data.load import federated_data
from provfl_cli.federation.client import full_gradient, train_client
from provfl_cli.models.build import build
small = ["partition=iid", "partition.max_examples_per_client=100", "federation.clients=2"]
batches = ["federation.batch_size=8", "federation.accumulate=3"]
((_, made),) = compose_jobs(["dataset=mnist", "model=lenet", *small, *batches])
config = validated(made)
data = federated_data(config)
model = build(config.model, data.form, len(data.label_names), 0)
train_client(model, data.clients[0], config.federation, config.fusion, 0, 1)
full_gradient(model, data.clients[0], config.federation, 0, 1)
there = [name for name in ("seaborn", "matplotlib", "scipy.stats", "sympy", "torch._dynamo") if name in sys.modules]
assert not there, there
import flwr_datasets
assert callable(flwr_datasets.visualization.plot_label_distributions)
assert "seaborn" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def fusion_classes() -> set[str]:
    """Names of the classes that the configuration calls fusions."""
    targets = (re.findall(r"_target_: *(\S+)", path.read_text()) for path in (conf_dir() / "fusion").glob("*.yaml"))
    return {target.rpartition(".")[2] for (target,) in targets}


@pytest.mark.slow
def test_nobody_outside_knows_a_fusion_by_its_class() -> None:
    """What a fusion needs it states; only the recorder of Flower's strategies makes fusions, those that match them."""
    classes = fusion_classes()
    assert {"FedAvg", "Krum", "Scaffold", "TrimmedMean"} <= classes
    for module in PACKAGE.rglob("*.py"):
        if module.relative_to(PACKAGE).parts[0] in ("fusion", "flower"):
            continue
        for node in nodes(module):
            names = {getattr(node, field, None) for field in ("id", "attr", "name", "value")}
            known = {name for name in names if isinstance(name, str)} & classes
            assert not known, f"{module.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)} names {known}"


@pytest.mark.parametrize("name", sorted(fusion_classes() - {"FedAvg"}))
def test_no_fusion_is_another_ones_subclass(name: str) -> None:
    (fusion,) = {
        type(configured(option)) for option in tree.options("fusion") if type(configured(option)).__name__ == name
    }
    assert not {above.__name__ for above in fusion.__mro__[1:]} & fusion_classes()


UNPICKLING = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
READING = ("load", "read_pickle")  # how what is called below ends: of all calls, few have to be written out


def test_nothing_that_unpickles_is_imported_or_called() -> None:
    """What comes from a file or another process is arrays, JSON and YAML."""
    for module in PACKAGE.rglob("*.py"):
        for node in nodes(module):
            where = f"{module.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import):
                assert not UNPICKLING & {alias.name.split(".")[0] for alias in node.names}, where
            elif isinstance(node, ast.ImportFrom) and not node.level:
                assert (node.module or "").split(".")[0] not in UNPICKLING, where
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in READING:
                called = ast.unparse(node.func)
                assert called not in ("pd.read_pickle", "pandas.read_pickle"), where
                # torch.load of other people's files builds tensors and plain containers only where it is told to.
                assert called != "torch.load" or "weights_only=True" in ast.unparse(node), where
                # np.load of an .npz refuses objects only where it is told to.
                assert called != "np.load" or "allow_pickle=False" in ast.unparse(node), where


WHOLE = {  # what takes a whole configuration, and why; all else takes the blocks and values that it uses
    "run.job.run": "puts a run together out of its parts",
    "trackers.tracking.settings_of": "writes every setting for a tracker",
    "data.injection.Injection.fits": "checks the whole when it is validated",
    "data.injection.NoInjection.fits": "checks the whole when it is validated",
    "data.backdoor.Backdoor.fits": "checks the whole when it is validated",
    "data.attackers.FreeRider.fits": "checks the whole when it is validated",
    "data.attackers.ScaledUpdate.fits": "checks the whole when it is validated",
    "data.load.federated_data": "puts the data together: loaded, dealt to clients, faults planted, made tensors",
    "data.load.clean_twin": "does the same without the faults",
    "data.load.test_set": "reads a run's test set as `federated_data` does",
    "data.load._prepared": "part of these",
    "data.load._client": "part of these",
    "data.load._size": "part of these",
    "data.load._lines": "part of these two",
    "federation.train.federated_rounds": "puts a training together",
    "federation.warm_start.initial_model": "makes what that starts from, of its base, data and model",
    "federation.warm_start.has_base": "part of it",
    "federation.warm_start.base_weights": "part of it",
    "federation.warm_start._key": "hashes every setting that a base depends on",
    "run.prepared.prepared": "gets a run ready: data, model and checks of all that has to go together",
    "run.prepared.Prepared": "what the parts of a run share",
    "run.scope.with_scope": "settles a setting that depends on model and data",
    "federation.train._space": "part of `federated_rounds`",
    "federation.key.training_key": "hashes every setting that a training depends on",
    "federation.round.Training": "what the rounds of a training share",
    "federation.site.make_site": "makes that on another machine",
    "federation.flower.engine.flower": "sends it there as text",
    "retraining.subset.subset": "changes it to that of fewer clients",
    "retraining.subset.why_not": "asks whether that can be trained",
    "retraining.train.Whole": "what all federations that are trained again share",
    "retraining.others.from_the_beginning": "makes the configuration of a smaller federation",
    "retraining.others.continued": "makes that of one that goes on",
    "retraining.others.is_trained": "a training key hashes nearly all of it",
    "retraining.others.trained": "trains a federation",
    "run.retrained.Questions.whole": "puts that together",
    "run.open_run.OpenFederation": "keeps the run's, to train it again where somebody asks for that",
    "run.retrained.others_of": "asks for the clean twin's",
    "run.retrained.before_training": "asks whether federations of fewer clients can be trained",
}


def takers_of_the_whole(source: str) -> list[str]:
    """Functions with a parameter, and classes with a field, whose type is `Config`, or has to do with it."""
    taken = []

    def has_it(annotation: ast.expr | None) -> bool:
        return annotation is not None and re.search(r"(?<!\w)Config\b", ast.unparse(annotation)) is not None

    def visit(node: ast.AST, above: tuple[str, ...]) -> None:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            above = (*above, node.name)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            parameters += [more for more in (node.args.vararg, node.args.kwarg) if more is not None]
            if any(has_it(parameter.annotation) for parameter in parameters):
                taken.append(".".join(above))
        if isinstance(node, ast.ClassDef) and any(
            isinstance(line, ast.AnnAssign) and has_it(line.annotation) for line in node.body
        ):
            taken.append(".".join(above))
        for inner in ast.iter_child_nodes(node):
            visit(inner, above)

    visit(ast.parse(source), ())
    return taken


@pytest.mark.slow
def test_parts_take_blocks_and_values_and_not_the_whole_configuration() -> None:
    for name, path in modules().items():
        if part_of(name) == "config":
            continue
        for taker in takers_of_the_whole(path.read_text(encoding="utf-8")):
            place = f"{name.removeprefix('provfl_cli.')}.{taker}"
            assert place in WHOLE, f"{place} takes a whole Config: give it the blocks or values that it uses"


@pytest.mark.parametrize(
    ("source", "takers"),
    [
        ("def show(config: Config) -> None: ...", ["show"]),
        ("def show(*, made: schema.Config | None = None) -> None: ...", ["show"]),
        ("def show(*configs: 'Config') -> None: ...", ["show"]),
        ("class Part:\n    def show(self, all: Sequence[Config]) -> None: ...", ["Part.show"]),
        ("class Part:\n    config: Config", ["Part"]),
        ("def show(federation: Federation, cfg: DictConfig) -> Config: ...", []),
        ("def outer():\n    def inner(config: Config): ...", ["outer.inner"]),
    ],
)
def test_a_whole_configuration_is_seen(source: str, takers: list[str]) -> None:
    assert takers_of_the_whole(source) == takers


def test_the_top_level_holds_what_was_agreed_and_no_more() -> None:
    """A run's cache that was committed by mistake would stay in the history."""
    root = PACKAGE.parent
    if not (root / ".git").exists():
        pytest.skip("no checkout of the repository")
    tracked = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    top = {line.partition("/")[0] for line in tracked if line}
    agreed = {
        "pyproject.toml",
        "conf",
        "provfl_cli",
        "scripts",
        "tests",
        "outputs",
        "README.md",
        "LICENSE",
        "CITATION.cff",
    }
    assert {name for name in top if not name.startswith(".")} == agreed
