"""The generation side, started: engines in their bundles and the graders beside them.

In: the configuration, a cluster, a model folder. Out: a fleet and a grader pool whose actors run; what is undone at the
end goes onto the caller's stack. A run puts a learner beside them, an evaluation does not.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import ray

from configs.schema import RunConfig
from orchestration.cluster import Cluster
from rollout.engines.engine import RolloutEngine
from rollout.fleets.engine_pool import EnginePool
from rollout.fleets.fleet import RolloutFleet
from rollout.rewards.graders import GraderPool


def start_rollout(
    config: RunConfig, cluster: Cluster, model_path: Path | str, undo: ExitStack
) -> tuple[RolloutFleet, GraderPool]:
    """Starts engines and graders and returns at once; `fleet.await_ready` waits until the engines have loaded."""
    engines = [_start_engine(index, config, cluster, model_path) for index in range(config.rollout.num_engines)]
    fleet = RolloutFleet(
        EnginePool(engines),
        workers_per_engine=config.rollout.tensor_parallel_size,
        timeout_s=config.rollout.timeout_s,
    )
    undo.callback(fleet.shutdown)
    graders = GraderPool(config.graders, reward=config.reward)
    undo.callback(graders.close)
    return fleet, graders


def engine_dtype(config: RunConfig, cluster: Cluster) -> Literal["float32", "bfloat16", "float16"]:
    """Dtype of the engines' weights and activations, with `auto` resolved by the cluster's device."""
    if config.rollout.dtype != "auto":
        return config.rollout.dtype
    return "float32" if cluster.device == "cpu" else "bfloat16"


def _start_engine(index: int, config: RunConfig, cluster: Cluster, model_path: Path | str) -> Any:
    actor = ray.remote(RolloutEngine).options(**cluster.engine_options(index), max_concurrency=10_000)
    return actor.remote(
        index,
        model=config.model,
        model_path=str(model_path),
        rollout=config.rollout,
        device=cluster.device,
        dtype=engine_dtype(config, cluster),
        publishes_inflight=config.publish.inflight,
    )
