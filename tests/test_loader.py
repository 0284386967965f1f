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

from provfl_cli.config.compose import compose_jobs, hydra_session, parse
from provfl_cli.config.loader import Loader


def test_a_command_line_is_composed_once_and_what_one_caller_changes_no_other_sees(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compositions = []
    plain = ConfigLoaderImpl.load_configuration

    def counted(self: ConfigLoaderImpl, *values: object, **named: object) -> DictConfig:
        compositions.append(values)
        return plain(self, *values, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", counted)
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
        assert len(compositions) == 2

        loader = hydra.config_loader
        assert isinstance(loader, Loader)
        override = loader.settle("hydra.run.dir", "it's here")
        settled = hydra.compose_config("config", ["dataset=digits", override], RunMode.RUN)
        assert len(compositions) == 2
        loader.composed.clear()
        anew = hydra.compose_config("config", ["dataset=digits", override], RunMode.RUN)
        assert len(compositions) == 3
        assert OmegaConf.to_container(settled) == OmegaConf.to_container(anew)
        assert settled.hydra.run.dir == "it's here"
        assert copy.copy(loader).composed == {}  # as what is sent to a process is taken apart


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
