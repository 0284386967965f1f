"""Data flows one way: a part imports only from the parts above it; and torch stays out of what has to be quick."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "provfl_cli"
PARTS = (
    "config", "data", "models", "fusion", "store", "flower", "federation",
    "provenance", "attribution", "evaluation", "reporting", "run", "cli",
)  # fmt: skip


def imported_parts(module: Path) -> set[str]:
    """Parts of the package that a module imports, wherever in the file."""
    found = set()
    depth = len(module.relative_to(PACKAGE).parts)  # 2 for a module directly in a part
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            names = [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]
            found.update(names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("provfl_cli."):
            found.add((node.module or "").split(".")[1])
    return found & set(PARTS)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_imports_only_from_those_above_it(part: str) -> None:
    above = {*PARTS[: PARTS.index(part)], part}
    for module in (PACKAGE / part).rglob("*.py"):
        assert imported_parts(module) <= above, f"{module.relative_to(PACKAGE)} imports a part below it"


def test_every_folder_is_a_part() -> None:
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} <= {*PARTS, "conf"}


@pytest.mark.parametrize(
    "module", ["provfl_cli", "provfl_cli.cli", "provfl_cli.config.validate", "provfl_cli.fusion.fedprox"]
)
def test_torch_is_not_imported(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
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
((_, made),) = compose_jobs(["dataset=mnist", "model=lenet", "federation.batch_size=8", "federation.accumulate=3"])
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


UNPICKLING = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def test_nothing_that_unpickles_is_imported_or_called() -> None:
    """What comes from a file or another process is arrays, JSON and YAML."""
    for module in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            where = f"{module.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import):
                assert not UNPICKLING & {alias.name.split(".")[0] for alias in node.names}, where
            elif isinstance(node, ast.ImportFrom) and not node.level:
                assert (node.module or "").split(".")[0] not in UNPICKLING, where
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("torch.load", "pd.read_pickle", "pandas.read_pickle"), where
                # np.load of an .npz refuses objects only where it is told to.
                assert called != "np.load" or "allow_pickle=False" in ast.unparse(node), where
