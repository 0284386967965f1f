"""Composition and validation: everything in conf/ fits, everything wrong is named before anything heavy is imported."""

import re
import subprocess
import sys
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from provfl_cli.config import tree
from provfl_cli.config.compose import compose_jobs, conf_dir, provenance_preset, validated
from provfl_cli.config.fields import fitted, shown
from provfl_cli.config.schema import Config, Federation
from provfl_cli.errors import InputError
from provfl_cli.provenance.settings import PRESETS, preset

REPOSITORY = Path(__file__).resolve().parent.parent
GROUPS = [group for group in tree.groups() if group != "attribution"]  # a list: see test_attribution
OPTIONS = [(group, name) for group in GROUPS for name in tree.options(group)]
NEEDS = {  # what an option cannot do without
    ("dataset", "custom"): ["dataset.hub_id=some/images"],
    ("fusion", "ffa_lora"): ["dataset=languages", "model=gpt_mini", "model.adapter=lora"],
    ("fusion", "flora"): ["dataset=languages", "model=gpt_mini", "model.adapter=lora"],
    **{
        ("injection", f"backdoor_word{more}"): ["dataset=languages", "model=gpt_mini"]
        for more in ("", "_long", "_long_two", "_long_four")
    },
    ("model", "hf"): ["model.checkpoint=some/network"],
    ("model", "lm"): ["task=generate", "model.checkpoint=some/network"],
    ("model", "gpt_tiny"): ["task=generate"],
    ("dataset", "phrases"): ["task=generate"],
    ("dataset", "instructions"): ["task=generate"],
    **{("injection", name): ["task=generate"] for name in ("refusal", "secret", "trigger_phrase")},
    **{
        ("dataset", name): ["model=gpt_mini"] for name in ("ag_news", "dbpedia_14", "languages", "yahoo_answers_topics")
    },
}


def config(*argv: str) -> Config:
    """The validated configuration of a command line that asks for one job."""
    ((_, cfg),) = compose_jobs(argv)
    return validated(cfg)


@pytest.mark.slow
@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_every_option_is_valid_and_described(group: str, name: str, workspace: Path) -> None:
    assert tree.summary(tree.option_file(group, name)), "a comment on top of the file says what it is"
    if group == "experiment" and name != "smoke":
        return  # many jobs: composed in test_experiments
    if group == "tracker" and name not in ("none",) and find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    needs = NEEDS.get((group, name), [])
    if (group, name) == ("model", "densenet121"):
        needs = ["dataset=cifar10"]
    if group == "model" and name in tree.models_for("text"):
        needs = [*needs, "dataset=languages"]
    if (group, name) == ("privacy", "secure_aggregation"):
        with pytest.raises(InputError, match="only the sum of the clients' updates"):
            config("privacy=secure_aggregation")
    else:
        assert config(f"{group}={name}", *needs).seed == 0


def test_defaults_are_those_of_the_design(workspace: Path) -> None:
    made = config()
    assert asdict(made.federation) == {
        "clients": 10,
        "clients_per_round": None,
        "rounds": 15,
        "local_epochs": 2,
        "batch_size": 32,
        "optimizer": "sgd",
        "learning_rate": 0.01,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "warmup_steps": 0,
        "final_rate": 1.0,
        "rate_until": None,
        "accumulate": 1,
        "clip_norm": None,
        "precision": "float32",
        "sampling": "uniform",
        "go_offline": 0.2,
        "come_online": 0.4,
        "dropout": 0.0,
        "stragglers": 0.0,
        "straggler_work": "late",
        "straggler_delay": 1,
        "mode": "sync",
        "concurrency": None,
        "update_weights": "examples",
        "staleness": "polynomial",
        "staleness_strength": 0.5,
        "staleness_grace": 4,
        "max_staleness": None,
        "server_rate": 1.0,
        "speeds": "lognormal",
        "speed_spread": 0.5,
        "joins": None,
        "leaves": None,
        "share": None,
        "head_epochs": 0,
    }
    assert (made.dataset.name, made.model.name, made.partition.alpha) == ("mnist", "lenet", 0.3)
    assert made.evaluation.min_examples == made.partition.min_examples_per_label == 10
    assert made.store.cache == str(workspace / "outputs" / "cache")


def test_presets_set_the_threshold_and_the_command_line_wins(workspace: Path) -> None:
    assert config("provenance=tracefl").threshold is None
    assert config("provenance=tracefl", "threshold=0.5").provenance.threshold == 0.5
    assert config("threshold=null").provenance.threshold is None
    assert config("experiment=smoke", "federation.rounds=2").federation.rounds == 2


def test_provenance_preset_has_its_own_threshold() -> None:
    preset = provenance_preset("tracefl")
    assert (preset.of, preset.target, preset.threshold) == ("weights", "logit", None)
    assert preset.layers == ["Linear", "Conv", "Conv1D", "LayerNorm"]
    assert provenance_preset("provfl").threshold == 0.0
    with pytest.raises(InputError, match="did you mean tracefl"):
        provenance_preset("traceflow")


def test_presets_of_a_trace_are_those_of_the_configuration() -> None:
    assert sorted(PRESETS) == sorted(tree.options("provenance"))
    for name in PRESETS:
        configured = provenance_preset(name)
        assert replace(configured, scope="round") == preset(name)
        assert configured.scope == ("round" if name == "gradients" else "auto"), "whether lineage fits, a run decides"
    with pytest.raises(InputError, match="did you mean tracefl"):
        preset("traceflow")
    assert preset("tracefl").layers is not preset("tracefl").layers  # a list that may be changed


def test_values_get_the_declared_types(workspace: Path) -> None:
    made = config("federation.learning_rate=1", "threshold=1", "model=resnet18", "model.pretrained=true")
    assert isinstance(made.federation.learning_rate, float)
    assert isinstance(made.threshold, float)
    assert (made.model.target, made.model.pretrained, made.model.options) == (
        "provfl_cli.models.torchvision.resnet18",
        True,
        {"norm": "batch"},
    )


def test_path_means_source_path_and_is_absolute(workspace: Path) -> None:
    (workspace / "images").mkdir()
    dataset = config("dataset=cifar10", "dataset.path=images").dataset
    assert (dataset.source, dataset.path) == ("path", str(workspace / "images"))


def test_cache_follows_the_environment(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROVFL_CACHE", "/elsewhere/cache")
    assert config().store.cache == "/elsewhere/cache"


@pytest.mark.slow
def test_a_sweep_becomes_all_its_jobs(workspace: Path) -> None:
    jobs = compose_jobs(["-m", "threshold=null,0.0,0.5", "seed=range(0,2)", "federation.rounds=3"])
    seen = [(cfg.threshold, cfg.seed, cfg.federation.rounds) for _, cfg in jobs]
    assert seen == [(t, s, 3) for t in (None, 0.0, 0.5) for s in (0, 1)]
    assert jobs[1][0] == ["threshold=null", "seed=1", "federation.rounds=3"]


@pytest.mark.slow
def test_a_sweep_in_an_experiment_file(workspace: Path) -> None:
    folder = workspace / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / "grid.yaml").write_text(
        "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper: {params: {seed: '1,2', threshold: '0,1'}}\n"
    )
    jobs = compose_jobs(["--config-dir", "mine", "experiment=grid", "federation.rounds=1"])
    assert [(cfg.seed, cfg.threshold) for _, cfg in jobs] == [(1, 0), (1, 1), (2, 0), (2, 1)]


@pytest.mark.slow
def test_an_own_option_comes_before_the_built_in_one(workspace: Path) -> None:
    folder = workspace / "mine" / "fusion"
    folder.mkdir(parents=True)
    (folder / "fedprox.yaml").write_text("_target_: provfl_cli.fusion.fedprox.FedProx\nmu: 0.5\n")
    assert config("--config-dir", "mine", "fusion=fedprox").fusion.mu == 0.5


@pytest.mark.slow
def test_a_run_can_be_repeated_from_its_own_config(workspace: Path) -> None:
    ((_, cfg),) = compose_jobs(["seed=7", "provenance=faithful"])
    own = OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])
    (workspace / "config.yaml").write_text(OmegaConf.to_yaml(own))
    assert config("--config-dir", ".") == config("seed=7", "provenance=faithful")


@pytest.mark.slow
def test_configuration_imports_nothing_heavy() -> None:
    code = (
        "import sys; from provfl_cli.config.compose import compose_jobs\n"
        "compose_jobs(['fusion=fedprox', 'injection=label_flip', 'partition=shard'])\n"
        "heavy = ('torch._C', 'datasets', 'pandas._libs', 'numpy._core', 'sklearn', 'scipy')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_conf_travels_with_the_package(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert conf_dir() == REPOSITORY / "conf"
    installed = workspace / "site-packages" / "provfl_cli"
    monkeypatch.setattr(tree, "PACKAGE", installed)
    assert conf_dir() == installed / "conf"


FEDERATION = asdict(Federation(10, None, 15, 2, 32, "sgd", 0.01, 0.9, 0.0))
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers(), max_size=2)
)


@pytest.mark.slow
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from([*FEDERATION, "lr"]), VALUES, max_size=3))
def test_any_values_give_a_valid_federation_or_one_line(changes: dict[str, object]) -> None:
    try:
        made = fitted(Federation, {**FEDERATION, **changes}, "federation")
    except InputError as error:
        assert re.match(r"federation\.\w+[=:]", str(error)), error  # noqa: PT017
        return
    assert made.clients >= 1
    assert 0 < made.learning_rate < float("inf")
    assert 0 <= made.momentum < 1
    assert made.clients_per_round is None or 1 <= made.clients_per_round <= made.clients


@given(VALUES)
def test_values_are_shown_as_typed(value: object) -> None:
    assert isinstance(value, str) or shown(value) not in ("None", "True", "False")
