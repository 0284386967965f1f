"""Compose the parts for one validated configuration: data, training, tracing, tables, files."""

from pathlib import Path

from ..config.schema import Config


def run_job(config: Config, folder: Path) -> None:
    """Run one configuration and leave its results in `folder` (design section 4); see `job.run`."""
    from .job import run  # torch comes with it

    run(config, folder)
