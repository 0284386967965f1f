"""What every test needs: the project on the path, and a folder of its own to work in where it asks for one."""

import gc
import multiprocessing
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest
from absl import logging as absl_logging

REPOSITORY = Path(__file__).resolve().parent.parent
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))
THRESHOLD = 10_000  # new objects between two collections
LONG = ("test_experiments", "test_nvflare_simulator", "test_flower_engine")  # few tests, or each of many seconds
os.environ.pop("HYDRA_FULL_ERROR", None)
# A shell's background job ignores Ctrl-C, and so would every process that a test starts and means to interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Several processes share the cores here: threads that wait for work must not spin, a third of all time went there.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Half of collecting the tests was to rewrite their assertions, again in each process where Python may keep no bytecode.
KEEPS_NO_BYTECODE, sys.dont_write_bytecode = sys.dont_write_bytecode, False
# What tests import makes a million objects that stay: looking for cycles among them again and again took a quarter.
gc.disable()
# Imported once by the process that forks what tests kill; whoever names modules last decides, so all are named here.
multiprocessing.set_forkserver_preload(["tests.processes", "tests.commands"])
# Made while pytest captures, absl's handler (dp-accounting imports it) would take pytest's own file for its stream, and
# close it as soon as Hydra configures logging in the same process: every later test there would fail.
absl_logging.get_absl_handler().python_handler.setStream(sys.__stderr__)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long go first: one of them at the end would have nothing beside it."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (item.path.stem not in LONG, -slow[item.path]))


def pytest_collection_finish() -> None:
    """What the tests import stays, and no collection of cycles goes through it: Flower has one after every client."""
    sys.dont_write_bytecode = KEEPS_NO_BYTECODE
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(THRESHOLD, 10, 10)  # as the command line has it (provfl_cli/garbage.py)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a training cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PROVFL_CACHE", raising=False)
    return tmp_path


@pytest.fixture
def shared_data() -> Path:
    """The folder of real images and texts beside the project; skips the test where it is missing."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data")
    return folder
