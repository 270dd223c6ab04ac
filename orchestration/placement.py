"""Where engines and learner ranks go: the arithmetic of bundles, pure.

The configuration and what the cluster reports come in; a Placement comes out, or a PlacementError that says what was
asked and what there is. Starts nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from configs.schema import ClusterConfig, LearnerConfig, RolloutConfig

Device = Literal["cpu", "gpu"]


class PlacementError(RuntimeError):
    """The cluster cannot hold the run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Resources of every actor. A bundle lies on one node, so an engine's tensor parallel workers do too."""

    device: Device
    engine_bundles: tuple[dict[str, float], ...]  # one an engine; none in a replay
    learner_bundles: tuple[dict[str, float], ...]  # one a rank

    def demand(self) -> dict[str, float]:
        """Sum over all bundles, by resource."""
        total: dict[str, float] = {}
        for bundle in (*self.engine_bundles, *self.learner_bundles):
            for resource, amount in bundle.items():
                total[resource] = total.get(resource, 0.0) + amount
        return total

    def describe(self) -> str:
        engines, ranks = self.engine_bundles, self.learner_bundles
        parts = [f"{len(ranks)} learner rank(s) of {_amounts(ranks[0])}"]
        if engines:
            parts.insert(0, f"{len(engines)} engine(s) of {_amounts(engines[0])}")
        return " and ".join(parts)


def plan_placement(
    cluster: ClusterConfig, rollout: RolloutConfig, learner: LearnerConfig, *, resources: Mapping[str, float]
) -> Placement:
    """Bundles for the run on a cluster with the given total resources.

    device=auto takes GPUs where the cluster reports any. On CPU-only clusters the shapes are the same, in CPUs.
    A replay has no engines. Raises PlacementError where the sum of the bundles exceeds the cluster.
    """
    device: Device = cluster.device if cluster.device != "auto" else ("gpu" if resources.get("GPU", 0) > 0 else "cpu")
    engine = {"CPU": cluster.cpus_per_engine * rollout.tensor_parallel_size}
    rank = {"CPU": cluster.cpus_per_learner}
    if device == "gpu":
        engine["GPU"] = cluster.gpus_per_engine * rollout.tensor_parallel_size
        rank["GPU"] = cluster.gpus_per_learner
    num_engines = rollout.num_engines if rollout.replay is None else 0
    placement = Placement(
        device=device, engine_bundles=(engine,) * num_engines, learner_bundles=(rank,) * learner.num_workers
    )
    demand = placement.demand()
    short = {name for name, amount in demand.items() if amount > resources.get(name, 0.0) + 1e-9}
    if short:
        have = {name: resources.get(name, 0.0) for name in demand}
        raise PlacementError(
            f"the cluster is too small: asked {placement.describe()}, together {_amounts(demand)}; "
            f"it has {_amounts(have)}. Lower rollout.num_engines, rollout.tensor_parallel_size or learner.num_workers, "
            f"or add nodes"
        )
    return placement


def _amounts(bundle: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in sorted(bundle.items(), reverse=True))
