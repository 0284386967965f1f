"""What every test needs: the project on the path, and a folder of its own to work in where it asks for one."""

import os
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))
os.environ.pop("HYDRA_FULL_ERROR", None)


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
