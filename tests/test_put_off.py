"""Imports that are put off: that the libraries still do them for nothing, and that nothing else is put off."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "provfl_cli"
# By the module that is put off: what imports it, the file here that puts it off, and what comes with it.
PUT_OFF = {
    "torch._dynamo.utils": ("torchvision.models", "models/torchvision.py", "torch._dynamo.config"),
    "flwr_datasets.visualization": ("flwr_datasets.partitioner", "data/partition.py", "seaborn"),
}


def imported(library: str, module: str) -> bool:
    """Whether a Python that imports nothing but `library` has then imported `module`."""
    code = f"import sys, {library}; print({module!r} in sys.modules)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"


@pytest.mark.slow
@pytest.mark.parametrize("module", PUT_OFF)
def test_the_library_still_imports_it_by_itself(module: str) -> None:
    library, file, costly = PUT_OFF[module]
    assert all(imported(library, name) for name in (module, costly)), (
        f"importing {library} no longer imports {module} and with it {costly}: delete put_off({module!r}) from "
        f"provfl_cli/{file}, its lines here and in put_off, and with the last one this file and put_off itself"
    )


def test_a_library_that_does_not_import_it_is_seen() -> None:
    assert imported("json", "json.decoder")
    assert not imported("json", "seaborn")


@pytest.mark.slow
def test_what_is_put_off_is_watched() -> None:
    """Each use of `put_off` is in the table above, and each line of the table is used."""
    uses = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "put_off":
                uses.add((ast.literal_eval(node.args[0]), path.relative_to(PACKAGE).as_posix()))
    assert uses == {(module, file) for module, (_, file, _) in PUT_OFF.items()}
