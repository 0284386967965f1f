"""The same job with ScatterAndGather, whose clients return what they changed."""

from __future__ import annotations

import sys

import task
from job import CLIENTS, LABELS, ROUNDS
from nvflare.apis.dxo import DataKind
from nvflare.app_common.aggregators.intime_accumulate_model_aggregator import InTimeAccumulateWeightedAggregator
from nvflare.app_common.shareablegenerators.full_model_shareable_generator import FullModelShareableGenerator
from nvflare.app_common.workflows.scatter_and_gather import ScatterAndGather
from nvflare.app_opt.pt.job_config.model import PTModel
from nvflare.client.config import TransferType
from nvflare.job_config.api import FedJob
from nvflare.job_config.script_runner import ScriptRunner

from provfl_cli.nvflare import record  # ProvFL


def main(workspace: str) -> None:
    """Run it in the folder `workspace`."""
    job = FedJob(name="digits", min_clients=CLIENTS)
    persistor = job.to_server(PTModel(task.Net()))["persistor_id"]
    job.to_server(InTimeAccumulateWeightedAggregator(expected_data_kind=DataKind.WEIGHT_DIFF), id="aggregator")
    job.to_server(FullModelShareableGenerator(), id="shareable_generator")
    job.to_server(ScatterAndGather(min_clients=CLIENTS, num_rounds=ROUNDS, persistor_id=persistor))
    job.to_clients(
        ScriptRunner(script="client.py", script_args=f"--clients {CLIENTS}", params_transfer_type=TransferType.DIFF)
    )
    record(job, "provenance", labels=LABELS)  # ProvFL
    job.simulator_run(f"{workspace}/digits", n_clients=CLIENTS)


if __name__ == "__main__":
    main(sys.argv[1])
