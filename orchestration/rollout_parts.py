"""The generation side, started: engines in their places and the graders beside them.

In: the configuration, a cluster, a model folder. Out: a fleet and a grader pool whose actors run, and a keeper that
replaces engines. A run puts a learner beside them; an evaluation lets the engines serve the weights of the folder.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import ray

from configs.schema import RunConfig
from orchestration.cluster import Cluster
from orchestration.recovery.engine_keeper import EngineKeeper, EnginePlaces
from orchestration.recovery.faults import Faults
from rollout.engines.engine import RolloutEngine
from rollout.engines.orphans import end_children_of
from rollout.fleets.engine_pool import EnginePool
from rollout.fleets.fleet import RolloutFleet
from rollout.rewards.graders import GraderPool
from transfer.answers import await_answers
from transfer.heartbeats import Heartbeats


@dataclass(kw_only=True, slots=True)
class RolloutSide:
    """The generation side of a run, beside which one learner follows another, or of an evaluation."""

    fleet: RolloutFleet
    graders: GraderPool
    keeper: EngineKeeper
    faults: Faults
    start_timeout_s: float
    is_ready: bool = False  # whether the engines that the run began with have been up

    def await_ready(self) -> None:
        """Waits until the engines that the run begins with are up; returns at once for every learner but the first."""
        if not self.is_ready:
            self.fleet.await_ready(timeout_s=self.start_timeout_s)
            self.is_ready = True

    def serve_loaded_weights(self) -> None:
        """Lets all engines serve the weights that they have loaded, those too that join later; for an evaluation."""
        serve = partial(self.keeper.reach_all, self.fleet.serve_loaded_weights)
        serve()

        def tend() -> None:
            self.keeper.tend()
            if self.fleet.has_newcomers or not self.fleet.numbers:
                serve()

        self.fleet.tend_with(tend)


@contextmanager
def open_rollout_side(
    config: RunConfig, cluster: Cluster, model_path: Path | str, faults: Faults
) -> Iterator[RolloutSide]:
    """Starts engines and graders, which load in the background; on the way out ends them and their successors."""
    places, recovery = ClusterPlaces(config, cluster, model_path), config.recovery
    with ExitStack() as undo:
        fleet = RolloutFleet(
            EnginePool(
                {engine: places.start(engine) for engine in places.placed()},
                heartbeats=Heartbeats(every_s=recovery.health_every_s, timeout_s=recovery.health_timeout_s),
            ),
            workers_per_engine=config.rollout.tensor_parallel_size,
            timeout_s=config.rollout.timeout_s,
        )
        undo.callback(fleet.shutdown)
        graders = GraderPool(config.graders, reward=config.reward, on_fault=partial(faults.replaced, "graders"))
        undo.callback(graders.close)
        keeper = EngineKeeper(
            fleet,
            places,
            faults,
            rollout=config.rollout,
            cluster=config.cluster,
            check_every_s=recovery.health_every_s,
        )
        undo.callback(keeper.close)
        yield RolloutSide(
            fleet=fleet,
            graders=graders,
            keeper=keeper,
            faults=faults,
            start_timeout_s=config.cluster.start_timeout_s,
        )


class ClusterPlaces(EnginePlaces):
    """The bundles of the engines in a cluster."""

    def __init__(self, config: RunConfig, cluster: Cluster, model_path: Path | str) -> None:
        self._config = config
        self._cluster = cluster
        self._model_path = str(model_path)
        self._processes: dict[int, Any] = {}  # references of the process ids of the engines started last

    def placed(self) -> list[int]:
        return self._cluster.placed_engines()

    def start(self, engine: int) -> Any:
        config, cluster = self._config, self._cluster
        actor = ray.remote(RolloutEngine).options(**cluster.engine_options(engine), max_concurrency=10_000)
        handle = actor.remote(
            engine,
            model=config.model,
            model_path=self._model_path,
            rollout=config.rollout,
            device=cluster.device,
            dtype=engine_dtype(config, cluster),
            publishes_inflight=config.publish.inflight,
        )
        self._processes[engine] = handle.ready.remote()
        return handle

    def end(self, engine: int, handle: Any) -> None:
        process = await_answers({engine: self._processes.pop(engine)}, timeout_s=0.0).results.get(engine)
        ray.kill(handle)
        if process is not None:  # it has been up, so that it may have children
            self._cluster.run_beside(engine, end_children_of, process)

    def shortage(self) -> str:
        return self._cluster.shortage()


def engine_dtype(config: RunConfig, cluster: Cluster) -> Literal["float32", "bfloat16", "float16"]:
    """Dtype of the engines' weights and activations, with `auto` resolved by the cluster's device."""
    if config.rollout.dtype != "auto":
        return config.rollout.dtype
    return "float32" if cluster.device == "cpu" else "bfloat16"
