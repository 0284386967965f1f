"""The set-up scripts, with a Python that only writes down what it is asked to do: no network, no waiting."""

import os
import shutil
import signal
import subprocess
import time
from importlib import import_module
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PYPROJECT = """[project]
name = "provfl"

[project.optional-dependencies]
flower = ["flwr"]
privacy = ["dp-accounting"]
test = ["pytest"]

[project.scripts]
provfl = "provfl_cli.cli:main"
"""
FAKE_PYTHON = """#!/usr/bin/env bash
case "$1 $2" in
"-m venv")
    echo "venv" >>"$FAKE_LOG"
    rm -rf "$4"; mkdir -p "$4/bin"; touch "$4/pyvenv.cfg"
    cp "$0" "$4/bin/python"
    printf '#!/usr/bin/env bash\\necho "provfl $*"\\n' >"$4/bin/provfl"
    chmod +x "$4/bin/provfl" ;;
"-m pip")
    [[ $3 == --version ]] && exit 0
    echo "pip ${@: -1}" >>"$FAKE_LOG"
    sleep "${FAKE_SECONDS:-0}"
    echo "pip is noisy"
    [[ -z ${FAKE_FAILURE:-} ]] || { echo "ERROR: no such package"; exit 1; } ;;
"-m pytest") shift 2; echo "pytest $* in $PWD" ;;
*) exit "${FAKE_TOO_OLD:-0}" ;;
esac
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project that consists of its scripts and a pyproject.toml."""
    root = tmp_path / "a project"
    shutil.copytree(REPOSITORY / "scripts", root / "scripts")
    (root / "pyproject.toml").write_text(PYPROJECT)
    fake = tmp_path / "bin" / "python3"
    fake.parent.mkdir()
    fake.write_text(FAKE_PYTHON)
    fake.chmod(0o755)
    return root


def environment(root: Path, **more: str) -> dict[str, str]:
    """Variables under which the fake Python is the one that is found first."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PROVFL_")}
    path = f"{root.parent / 'bin'}:{inherited['PATH']}"
    return {**inherited, "PATH": path, "HOME": str(root.parent), "FAKE_LOG": str(root.parent / "log"), **more}


def call(root: Path, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a script of the project and wait for it."""
    command = (str(root / "scripts" / command[0]), *command[1:])
    return subprocess.run(command, env=environment(root, **more), capture_output=True, text=True, timeout=30)


def done(root: Path) -> list[str]:
    """What the fake Python was asked to do so far, the folder of the project left out."""
    log = root.parent / "log"
    return log.read_text().replace(str(root), "").splitlines() if log.exists() else []


def test_first_call_installs_and_the_second_does_not(project: Path) -> None:
    first = call(project, "provfl", "run", "model=lenet", "a b")
    assert (first.returncode, first.stdout) == (0, "provfl run model=lenet a b\n")
    assert len(first.stderr.splitlines()) == 1
    assert "2 to 5 minutes" in first.stderr
    second = call(project, "provfl", "--help")
    assert (second.stdout, second.stderr) == ("provfl --help\n", "")
    assert done(project) == ["venv", "pip "]


@pytest.mark.slow
def test_extras_are_added_and_never_dropped(project: Path) -> None:
    call(project, "provfl", PROVFL_EXTRAS="privacy,flower")
    result = call(project, "test", "-k", "config")
    assert result.stdout == f"pytest -k config in {project}\n"
    for script, extras in (("provfl", ""), ("test", "flower"), ("provfl", "test,privacy")):
        assert call(project, script, PROVFL_EXTRAS=extras).stderr == ""
    (project / "pyproject.toml").write_text(PYPROJECT + "# changed\n")
    call(project, "provfl")
    assert done(project) == ["venv", "pip [flower,privacy]", "pip [flower,privacy,test]", "pip [flower,privacy,test]"]


def test_unknown_extra_is_refused(project: Path) -> None:
    result = call(project, "provfl", PROVFL_EXTRAS="flowr")
    assert result.returncode == 2
    assert "no extra 'flowr'; accepted: flower,privacy,test" in result.stderr
    assert done(project) == []


@pytest.mark.slow
def test_interrupted_installation_is_repaired(project: Path) -> None:
    call(project, "test")
    (project / "pyproject.toml").write_text(PYPROJECT + "# changed\n")
    process = subprocess.Popen(
        [str(project / "scripts" / "provfl")],
        env=environment(project, FAKE_SECONDS="20"),
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while len(done(project)) < 3:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    result = call(project, "provfl", "--version")
    assert result.stdout == "provfl --version\n"
    assert "interrupted" in result.stderr
    assert done(project)[3:] == ["venv", "pip [test]"]
    assert call(project, "test").stderr == ""


def test_ctrl_c_leaves_the_mark_of_an_unfinished_installation(project: Path) -> None:
    process = subprocess.Popen(
        [str(project / "scripts" / "provfl")],
        env=environment(project, FAKE_SECONDS="20", FAKE_FAILURE="1"),
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while len(done(project)) < 2:
        time.sleep(0.02)
    time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(10) != 0
    assert (project / ".venv" / "provfl.unfinished").exists()
    assert not (project / ".venv" / "provfl.stamp").exists()


def test_failed_installation_names_its_log_and_is_tried_again(project: Path) -> None:
    failed = call(project, "provfl", FAKE_FAILURE="1")
    assert failed.returncode == 1
    assert "ERROR: no such package" in failed.stderr
    assert "pip is noisy" not in failed.stderr
    log = project / ".venv" / "install.log"
    assert str(log) in failed.stderr
    assert "pip is noisy" in log.read_text()
    assert call(project, "provfl").stdout == "provfl \n"


def test_two_first_calls_install_once(project: Path) -> None:
    processes = [
        subprocess.Popen(
            [str(project / "scripts" / "provfl")],
            env=environment(project, FAKE_SECONDS="0.5"),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(3)
    ]
    assert [process.communicate(timeout=30)[0] for process in processes] == ["provfl \n"] * 3
    assert done(project) == ["venv", "pip "]


def test_another_folder_by_variable_but_never_over_other_files(project: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    assert call(project, "provfl", PROVFL_VENV=str(elsewhere)).returncode == 0
    assert (elsewhere / "provfl.stamp").exists()
    assert not (project / ".venv").exists()
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("everything")
    refused = call(project, "provfl", PROVFL_VENV=str(precious))
    assert refused.returncode == 1
    assert "no virtual environment" in refused.stderr
    assert (precious / "thesis.tex").exists()


def test_no_python_that_is_new_enough(project: Path) -> None:
    tools = project.parent / "bin"
    names = "bash env dirname sha256sum shasum cut tr sed sort paste awk grep ls flock mkdir rm mv cp"
    for name, path in ((name, shutil.which(name)) for name in names.split()):
        if path:
            (tools / name).symlink_to(path)
    result = call(project, "provfl", PATH=str(tools), FAKE_TOO_OLD="1")
    assert result.returncode == 1
    assert "no Python 3.11" in result.stderr


def test_ci_makes_its_own_environment_and_shows_the_closing_lines(project: Path) -> None:
    shutil.copytree(REPOSITORY / ".ci", project / ".ci")
    fake = project.parent / "bin" / "python3"
    tools = "".join(
        f'printf \'#!/usr/bin/env bash\\nexit {code}\\n\' >"$4/bin/{name}"; chmod +x "$4/bin/{name}"; '
        for name, code in (("ruff", 0), ("mypy", 1))
    )
    fake.write_text(FAKE_PYTHON.replace('touch "$4/pyvenv.cfg"', f'touch "$4/pyvenv.cfg"; {tools}'))
    nobody = fake.with_name("id")  # who may not install a browser
    nobody.write_text("#!/usr/bin/env bash\necho 1000\n")
    nobody.chmod(0o755)
    result = subprocess.run(
        [str(project / ".ci" / "run")], env=environment(project), capture_output=True, text=True, timeout=30
    )
    assert result.returncode == 1
    assert result.stdout.splitlines() == [f"pytest  in {project}", "failed: mypy"]
    assert not (project / ".venv").exists()
    assert done(project) == ["venv", "pip [test]"]


def test_scripts_are_executable() -> None:
    for name in ("scripts/provfl", "scripts/test", ".ci/run"):
        assert os.access(REPOSITORY / name, os.X_OK)


FAKE_TOOLS = {
    "ruff": "exit 0",
    "mypy": "exit ${FAKE_MYPY:-0}",
    "python": """case "$*" in
"-m pytest"*) echo "${FAKE_SUMMARY:-}"; echo "==== 5 passed, 1 skipped in 1.0s ===="; exit ${FAKE_TESTS:-0} ;;
esac""",
}
SKIPPED = "SKIPPED [16] tests/test_report_browser.py:26: no browser: apt-get install chromium"


def checked(root: Path, *path: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """What `.ci/run` says where everything that it calls is a stand-in."""
    shutil.copytree(REPOSITORY / ".ci", root / ".ci", dirs_exist_ok=True)
    venv, tools = root / "venv" / "bin", root.parent / "tools"
    venv.mkdir(parents=True, exist_ok=True)
    for name, body in FAKE_TOOLS.items():
        (venv / name).write_text(f"#!/bin/bash\n{body}\n")
        (venv / name).chmod(0o755)
    (root / "scripts" / "environment").write_text("root=$PWD\nvenv=$PROVFL_VENV\nprepare() { :; }\n")
    tools.mkdir(exist_ok=True)
    for name in ("bash", "env", "dirname", "mktemp", "sed", "tee", "rm", "timeout", "cat"):
        if not (tools / name).exists():
            (tools / name).symlink_to(shutil.which(name))  # type: ignore[arg-type]
    search = ":".join(map(str, (*path, tools)))
    variables = {"PATH": search, "PROVFL_VENV": str(root / "venv"), "HOME": str(root), "LOG": str(root / "log"), **more}
    command = (str(root / ".ci" / "run"),)
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize(("more", "code"), [({}, 0), ({"FAKE_TESTS": "1"}, 1), ({"FAKE_MYPY": "1"}, 1)])
def test_a_check_without_a_browser_says_so_last(project: Path, more: dict[str, str], code: int) -> None:
    done = checked(project, FAKE_SUMMARY=SKIPPED, **more)
    assert done.returncode == code
    lines = done.stdout.splitlines()
    assert lines[-1] == "not tested: the page in a browser (no browser: apt-get install chromium)"
    assert "==== 5 passed, 1 skipped in 1.0s ====" in lines
    assert any(line.startswith("failed: ") for line in lines) == bool(code)
    other = checked(project, FAKE_SUMMARY="SKIPPED [1] tests/test_run.py:3: no GPU", **more)
    assert other.returncode == code
    assert "not tested" not in other.stdout


@pytest.mark.parametrize(
    ("user", "browser", "asked"), [("0", "", True), ("1000", "", False), ("0", "chromium-browser", False)]
)
def test_a_check_installs_a_browser_where_it_may(project: Path, user: str, browser: str, asked: bool) -> None:
    there = project.parent / "there"
    there.mkdir()
    # It fails, as without a network: the check goes on.
    tools = {"id": f"echo {user}", "apt-get": 'echo "$*" >>"$LOG"; echo noise; [[ $1 == update ]]'}
    for name, body in {**tools, **({browser: "exit 0"} if browser else {})}.items():
        (there / name).write_text(f"#!/bin/bash\n{body}\n")
        (there / name).chmod(0o755)
    done = checked(project, there)
    assert (done.returncode, "noise" in done.stdout + done.stderr) == (0, False)
    log = project / "log"
    assert (log.exists() and log.read_text().splitlines()[1].endswith("chromium")) == asked


@pytest.mark.slow  # for what they import
@pytest.mark.parametrize("script", sorted((REPOSITORY / "scripts").rglob("*.py")), ids=lambda path: path.stem)
def test_what_scripts_import_is_there(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else runs the benchmarks here: a name that has moved would be missed by who needs them next."""
    if script.stem == "by_pfl":
        pytest.importorskip("pfl")
    if "flower" in script.stem:
        pytest.importorskip("flwr")
    monkeypatch.syspath_prepend(REPOSITORY / "scripts")
    name = ".".join(script.relative_to(REPOSITORY / "scripts").with_suffix("").parts)
    import_module(name.removesuffix(".__init__"))
