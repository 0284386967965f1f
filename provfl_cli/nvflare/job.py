"""A recorder added to the definition of a job."""

from __future__ import annotations

from typing import Any

from nvflare.job_config.api import FedJob

from ..errors import InputError
from .recorder import ProvenanceRecorder

PACKAGE = "provfl_cli"


def record(job: Any, folder: str, **settings: Any) -> ProvenanceRecorder:
    """Let the server of a job record its rounds.

    Args:
        job: a `FedJob`, or a recipe.
        folder: where; relative to the folder of the job's run on the server.
        settings: the others of `ProvenanceRecorder`.

    Returns:
        The recorder, as the job now has it under the id `provenance`.

    Raises:
        InputError: it is no job, or a setting is wrong.
    """
    job = getattr(job, "_job", job)  # as NVFlare's own functions on recipes take it
    if not isinstance(job, FedJob):
        raise InputError(f"record: is a {type(job).__name__}: give a FedJob, or a recipe")
    recorder = ProvenanceRecorder(folder, **settings)
    job.to_server(recorder, id="provenance")
    # Otherwise NVFlare copies some of our files into the job, which then counts as one with code of its own.
    job.set_app_packages(sorted({*job.job.app_packages, PACKAGE}))
    return recorder
