"""Hydra's loader of configurations, which parses no file and composes no command line twice.

A command line is checked before it runs, and Hydra composes again whatever it runs: one job twice, each of a sweep
three times. A file is parsed again for every composition, in Python. Jobs of a sweep that choose the same options
differ in values alone: the options are composed once for all of them.
"""

import copy
import os
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository
from hydra._internal.hydra import Hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

__all__ = ["PLACES", "Composer", "Loader"]

_parsed: dict[tuple[str, str], tuple[object, ConfigResult]] = {}  # by folder and file: its stamp, what it holds
# By folders and chosen options: the stamps of all files that were looked for, and what they compose to.
_chosen: dict[tuple[object, ...], tuple[dict[str, object], DictConfig]] = {}
MOST_CHOSEN = 64  # of them, some 0.2 MB each
PLACES = ("hydra.run.", "hydra.sweep.")  # keys of Hydra's own that say where a job writes, and nothing else


class Files(ConfigRepository):
    """The folders of options; what a file holds is kept for as long as the file stays as it is."""

    def load_config(self, config_path: str) -> ConfigResult | None:
        """What a file holds, the caller's own to change; None where there is none."""
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source is None or source.scheme() not in ("file", "pkg"):
            return super().load_config(config_path)
        place, stamp = (f"{source.scheme()}://{source.path}", config_path), _stamp(source, config_path)
        if place not in _parsed or _parsed[place][0] != stamp:
            loaded = super().load_config(config_path)
            assert loaded is not None
            _parsed[place] = stamp, loaded
        held = copy.deepcopy(_parsed[place][1])
        held.provider = source.provider
        return held

    def stamp(self, config_path: str) -> object:
        """What is another once a file is written, or comes or goes in a folder that is looked through before."""
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        return None if source is None else (source.scheme(), source.path, _stamp(source, config_path))


def _stamp(source: ConfigSource, config_path: str) -> object:
    """What is another once a file is written; packages stay as they are."""
    if source.scheme() != "file":
        return source.provider
    state = os.stat(os.path.join(source.path, source._normalize_file_name(config_path)))
    return source.provider, state.st_mtime_ns, state.st_ctime_ns, state.st_size, state.st_ino


class Loader(ConfigLoaderImpl):
    """Composes a command line once; sent to another process, it is without what it has composed."""

    repository: Files

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self.repository = Files(config_search_path)
        self.composed: dict[tuple[str | None, tuple[str, ...], RunMode], DictConfig] = {}
        self.settled: set[str] = set()  # overrides that whatever was composed before them holds
        self.listed: dict[tuple[str, ObjectType | None], list[str]] = {}
        self.read: CachingConfigRepository | None = None  # the files that were looked for when something was composed

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """The configuration of a command line, the caller's own to change."""
        key = (config_name, tuple(text for text in overrides if text not in self.settled), run_mode)
        if key not in self.composed:
            self.composed[key] = self._composed(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
        elif validate_sweep_overrides:
            self.validate_sweep_overrides_legal(
                OverridesParser.create().parse_overrides(overrides), run_mode, from_shell
            )
        return copy.deepcopy(self.composed[key])

    def _composed(
        self, config_name: str | None, overrides: list[str], run_mode: RunMode, from_shell: bool, validate: bool
    ) -> DictConfig:
        """The options that a command line chooses, its values set in them as Hydra does it after composing."""
        parsed = OverridesParser.create().parse_overrides(overrides)
        if validate:
            self.validate_sweep_overrides_legal(parsed, run_mode, from_shell)
        values = [override for override in parsed if self._only_sets(override)]
        others = [str(override.input_line) for override in parsed if override not in values]
        cfg = self._options(config_name, others, run_mode, from_shell)
        if values:
            self._apply_overrides_to_config(values, cfg)
            own = [override for override in parsed if not override.is_hydra_override()]
            cfg.hydra.overrides.hydra = [override.input_line for override in parsed if override.is_hydra_override()]
            cfg.hydra.overrides.task = [override.input_line for override in own]
            cfg.hydra.job.override_dirname = get_overrides_dirname(own, **cfg.hydra.job.config.override_dirname)
        return cfg

    def _only_sets(self, override: Override) -> bool:
        """Whether an override has one value for a key: it chooses no option, nor how Hydra composes."""
        key = override.key_or_group
        hydras = (override.is_hydra_override() and not key.startswith(PLACES)) or key == "hydra"
        return not (hydras or override.is_sweep_override() or self.repository.group_exists(key))

    def _options(
        self, config_name: str | None, overrides: list[str], run_mode: RunMode, from_shell: bool
    ) -> DictConfig:
        """What chosen options compose to, the caller's own to change; composed once for as long as their files stay."""
        folders = tuple((entry.provider, entry.path) for entry in self.config_search_path.get_path())
        key = (folders, config_name, tuple(overrides), run_mode)
        stamps, cfg = _chosen.get(key, ({}, None))
        if cfg is None or any(self.repository.stamp(path) != stamp for path, stamp in stamps.items()):
            cfg = super().load_configuration(config_name, overrides, run_mode, from_shell, False)
            read = self.read
            assert read is not None
            same = [source.path for source in read.get_sources()] == [source.path for source in self.get_sources()]
            if same and not cfg.hydra.job.env_copy:  # no further folders, nothing that the environment says
                while len(_chosen) >= MOST_CHOSEN:
                    del _chosen[next(iter(_chosen))]
                looked_for = [name.removeprefix("config_path=") for name in read.cache]
                _chosen[key] = {path: self.repository.stamp(path) for path in looked_for}, cfg
        cfg = copy.deepcopy(cfg)
        cfg.hydra.runtime.cwd = os.getcwd()
        return cfg

    def _parse_overrides_and_create_caching_repo(
        self, config_name: str | None, overrides: list[str]
    ) -> tuple[list[Override], CachingConfigRepository]:
        parsed, self.read = super()._parse_overrides_and_create_caching_repo(config_name, overrides)
        return parsed, self.read

    def settle(self, key: str, value: str) -> str:
        """Let one more key of Hydra's have a value, in what has been composed too; the override that says so."""
        quoted = value.replace("'", "\\'")
        override = f"{key}='{quoted}'"
        for cfg in self.composed.values():
            OmegaConf.update(cfg, key, value)
            cfg.hydra.overrides.hydra.append(override)
        self.settled.add(override)
        return override

    def get_group_options(
        self,
        group_name: str,
        results_filter: ObjectType | None = ObjectType.CONFIG,
        config_name: str | None = None,
        overrides: list[str] | None = None,
    ) -> list[str]:
        """The options of a group, listed once: Hydra copies its whole tree for each."""
        if config_name or overrides:  # which may bring another search path
            return list(super().get_group_options(group_name, results_filter, config_name, overrides))
        if (group_name, results_filter) not in self.listed:
            self.listed[group_name, results_filter] = self.repository.get_group_options(group_name, results_filter)
        return list(self.listed[group_name, results_filter])

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "composed": {}, "settled": set(), "read": None}


class Composer(Hydra):
    """Hydra, which lists its groups once. Launchers send it to other processes: it holds nothing but plain values."""

    def __init__(self, task_name: str, config_loader: Loader) -> None:
        super().__init__(task_name, config_loader)
        self.groups: dict[str, list[str]] = {}

    def list_all_config_groups(self, parent: str = "") -> list[str]:
        """The groups below `parent`, without the variants of options."""
        if parent not in self.groups:
            listed = {group: group.rpartition("/") for group in super().list_all_config_groups(parent)}
            options = self.config_loader.get_group_options
            self.groups[parent] = [group for group, (above, _, name) in listed.items() if name not in options(above)]
        return list(self.groups[parent])
