"""What is composed twice is composed once, unless it has changed or belongs to another process."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from provfl_cli.config.compose import compose_jobs, conf_dir, hydra_session, parse
from provfl_cli.config.loader import Loader


@pytest.mark.slow
def test_a_command_line_is_composed_once_and_what_one_caller_changes_no_other_sees(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compositions = []
    plain = ConfigLoaderImpl.load_configuration

    def counted(self: ConfigLoaderImpl, *values: object, **named: object) -> DictConfig:
        compositions.append(values)
        return plain(self, *values, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", counted)
    monkeypatch.setattr("provfl_cli.config.loader._chosen", {})
    with hydra_session(parse(["dataset=digits"])) as hydra:
        first = hydra.compose_config("config", ["dataset=digits"], RunMode.RUN)
        whole = OmegaConf.to_container(first)
        HydraConfig.instance().set_config(first)  # makes Hydra's node read-only
        first.seed = 12
        second = hydra.compose_config("config", ["dataset=digits"], RunMode.RUN)
        assert OmegaConf.to_container(second) == whole
        second.hydra.job.num = 3
        assert len(compositions) == 1
        hydra.compose_config("config", ["dataset=digits", "seed=1"], RunMode.RUN)
        assert len(compositions) == 1  # the same options: only a value is another
        hydra.compose_config("config", ["dataset=digits", "model=resnet18"], RunMode.RUN)
        assert len(compositions) == 2

        loader = hydra.config_loader
        assert isinstance(loader, Loader)
        override = loader.settle("hydra.run.dir", "it's here")
        settled = hydra.compose_config("config", ["dataset=digits", override], RunMode.RUN)
        assert len(compositions) == 2
        loader.composed.clear()
        monkeypatch.setattr("provfl_cli.config.loader._chosen", {})
        anew = hydra.compose_config("config", ["dataset=digits", override], RunMode.RUN)
        assert len(compositions) == 3
        assert OmegaConf.to_container(settled) == OmegaConf.to_container(anew)
        assert settled.hydra.run.dir == "it's here"
        assert copy.copy(loader).composed == {}  # as what is sent to a process is taken apart


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["dataset=digits", "seed=1", "federation.clients=4", "threshold=null"],
        ["seed=1", "dataset=digits", "seed=2", "+model.more={a: 1}", "~tracefl_beside", "++store.own=[1, 2]"],
        ["attribution=[random,cosine]", "attribution.random.seed=3", "provenance=tracefl", "threshold=0.25"],
        ["hydra.job.config.override_dirname.exclude_keys=[seed]", "seed=1", "federation.rounds=2"],
        ["hydra.run.dir='it is here'", "seed=1", "hydra.sweep.subdir=a", "+hydra.run.more=1"],
        ["hydra.rum.dir=x", "seed=1"],
        ["model={width: 3}", "model.width=4", "seed=5"],
        ["store.cache=${oc.env:HOME}", "seed=${federation.rounds}", "federation.rounds=3"],
        ["~injection", "device='cpu'", "hydra.job.env_copy=[HOME]"],
        ["seed=1,2", "federation.rounds=3"],
        ["experiment=thresholds", "seed=4"],
        ["seed=1,2", "federation.round=2"],
        ["model=lennet", "federation.round=2"],
        ["+seed=2"],
        ["modle=lenet", "seed=2"],
        ["~seed=7", "federation.rounds=3"],
    ],
)
def test_options_composed_once_with_values_set_in_them_are_what_hydra_composes(
    overrides: list[str], workspace: Path
) -> None:
    sweep = any("," in text for text in overrides)
    mode = RunMode.MULTIRUN if sweep else RunMode.RUN

    def composed(loader: ConfigLoaderImpl) -> object:
        try:
            cfg = loader.load_configuration("config", [*overrides], mode)
        except Exception as error:  # a wrong command line has the same error
            return type(error), str(error), type(error.__cause__), str(error.__cause__)
        flags = (cfg._get_flag("struct"), cfg.hydra._get_flag("readonly"))
        return OmegaConf.to_container(cfg), flags, list(cfg), list(cfg.hydra.overrides.task)

    with hydra_session(parse([])) as hydra:
        loader = hydra.config_loader
        assert isinstance(loader, Loader)
        plain = composed(ConfigLoaderImpl(loader.config_search_path))
        assert composed(loader) == plain
        loader.composed.clear()
        assert composed(loader) == plain  # of the options that are composed already


@pytest.mark.slow
def test_an_option_that_comes_before_another_of_its_name_is_taken(workspace: Path) -> None:
    asked = ["--config-dir", "mine", "model=lenet", "dataset=digits"]
    own = workspace / "mine" / "model" / "lenet.yaml"
    own.parent.mkdir(parents=True)
    ((_, before),) = compose_jobs(asked)
    own.write_text((conf_dir() / "model" / "lenet.yaml").read_text().replace("image_size: 28", "image_size: 40"))
    ((_, job),) = compose_jobs(asked)
    assert (before.model.min_image_size, job.model.min_image_size) == (28, 40)
    own.unlink()
    ((_, job),) = compose_jobs(asked)
    assert job.model == before.model


def test_a_file_that_is_written_anew_is_read_anew(workspace: Path) -> None:
    option = workspace / "mine" / "model" / "own.yaml"
    option.parent.mkdir(parents=True)
    asked = ["--config-dir", "mine", "model=own", "dataset=digits"]
    for size in (33, 34):
        option.write_text(f"defaults: [lenet, _self_]\nmin_image_size: {size}\n")
        ((_, job),) = compose_jobs(asked)
        assert job.model.min_image_size == size


def test_what_hydra_keeps_can_be_sent_to_the_processes_of_a_launcher(workspace: Path) -> None:
    """The test of a real launcher is slow; what it sends is all of this."""
    cloudpickle = pytest.importorskip("cloudpickle")
    with hydra_session(parse(["dataset=digits"])) as hydra:
        assert "attribution" in hydra.list_all_config_groups()
        hydra.compose_config("config", ["dataset=digits"], RunMode.RUN)
        assert cloudpickle.dumps(Singleton.get_state())
