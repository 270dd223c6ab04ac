"""The bundles of engines and learner ranks: pure arithmetic.

In: the configuration and the cluster's resources. Out: a Placement, or a PlacementError that names what the run needs
and what the cluster has. Starts nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from configs.schema import ClusterConfig, LearnerConfig, RolloutConfig

Device = Literal["cpu", "gpu"]


class PlacementError(RuntimeError):
    """The cluster has no room for the run, or the run's settings do not fit the cluster."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Resources of every actor. A bundle lies on one node, and so do all tensor parallel workers of an engine."""

    device: Device
    engine_bundles: tuple[dict[str, float], ...]  # one for each engine; none in a replay
    learner_bundles: tuple[dict[str, float], ...]  # one for each rank; none in an evaluation

    def demand(self) -> dict[str, float]:
        """The sum of all bundles, by resource."""
        total: dict[str, float] = {}
        for bundle in (*self.engine_bundles, *self.learner_bundles):
            for resource, amount in bundle.items():
                total[resource] = total.get(resource, 0.0) + amount
        return total

    def describe(self) -> str:
        named = (("engine(s)", self.engine_bundles), ("learner rank(s)", self.learner_bundles))
        return " and ".join(f"{len(bundles)} {name} of {_amounts(bundles[0])}" for name, bundles in named if bundles)


def plan_placement(
    cluster: ClusterConfig, rollout: RolloutConfig, learner: LearnerConfig | None, *, resources: Mapping[str, float]
) -> Placement:
    """Bundles of the run on a cluster with these total resources; without a learner, of engines alone.

    device=auto uses GPUs if the cluster reports any; on CPUs there are as many bundles, without GPUs. A replay has no
    engines. PlacementError where the bundles exceed the cluster, those of the engines at the start and of the learner.
    """
    device: Device = cluster.device if cluster.device != "auto" else ("gpu" if resources.get("GPU", 0) > 0 else "cpu")
    engine = {"CPU": cluster.cpus_per_engine * rollout.tensor_parallel_size}
    rank = {"CPU": cluster.cpus_per_learner}
    if device == "gpu":
        engine["GPU"] = cluster.gpus_per_engine * rollout.tensor_parallel_size
        rank["GPU"] = cluster.gpus_per_learner
    num_engines = rollout.num_engines if rollout.has_engines else 0
    num_ranks = learner.num_workers if learner is not None else 0
    placement = Placement(device=device, engine_bundles=(engine,) * num_engines, learner_bundles=(rank,) * num_ranks)
    least = replace(placement, engine_bundles=placement.engine_bundles[: rollout.engines_at_start])
    demand = least.demand()
    short = {name for name, amount in demand.items() if amount > resources.get(name, 0.0) + 1e-9}
    if short:
        have = {name: resources.get(name, 0.0) for name in demand}
        number = "rollout.num_engines" if rollout.min_engines is None else "rollout.min_engines"
        remedies = f"{number} or rollout.tensor_parallel_size"
        if learner is not None:
            remedies = f"{number}, rollout.tensor_parallel_size or learner.num_workers"
        raise PlacementError(
            f"the cluster is too small: the run needs {least.describe()}, together {_amounts(demand)}; "
            f"the cluster has {_amounts(have)}. Lower {remedies}, or add nodes"
        )
    return placement


def _amounts(bundle: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in sorted(bundle.items(), reverse=True))
