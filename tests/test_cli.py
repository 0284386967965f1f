"""The command line through its real entry point: exit codes, one line for what is wrong, help without torch."""

import errno
import gc
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from keyword import iskeyword
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from hydra._internal.hydra import Hydra
from omegaconf import OmegaConf

import provfl_cli.cli.ls as ls
from provfl_cli.cli import COMMANDS, main
from provfl_cli.cli.completion import split_line, words
from provfl_cli.cli.ended import answer_signals, signal_that_came
from provfl_cli.config.schema import Config
from provfl_cli.config.tree import options
from provfl_cli.errors import InputError, RunError
from provfl_cli.garbage import THRESHOLD
from provfl_cli.waiting_threads import choose_waiting

REPOSITORY = Path(__file__).resolve().parent.parent
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The jobs that were started; a fake takes the place of training. Some seeds stand for ways to fail."""
    started: list[Config] = []

    def fake(config: Config, folder: Path, quiet: bool = False) -> None:
        started.append(config)
        if config.seed == 2:
            raise InputError("dataset.label_column=label: no such column,\naccepted: image")
        if config.seed == 12:
            raise RunError("round 3: loss is not a number")
        if config.seed == 13:
            raise KeyError("unlucky")
        if config.seed == 130:
            raise KeyboardInterrupt
        (folder / "summary.json").write_text(json.dumps({"threshold": config.threshold}))

    monkeypatch.setattr("provfl_cli.cli.job.composition", SimpleNamespace(run=fake))
    return started


def provfl(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, with another working folder than the project's."""
    return subprocess.run(
        [sys.executable, "-m", "provfl_cli", *arguments],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


WRONG = {  # a command line, and what its one line has to contain
    "unknown command": (["rnu"], "did you mean run?"),
    "unknown flag": (["run", "--multi-run"], "--multi-run"),
    "unknown choice of a flag": (["run", "--cfg", "jb"], "'job'"),
    "two flags": (["run", "--cfg", "job", "-m"], "one of them at a time"),
    "unknown option": (["run", "model=lennet"], "model=lennet: did you mean lenet"),
    "unknown option of a list": (["run", "model=[a]"], "model=a"),
    "unknown group": (["run", "modle=lenet"], "did you mean model?"),
    "unknown group added": (["run", "+modle=lenet"], "did you mean model?"),
    "unknown key": (["run", "federation.round=2"], "did you mean federation.rounds?"),
    "unknown key without its block": (["run", "rounds=2"], "federation.rounds"),
    "unknown key added": (["run", "+federation.foo=2"], "federation.foo: no such key"),
    "unknown key far from all": (["run", "federation.zzz=2"], "learning_rate"),
    "unknown key of a model": (["run", "model=resnet18", "model.pretraind=true"], "did you mean model.pretrained?"),
    "key below a value": (["run", "federation.rounds.x=2"], "federation.rounds.x=2: no such key"),
    "unknown experiment": (["run", "experiment=smok"], "did you mean smoke?"),
    "unknown launcher": (["run", "hydra/launcher=joblob"], "hydra/launcher=joblob"),
    "wrong type: number": (["run", "federation.rounds=abc"], "federation.rounds=abc: must be a whole number"),
    "wrong type: fraction": (["run", "federation.rounds=2.5"], "federation.rounds=2.5: must be a whole number"),
    "wrong type: null": (["run", "federation.rounds=null"], "federation.rounds=null: must be a whole number"),
    "wrong type: list": (["run", "dataset.mean=0.5"], "dataset.mean=0.5: must be a list of numbers"),
    "wrong type: flag": (["run", "tracefl_beside=maybe"], "must be true or false"),
    "wrong type: model": (["run", "model=resnet18", "model.pretrained=abc"], "auto, true or false"),
    "wrong type: block": (["run", "federation=5"], "federation is a block of keys"),
    "wrong type: threshold": (["run", "threshold=high"], "threshold=high: must be a number or null"),
    "wrong word": (["run", "federation.optimizer=adamm"], "did you mean adam or adamw?"),
    "out of range: rounds": (["run", "federation.rounds=0"], "federation.rounds=0: must be 1 or more"),
    "out of range: rate": (["run", "federation.learning_rate=nan"], "finite number"),
    "out of range: seed": (["run", "seed=-1"], "seed=-1"),
    "out of range: alpha": (["run", "partition.alpha=0"], "partition.alpha=0"),
    "cross-field: clients": (["run", "federation.clients_per_round=11"], "federation.clients=10"),
    "cross-field: rounds": (["run", "provenance.rounds=[16]"], "federation.rounds=15"),
    "cross-field: lineage": (["run", "provenance=gradients", "provenance.scope=lineage"], "provenance.of=updates"),
    "cross-field: injection": (["run", "injection=label_flip", "injection.clients=[10]"], "0 to 9"),
    "missing folder": (["run", "dataset.path=/nowhere"], "dataset.path=/nowhere: no such folder"),
    "path without a folder": (["run", "dataset.source=path"], "dataset.path=DIR"),
    "no embedded form": (["run", "dataset=cifar10", "dataset.source=embedded"], "no embedded form"),
    "deleted key": (["run", "~seed"], "seed is missing"),
    "deleted group": (["run", "~model"], "model is missing"),
    "deleted what is not there": (["run", "~foo"], "foo"),
    "no value": (["run", "seed=???"], "seed is missing"),
    "syntax: no equals sign": (["run", "federation.rounds"], "KEY=VALUE"),
    "syntax: open bracket": (["run", "provenance.rounds=[1,2"], "KEY=[a,b]"),
    "syntax: blank in a key": (["run", "a b=3"], "KEY=VALUE"),
    "sweep without -m": (["run", "model=lenet,resnet18"], "add -m"),
    "range without -m": (["run", "seed=range(0,3)"], "add -m"),
    "interpolation": (["run", "federation.rounds=${nothing}"], "'nothing' not found"),
    "missing config dir": (["run", "--config-dir", "nowhere"], "--config-dir nowhere: no such folder"),
    "missing config name": (["run", "--config-name", "confg"], "did you mean config?"),
    "target of another kind": (["run", "fusion._target_=os.path.join"], "not a dataclass"),
    "target that is not there": (["run", "fusion._target_=nowhere.Fusion"], "cannot be imported"),
    "mode": (["run", "hydra.mode=SWEEP"], "RUN, MULTIRUN"),
    "sweep: a later job": (["run", "-m", "seed=0,1,2,-3"], "seed=-3"),
    "sweep: an option of a later job": (["run", "-m", "model=lenet,lennet"], "did you mean lenet"),
    "sweep: no such sweep": (["run", "-m", "threshold=interval(0,1)"], "INTERVAL"),
    "shell": (["run", "-sc", "install=csh"], "csh"),
    "unknown flag: the nearest": (["run", "--multi-run"], "did you mean --multirun?"),
    "unknown flag of trace": (["trace", "x", "--verfy"], "--verfy: no such flag, did you mean --verify?"),
    "unknown flag of table": (["table", "x", "--fromat", "csv"], "did you mean --format?"),
    "unknown flag of cp": (["cp", "--forc", "model/lenet", "x"], "did you mean --force?"),
    "unknown flag of reproduce": (["reproduce", "thresholds", "--scal", "smoke"], "did you mean --scale?"),
    "unknown flag of ls": (["ls", "--hlep"], "did you mean --help?"),
    "one argument too many": (["trace", "x", "y"], "y: more than the command takes"),
    "capitals": (["run", "dataset=MNIST"], "dataset=MNIST: did you mean mnist?"),
    "capitals: a word": (["run", "federation.optimizer=Adam"], "did you mean adam?"),
    "capitals: a command": (["RUN"], "did you mean run?"),
    "device: gpu": (["run", "device=gpu"], "did you mean cuda (NVIDIA, AMD)"),
    "device: which": (["run", "device=cuda:1"], "CUDA_VISIBLE_DEVICES"),
    "ls: an option": (["ls", "lenet"], "lenet is an option of model: provfl ls model"),
    "ls: a group and an option": (["ls", "model/LeNet"], "provfl ls model"),
    "ls: a key": (["ls", "federation.rounds"], "provfl ls federation"),
    "cp: without its group": (["cp", "lenet", "x"], "did you mean model/lenet?"),
    "empty: a folder": (["trace", ""], "RUN: is empty"),
    "empty: a value": (["trace", "x", "--out", ""], "--out: is empty"),
    "empty: one of several": (["table", "x", ""], "RUNS: is empty"),
    "long: a folder": (["trace", "x" * 5000], "RUN xxx"),
    "long: a name": (["trace", "x" * 300], "file name too long"),
    "long: a number": (
        ["trace", "x", "--input", "9" * 4000],
        "must be a whole number, 0 or more",
    ),
    "table: ending": (["table", ".", "--out", "x.xlsx"], "--out x.xlsx: must end in one of .txt .csv .md .tex"),
    "table: a folder": (["table", "nowhere"], "nowhere: no such folder"),
    "report: a folder": (["report", "nowhere"], "nowhere: no such folder"),
    "repair: a folder": (["repair", "nowhere", "--without", "0"], "nowhere: no such folder"),
    "repair: who": (["repair", "nowhere"], "--without: who is to go? such as --without 0,4"),
    "repair: a way": (["repair", "nowhere", "--without", "0", "--how", "refus"], "--how refus: did you mean refuse?"),
    "repair: a start": (
        ["repair", "nowhere", "--without", "0", "--after", "x"],
        "--after x: accepted: lineage, refuse",
    ),
    "repair: rounds": (["repair", "nowhere", "--without", "0", "--rounds", "0"], "--rounds 0: must be a whole number"),
    "repair: ending": (["repair", "x", "--without", "0", "--out", "x.pt"], "--out x.pt: must end in .safetensors"),
    "figure: a folder": (["figure", "nowhere", "ranking", "--out", "x.pdf"], "nowhere: no such folder"),
    "import: a file": (["import", "--global", "a", "--previous", "b", "--client", "c=d"], "--global a: no such file"),
    "import: a client": (["import", "--global", "a", "--previous", "b", "--client", "c=d:-5"], "1 or more"),
    "empty: the run folder": (["run", "hydra.run.dir="], "hydra.run.dir: is empty"),
    "empty: the sweep's folder": (["run", "-m", "seed=1,2", "hydra.sweep.dir="], "hydra.sweep.dir: is empty"),
    "missing config path": (["run", "--config-path", "nowhere"], "--config-path nowhere: no such folder"),
    "out: below a file": (["table", "x", "--out", f"{__file__}/x.csv"], "test_cli.py is a file, no folder can be made"),
    "out: a folder": (["trace", "x", "--out", "/tmp"], "--out /tmp: is a folder, give a file"),
    "out: a file": (["reproduce", "thresholds", "--out", __file__], "test_cli.py: is a file, give a folder"),
    "ls: unknown group": (["ls", "modle"], "did you mean model?"),
    "ls: two groups": (["ls", "model", "fusion"], "one group"),
    "cp: unknown group": (["cp", "modle/lenet", "x.yaml"], "did you mean model/lenet?"),
    "cp: unknown option": (["cp", "model/lennet", "x.yaml"], "did you mean lenet"),
    "cp: no file": (["cp", "model/lenet"], "provfl cp"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_answered_in_one_line(name: str, workspace: Path, jobs: list[Config], capsys: Captured) -> None:
    arguments, expected = WRONG[name]
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert expected in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.err.startswith("provfl: ")
    assert captured.out == ""
    assert not list(workspace.iterdir()), "no run folder"
    assert not jobs, "nothing started, not even the first jobs of a sweep"


@pytest.mark.slow
def test_wrong_folders_and_arguments_are_answered_without_torch(workspace: Path) -> None:
    """In every command, so that nobody waits for seconds to be told of a slip."""
    (workspace / "federation").mkdir()
    (workspace / "federation" / "recorded.json").write_text(
        '{"format": 1, "source": "import", "clients": {}, "examples": {}, "labels": [], "fusion": []}'
    )
    (workspace / "run" / ".hydra").mkdir(parents=True)
    (workspace / "run" / ".hydra" / "config.yaml").write_text("seed: 0\n")
    lines = [
        *(
            arguments
            for arguments, _ in WRONG.values()
            if arguments[0] in ("trace", "table", "report", "import", "figure", "repair")
        ),
        ["trace", "."],
        ["trace", "run", "--model", "lenet"],
        ["trace", "run", "--image", "nothere.png"],
        ["trace", "run", "--inputs", "nothere.csv", "--out", "a.csv"],
        ["trace", "federation"],
        ["trace", "federation", "--model", "lennet", "--data", "x"],
        ["trace", "federation", "--model", "lenet", "--data", "nothere.safetensors"],
        ["trace", "federation", "--model", "lenet", "--data", "."],
        ["report", "federation"],
        ["figure", "federation", "ranking", "--out", "x.pdf"],
        ["import", "--global", ".", "--previous", "b", "--client", "c=d"],
        ["import", "--global", "a", "--previous", "b", "--client", "c=d", "--mismatch", "refus"],
        ["reproduce", "thresholds", "--runs", "nowhere"],
        ["run", "device=gpu"],
    ]
    code = (
        "import sys; from provfl_cli.cli import main\n"
        f"codes = [main(arguments) for arguments in {lines!r}]\n"
        "print(codes, [m for m in ('torch._C', 'datasets', 'matplotlib') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True
    )
    assert result.stdout == f"{[2] * len(lines)} []\n", result.stderr
    assert len(result.stderr.splitlines()) == len(lines)


def _hit(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(8)


def _hit_in_a_callback(number: int) -> None:
    """Where every import may be: the callback of a weak reference, which drops what is raised in it."""

    class Gone:
        pass

    gone = Gone()
    reference = weakref.ref(gone, lambda _: _hit(number))
    del gone
    assert reference() is None
    time.sleep(8)


def _hit_in_a_bare_except(number: int) -> None:
    with suppress(BaseException):
        _hit(number)
    time.sleep(8)


def _hit_and_replaced(number: int) -> None:
    try:
        _hit(number)
    finally:
        raise RunError("a worker process died")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "code", "meets"),
    [
        ("SIGTERM", 143, _hit),
        ("SIGHUP", 129, _hit),
        ("SIGTERM", 143, _hit_in_a_callback),
        ("SIGTERM", 143, _hit_in_a_bare_except),
        ("SIGTERM", 143, _hit_and_replaced),
    ],
)
def test_a_signal_that_ends_a_command_is_answered_in_one_line(
    name: str,
    code: int,
    meets: Callable[[int], None],
    workspace: Path,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Wherever it comes: an exception may be lost there, or another be raised in its stead."""
    number = getattr(signal, name)
    before = {ending: signal.signal(ending, signal.SIG_DFL) for ending in (signal.SIGTERM, signal.SIGHUP)}

    def hit(config: Config, folder: Path, quiet: bool = False) -> None:
        meets(number)

    monkeypatch.setattr("provfl_cli.cli.job.composition", SimpleNamespace(run=hit))
    monkeypatch.setattr(sys, "argv", ["provfl", "run", "-m", "seed=1,2"])
    try:
        assert main() == code
        assert signal.getsignal(number) == signal.SIG_DFL, "one that comes now ends the process without a traceback"
        assert signal_that_came() is None, "what comes to the next command of this process is its own"
    finally:
        for ending, handler in before.items():
            signal.signal(ending, handler)
    error = capsys.readouterr().err
    assert error == f"provfl: ended by {name}; the same command goes on from the last whole round\n"
    assert not list(workspace.rglob("config.yaml")), "no folder of a job in which nothing was computed"


@pytest.mark.skipif(sys.platform != "linux", reason="libgomp is what torch comes with on Linux")
@pytest.mark.parametrize(
    ("running", "before", "after"),
    [
        ("1/80", {}, {"GOMP_SPINCOUNT": "10000"}),
        ("9/80", {}, {"OMP_WAIT_POLICY": "PASSIVE"}),
        ("9/80", {"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ("1/80", {"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ("of another system", {}, {"GOMP_SPINCOUNT": "10000"}),
    ],
)
def test_threads_that_wait_sleep_where_others_want_the_cores(
    running: str, before: dict[str, str], after: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loadavg").write_text(f"0.20 0.18 0.12 {running} 11206\n")
    monkeypatch.setattr("provfl_cli.waiting_threads.RUNNING", tmp_path / "loadavg")
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    environment = dict(before)
    choose_waiting(environment)
    assert environment == after


def test_on_a_terminal_it_says_at_once_that_settings_are_checked(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert main(["run", "-m", "dataset=mnist", "seed=1,x"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("checking the settings …")
    assert "\r\x1b[2Kprovfl: seed=x" in error, "wiped before anything else is said"


def test_the_command_chooses_before_torch_is_there() -> None:
    code = "import sys; sys.argv = ['provfl', '--version']; from provfl_cli.cli import main; main(); import os; "
    code += "print(os.environ.get('OMP_WAIT_POLICY') or os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert said.stdout.split()[-2:] in (["PASSIVE", "False"], ["10000", "False"])


def test_a_signal_that_is_ignored_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        answer_signals()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.mark.parametrize("sweep", [False, True])
def test_a_full_disk_is_said_with_the_folder(
    sweep: bool, workspace: Path, jobs: list[Config], capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # of a write: it names no file

    monkeypatch.setattr(Hydra, "multirun" if sweep else "run", full)
    flags = ["-m", "seed=1,2", "hydra.sweep.dir=here"] if sweep else ["hydra.run.dir=here"]
    assert main(["run", *flags]) == 2
    error = capsys.readouterr().err
    assert error == "provfl: here: the run folder cannot be made or written to (No space left on device)\n"


def test_a_file_of_the_system_that_cannot_be_read_is_named(
    workspace: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(arguments: list[str]) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", "secret/config.yaml")

    monkeypatch.setattr(ls, "main", closed)
    assert main(["ls"]) == 2
    assert capsys.readouterr().err == "provfl: secret/config.yaml: permission denied\n"


@pytest.mark.slow
def test_wrong_files_of_the_user(workspace: Path, jobs: list[Config], capsys: Captured) -> None:
    folder = workspace / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / "broken.yaml").write_text("# @package _global_\nfederation: {rounds: 3\n")
    (folder / "typo.yaml").write_text("# @package _global_\nfederation:\n  round: 3\nsede: 1\n")
    (folder / "lost.yaml").write_text("# @package _global_\ndefaults:\n  - override /model: lennet\n")
    for name, expected in (("broken", "broken.yaml"), ("typo", "did you mean seed"), ("lost", "did you mean lenet")):
        assert main(["run", "--config-dir", "mine", f"experiment={name}"]) == 2
        error = capsys.readouterr().err
        assert expected in error
        assert len(error.splitlines()) == 1
    assert not jobs
    assert not (workspace / "outputs").exists()


def test_traceback_only_when_asked_for(workspace: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    assert main(["run", "model=lennet"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.splitlines()[-1].startswith("provfl: model=lennet")


def test_a_run_gets_its_folder(workspace: Path, jobs: list[Config]) -> None:
    assert main(["run", "seed=5", "threshold=0.5"]) == 0
    (folder,) = workspace.glob("outputs/*/*")
    assert (folder / "summary.json").exists()
    assert OmegaConf.load(folder / ".hydra" / "config.yaml").seed == 5
    assert OmegaConf.load(folder / ".hydra" / "overrides.yaml") == ["seed=5", "threshold=0.5"]
    assert jobs[0].threshold == 0.5


@pytest.mark.slow
def test_two_runs_of_the_same_second_have_two_folders(workspace: Path, jobs: list[Config]) -> None:
    pattern = "hydra.run.dir='outputs/${now:%Y}'"  # the same second, for a year
    assert [main(["run", pattern]) for _ in range(3)] == [0, 0, 0]
    year = time.strftime("%Y")
    assert sorted(path.name for path in workspace.glob("outputs/*")) == [year, f"{year}-2", f"{year}-3"]
    assert main(["run", "hydra.run.dir=outputs/mine"]) == main(["run", "hydra.run.dir=outputs/mine"]) == 0
    assert not (workspace / "outputs" / "mine-2").exists(), "a folder that the user names is taken as it is"


def test_folders_with_strange_names(workspace: Path, jobs: list[Config], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["run", 'hydra.run.dir="it\'s, [odd]=${now:%Y}"']) == 0
    (summary,) = workspace.glob("*/summary.json")
    assert summary.parent.name.startswith("it's, [odd]=")


def test_wrong_data_leave_no_folder(workspace: Path, jobs: list[Config], capsys: Captured) -> None:
    assert main(["run", "seed=2"]) == 2
    assert capsys.readouterr().err == "provfl: dataset.label_column=label: no such column, accepted: image\n"
    assert len(jobs) == 1
    assert not list(workspace.iterdir())


@pytest.mark.parametrize(("seed", "expected"), [(12, "round 3: loss is not a number"), (13, "KeyError: 'unlucky'")])
def test_a_failure_is_one_line_and_a_log(
    seed: int, expected: str, workspace: Path, jobs: list[Config], capsys: Captured
) -> None:
    assert main(["run", f"seed={seed}"]) == 1
    (log,) = workspace.glob("outputs/*/*/error.log")
    assert capsys.readouterr().err == f"provfl: {expected} (traceback in {log.relative_to(workspace)})\n"
    assert "Traceback" in log.read_text()


def test_ctrl_c(workspace: Path, jobs: list[Config], capsys: Captured) -> None:
    assert main(["run", "seed=130"]) == 130
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.slow
def test_one_failed_job_does_not_stop_the_sweep(workspace: Path, jobs: list[Config], capsys: Captured) -> None:
    assert main(["run", "-m", "seed=13,0,2,12,5"]) == 1
    assert [config.seed for config in jobs] == [13, 0, 2, 12, 5]
    error = capsys.readouterr().err.splitlines()
    assert error[-4] == "provfl: 3 of 5 jobs failed"
    assert error[-3].startswith("  seed=13: KeyError: 'unlucky' (traceback in outputs/multirun/")
    assert error[-2].startswith("  seed=2: dataset.label_column=label")
    (sweep,) = workspace.glob("outputs/multirun/*/*")
    assert sorted(path.name for path in sweep.iterdir()) == ["0", "1", "3", "4", "failures.json", "multirun.yaml"]
    assert main(["run", "-m", "seed=2,2"]) == 2, "nothing but wrong input"


@pytest.mark.slow
def test_two_sweeps_of_the_same_second_have_two_folders(workspace: Path, jobs: list[Config]) -> None:
    arguments = ["run", "-m", "threshold=null,0.5", "hydra.sweep.dir='sweeps/${now:%Y}'"]
    assert main(arguments) == main(arguments) == 0
    assert len(list(workspace.glob("sweeps/*/[01]/summary.json"))) == 4


@pytest.mark.slow
def test_the_working_folder_may_change(workspace: Path, jobs: list[Config]) -> None:
    assert main(["run", "hydra.job.chdir=true"]) == 0
    assert jobs[0].store.cache == str(workspace / "outputs" / "cache")
    assert Path.cwd() == workspace


def test_help_and_version(workspace: Path, capsys: Captured) -> None:
    assert main([]) == main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, (_, example) in COMMANDS.items():
        assert f"provfl {name}" in text
        assert example in text
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("provfl 0.")


@pytest.mark.parametrize(
    ("_", "example"), [COMMANDS[name] for name in COMMANDS if name in ("run", "ls", "cp")]
)  # the others need runs
def test_examples_in_the_help_work(_: str, example: str, workspace: Path, jobs: list[Config]) -> None:
    program, *arguments = example.split()
    assert program == "provfl"
    assert main(arguments) == 0


SHOWING = (
    ("--help",),
    ("run", "--help"),
    ("run", "--hydra-help"),
    ("run", "--cfg", "job", "experiment=smoke"),
    ("run", "--cfg", "all"),
    ("run", "--cfg", "job", "--resolve", "--package", "federation"),
    ("run", "--info", "searchpath"),
    ("run", "-sc", "query=bash"),
    ("ls",),
    ("table", "--help"),
    ("cp", "fusion/fedprox", "out/"),
)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, str, str]]]:
    """A folder in which one process, without torch so far, ran all of `SHOWING`: codes, what was shown and said."""
    code = (
        "import io, json, sys; from contextlib import redirect_stderr, redirect_stdout\n"
        "from provfl_cli.cli import main\n"
        "results = []\n"
        f"for arguments in {SHOWING!r}:\n"
        "    out, err = io.StringIO(), io.StringIO()\n"
        "    with redirect_stdout(out), redirect_stderr(err):\n"
        "        code = main(arguments)\n"
        "        heavy = ('torch._C', 'datasets', 'pandas._libs', 'numpy._core')\n"
        "        print([m for m in heavy if m in sys.modules], file=sys.stderr)\n"
        "    results.append((code, out.getvalue(), err.getvalue()))\n"
        "print(json.dumps(results))"
    )
    place = tmp_path_factory.mktemp("shown")
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "COMP_LINE": "provfl run mod"},
        cwd=place,
        capture_output=True,
        text=True,
    )
    return place, [(code, out, err) for code, out, err in json.loads(result.stdout)]


@pytest.mark.parametrize("number", range(len(SHOWING)), ids=[" ".join(arguments) for arguments in SHOWING])
def test_what_only_shows_does_so_without_torch(number: int, shown: tuple[Path, list[tuple[int, str, str]]]) -> None:
    place, results = shown
    returncode, stdout, stderr = results[number]
    assert (returncode, stderr) == (0, "[]\n")
    assert stdout
    assert not (place / "outputs").exists()


def test_shown_configuration_is_the_one_that_runs(workspace: Path, capsys: Captured) -> None:
    assert main(["run", "--cfg", "job", "experiment=smoke", "seed=4"]) == 0
    shown = OmegaConf.create(capsys.readouterr().out)
    assert (shown.dataset.name, shown.federation.clients, shown.seed) == ("digits", 4, 4)
    assert main(["run", "--cfg", "job", "model=lennet"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("provfl run model=", {f"model={name}" for name in options("model")}),
        ("provfl run -m fusion=fed", {f"fusion={name}" for name in options("fusion") if name.startswith("fed")}),
        ("scripts/provfl run model=lenet federation.local", {"federation.local_epochs="}),
        ("provfl run model=resnet18 model.pre", {"model.pretrained="}),
        ("provfl run exp", {"experiment"}),  # its options have variants: = or / can follow
        ("provfl ", set(COMMANDS)),
        ("provfl r", {"run", "repair", "report", "reproduce"}),
        ("provfl reproduce thre", {"threshold_ablation", "thresholds"}),
        ("provfl ls mo", {"model"}),
        ("provfl cp fusion/", {f"fusion/{name}" for name in options("fusion")}),
        ("provfl run --nonsense ", set()),
        ("provfl nonsense x", set()),
    ],
)
@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_completion(
    line: str, expected: set[str], shell: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    for arguments in (["run", "-sc"], ["-sc"]):  # the shell asks without the command
        monkeypatch.setenv("COMP_LINE", line)
        assert main([*arguments, f"query={shell}"]) == 0
        captured = capsys.readouterr()
        assert set(captured.out.split()) == expected
        assert captured.err == ""


def test_a_line_is_split_at_the_command() -> None:
    assert split_line("provfl run model=") == ("run", "model=")
    assert split_line("python3 -m provfl_cli run a=1 ") == ("run", "a=1 ")
    assert split_line("./scripts/provfl ") == ("", "")
    assert words("cp", "model/le") == ["model/lenet"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_completion_in_a_real_shell(workspace: Path) -> None:
    program = workspace / "bin" / "provfl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m provfl_cli "$@"\n')
    program.chmod(0o755)
    script = (
        'eval "$(provfl run -sc install=bash)"; COMP_LINE="provfl run model=" COMP_POINT=17 COMP_CWORD=2\n'
        'hydra_bash_completion; echo "${COMPREPLY[@]}"; complete -p provfl'
    )
    path = f"{program.parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True)
    replies, registered = result.stdout.splitlines()
    assert replies.split() == [f"model={name}" for name in options("model")]
    assert registered.endswith("-F hydra_bash_completion provfl")


def test_ls(capsys: Captured) -> None:
    assert main(["ls"]) == 0
    text = capsys.readouterr().out
    assert "lenet *" in text
    assert "Dirichlet distribution" in text
    assert main(["ls", "fusion"]) == 0
    text = capsys.readouterr().out
    assert "fedprox" in text
    assert "lenet" not in text
    assert main(["ls", "federation"]) == 0
    text = capsys.readouterr().out
    assert "local_epochs: 2           # passes over its own data" in text
    assert "store" not in text


def test_cp_and_use(workspace: Path, jobs: list[Config], capsys: Captured) -> None:
    assert main(["cp", "fusion/fedprox", "mine/fusion/strong.yaml"]) == 0
    hint = capsys.readouterr().out.splitlines()[-1]
    assert hint == "use it: provfl run --config-dir mine fusion=strong"
    path = workspace / "mine" / "fusion" / "strong.yaml"
    path.write_text(path.read_text().replace("0.01", "0.5"))
    assert main(hint.split()[3:]) == 0
    assert jobs[0].fusion.mu == 0.5
    assert main(["cp", "fusion/fedprox", str(path)]) == 2
    assert "0.5" in path.read_text()
    assert main(["cp", "fusion/fedprox", str(path), "--force"]) == 0
    assert "0.01" in path.read_text()


def test_a_full_disk_leaves_no_empty_option(workspace: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (workspace / "mine.yaml").write_text("before")
    monkeypatch.setattr(os, "fsync", full)
    for name in ("mine.yaml", "other.yaml"):
        assert main(["cp", "model/lenet", name, "--force"]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.setattr(os, "fsync", real)
    assert [path.name for path in workspace.iterdir()] == ["mine.yaml"]
    assert (workspace / "mine.yaml").read_text() == "before"


@pytest.mark.parametrize(
    "name",
    [
        ".hydra",
        "provfl.log",
        ".provfl.lock",
        "error.log",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("0/.hydra", "0", "0/provfl.log")),
    ],
)
def test_a_run_writes_through_no_link(name: str, workspace: Path, jobs: list[Config], capsys: Captured) -> None:
    elsewhere = workspace / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "config.yaml").write_text("of somebody else")
    link = workspace / "here" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere if name.endswith((".hydra", "0")) else elsewhere / "config.yaml")
    sweep = name.startswith("0")
    flags = ["-m", "seed=1,2", "hydra.sweep.dir=here"] if sweep else ["hydra.run.dir=here"]
    assert main(["run", *flags]) == 2
    error = capsys.readouterr().err
    assert "is a link to a place outside of the run's folder: nothing is written" in error
    assert error.count("\n") == 1
    assert [path.name for path in elsewhere.iterdir()] == ["config.yaml"]
    assert (elsewhere / "config.yaml").read_text() == "of somebody else"
    assert not jobs


@pytest.mark.parametrize("name", ["provfl.log", ".hydra/config.yaml"])
def test_a_run_waits_for_no_pipe(name: str, workspace: Path, jobs: list[Config], capsys: Captured) -> None:
    pipe = workspace / "here" / name
    pipe.parent.mkdir(parents=True)
    os.mkfifo(pipe)
    assert main(["run", "hydra.run.dir=here"]) == 2
    assert f"{name}: is a pipe or a device, no file: nothing is written" in capsys.readouterr().err
    assert not jobs


@pytest.mark.parametrize("flag", ["--by", "--metric", "--method"])
def test_a_list_of_nothing_is_refused(flag: str, workspace: Path, capsys: Captured) -> None:
    assert main(["table", ".", flag, ","]) == 2
    assert f"{flag} ,: a name is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "written"),
    [("mine/", "mine/model/lenet.yaml"), ("model/", "model/lenet.yaml"), ("x", "x.yaml"), ("a/b.yaml", "a/b.yaml")],
)
def test_cp_targets(target: str, written: str, workspace: Path, capsys: Captured) -> None:
    assert main(["cp", "model/lenet", target]) == 0
    assert (workspace / written).read_text() == (REPOSITORY / "conf" / "model" / "lenet.yaml").read_text()
    assert ("--config-dir" in capsys.readouterr().out) == ("model/" in written)


@pytest.mark.slow
def test_output_into_a_closed_pipe(workspace: Path) -> None:
    command = f"{sys.executable} -m provfl_cli ls | head -1"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True)
    assert result.stderr == ""


def test_every_command_has_its_module() -> None:
    for name in COMMANDS:
        module: ModuleType = import_module(f"provfl_cli.cli.{name}_" if iskeyword(name) else f"provfl_cli.cli.{name}")
        assert callable(module.main)


@pytest.mark.slow
def test_answers_come_within_a_second(workspace: Path) -> None:
    for arguments in (["--help"], ["run", "--cfg", "job"], ["run", "--help"], ["ls"]):
        assert _cpu_seconds(arguments) < 1.0, arguments


def _cpu_seconds(arguments: list[str]) -> float:
    """What a process costs by itself, however busy the machine is."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert provfl(*arguments).returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_only_a_process_of_its_own_collects_cycles_rarely() -> None:
    before = gc.get_threshold()
    assert main(["--version"]) == 0
    assert gc.get_threshold() == before
    code = """
import gc, sys
from provfl_cli.cli import main
sys.argv = ["provfl", "--version"]
main()
class Told:
    def __del__(self): print("collected")
cycle = Told()
cycle.own = cycle
print(gc.get_threshold()[0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == str(THRESHOLD), "and nothing at the end"
