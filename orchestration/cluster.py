"""The Ray cluster of a run: joins or starts it, reserves placement groups, and releases everything at the end.

In: ClusterConfig and the run's engines and learner ranks. Out: a Cluster with the actor options that place them. Knows
nothing of what they do, and imports no torch, so that a run that does not fit is refused within seconds.
"""

import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray._private.resource_and_label_spec import ResourceAndLabelSpec
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from configs.schema import ClusterConfig, LearnerConfig, RolloutConfig
from orchestration.network.abandon import abandon_ray
from orchestration.network.session_folders import session_folder
from orchestration.network.starting import starting_ray
from orchestration.network.watch import Node, RayLostError, RayWatch
from orchestration.network.watching import raising_in_main_thread, watching
from orchestration.placement import Placement, PlacementError, plan_placement

LOCAL = "local"  # Ray's name for a cluster of its own on this machine, ended with the run
NUM_LOCAL_STARTS = 2  # Ray gives its own start 30 s, which a busy machine may exceed once


class Cluster:
    """The bundles reserved for one run."""

    def __init__(self, placement: Placement, *, timeout_s: float, watch: RayWatch) -> None:
        self.placement = placement
        self._watch = watch
        bundles = placement.learner_bundles
        # The learner first: its ranks communicate at every step, engines do not.
        self._learner_group = placement_group(list(bundles), strategy=_learner_strategy(bundles)) if bundles else None
        self._engine_groups = [placement_group([each], strategy="STRICT_PACK") for each in placement.engine_bundles]
        self._groups = [group for group in (self._learner_group, *self._engine_groups) if group is not None]
        self._await_groups(timeout_s)

    def _await_groups(self, timeout_s: float) -> None:
        """Waits for Ray to reserve every bundle; PlacementError names what is missing and what is free."""
        deadline = time.monotonic() + timeout_s
        waiting = [group for group in self._groups if not group.wait(max(0.0, deadline - time.monotonic()))]
        if waiting:
            missing = [bundle for group in waiting for bundle in group.bundle_specs]
            free = {name: amount for name, amount in ray.available_resources().items() if name in ("CPU", "GPU")}
            self.release()
            raise PlacementError(
                f"not placed within cluster.placement_timeout_s={timeout_s:g} s: the run needs "
                f"{self.placement.describe()}; still missing {len(missing)} bundle(s), the first {missing[0]}; "
                f"free now {free}. Each bundle must fit on one node; does another run use the cluster?"
            )

    @property
    def device(self) -> str:
        return self.placement.device

    def engine_options(self, index: int) -> dict[str, Any]:
        """Actor options that put engine `index` into its bundle."""
        bundle = self.placement.engine_bundles[index]
        group = self._engine_groups[index]
        threads = str(max(1, math.floor(bundle["CPU"])))
        return {
            "num_cpus": bundle["CPU"],
            "num_gpus": bundle.get("GPU", 0),
            "scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0),
            # More threads than cores compete for them: 15 times slower on two cores.
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": threads}},
        }

    def learner_options(self) -> dict[str, Any]:
        """Keywords of LearnerGroup that put its ranks into their bundles."""
        bundle = self.placement.learner_bundles[0]
        return {
            "placement_group": self._learner_group,
            "bundle_indices": range(len(self.placement.learner_bundles)),
            "cpus_per_rank": bundle["CPU"],
            "gpus_per_rank": bundle.get("GPU", 0),
        }

    def nodes(self) -> dict[str, list[str]]:
        """Node id of every engine and of every learner rank, as Ray placed them."""
        table = ray.util.placement_group_table
        engines = [table(group)["bundles_to_node_id"][0] for group in self._engine_groups]
        ranks = table(self._learner_group)["bundles_to_node_id"] if self._learner_group is not None else {}
        return {"engines": engines, "learner": [ranks[rank] for rank in sorted(ranks)]}

    def lost_nodes(self) -> tuple[Node, ...]:
        """Nodes that do not answer any more, with the engines and ranks that were there."""
        return self._watch.lost_nodes()

    def living_nodes(self) -> list[Node]:
        """The nodes that Ray counts on, with the engines and ranks that it has placed there."""
        placed, own = self.nodes(), ray.get_runtime_context().get_node_id()
        residents: dict[str, list[str]] = defaultdict(list)
        for title, nodes in (("engine", placed["engines"]), ("learner rank", placed["learner"])):
            for index, node_id in enumerate(nodes):
                residents[node_id].append(f"{title} {index}")
        return [
            Node(
                address=f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}",
                is_own=node["NodeID"] == own,
                residents=tuple(residents[node["NodeID"]]),
            )
            for node in ray.nodes()
            if node["Alive"]
        ]

    def release(self) -> None:
        """Returns the bundles; Ray ends the actors that still run in them."""
        for group in self._groups:
            remove_placement_group(group)
        self._groups = []


def _learner_strategy(bundles: Sequence[Mapping[str, float]]) -> str:
    """Strategy that puts all ranks on one node if one has room for them, else on as few as possible."""
    wanted = {name: len(bundles) * amount for name, amount in bundles[0].items()}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fits = any(all(node.get(name, 0.0) >= amount for name, amount in wanted.items()) for node in nodes)
    return "STRICT_PACK" if fits else "PACK"


@contextmanager
def start_cluster(
    cluster: ClusterConfig,
    rollout: RolloutConfig,
    learner: LearnerConfig | None,
    *,
    notice: Callable[[str], None] = print,
) -> Iterator[Cluster]:
    """Joins or starts Ray and reserves the bundles; at the end undoes both, also after a failure.

    learner=None: for engines alone. PlacementError within seconds if the cluster has no room for the run, or if there
    is none to join; also where Ray does not start on this machine. RayLostError or NodeLostError where the run ends
    because a process of Ray has; a node that is lost meanwhile is told by `notice`.
    """
    address = cluster.address
    if address == "auto":  # `ray job submit` names its cluster in RAY_ADDRESS
        address = os.environ.get("RAY_ADDRESS", LOCAL)
    if address == LOCAL:  # a refusal should not take the 5 to 15 s of starting and stopping Ray
        plan_placement(cluster, rollout, learner, resources=local_resources())
    with _ray_session(cluster, address) as logs, raising_in_main_thread() as fail:
        placement = plan_placement(cluster, rollout, learner, resources=ray.cluster_resources())
        gcs_address = ray.get_runtime_context().gcs_address
        watch = RayWatch(gcs_address=gcs_address, is_local=address == LOCAL, logs=logs, fail=fail, notice=notice)
        reserved = Cluster(placement, timeout_s=cluster.placement_timeout_s, watch=watch)
        try:
            with watching(watch, reserved.living_nodes):
                yield reserved
        finally:
            if watch.error is None:  # else Ray takes no bundles back
                reserved.release()


def local_resources() -> dict[str, float]:
    """Resources that a Ray started on this machine would report, from its own detection without a start."""
    # Not public, but the same from Ray 2.54 to 2.60; test_cluster.py compares it with the report of a started Ray.
    return ResourceAndLabelSpec().resolve(is_head=True).to_resource_dict()


@contextmanager
def _ray_session(cluster: ClusterConfig, address: str) -> Iterator[str]:
    """A connection to Ray; gives the folder of Ray's logs on this machine."""
    with ExitStack() as undo:
        is_local = address == LOCAL
        folder = _start_local_ray() if is_local else _join_ray(cluster, address)
        if is_local:
            undo.enter_context(session_folder(folder))
        end: Callable[[], None] = ray.shutdown
        try:
            yield str(folder / "logs")
        except RayLostError:
            end = partial(abandon_ray, folder if is_local else None)
            raise
        finally:
            end()


def _join_ray(cluster: ClusterConfig, address: str) -> Path:
    """Joins a cluster and returns its folder on this machine; PlacementError if none answers."""
    try:
        with starting_ray(is_local=False):
            joined = ray.init(address=address, log_to_driver=True, logging_level="warning")
    except ConnectionError as error:
        reason = " ".join(str(error).split())
        raise PlacementError(
            f"cluster.address={cluster.address}: no Ray cluster answers at {address} ({reason})"
        ) from error
    return Path(joined.address_info["session_dir"])


def _start_local_ray() -> Path:
    """Starts a Ray of this process's own, on loopback, and returns its folder; PlacementError where two attempts fail.

    What a failed start leaves running ends with this process.
    """
    for start in range(1, NUM_LOCAL_STARTS + 1):
        try:
            with starting_ray(is_local=True):
                started = ray.init(address=LOCAL, include_dashboard=False, log_to_driver=True, logging_level="warning")
        except Exception as error:  # Ray raises this very class when its start times out
            ray.shutdown()
            if start == NUM_LOCAL_STARTS:
                raise PlacementError(
                    f"Ray did not start on this machine in {NUM_LOCAL_STARTS} attempts "
                    f"({' '.join(str(error).split())}); is it busy or out of memory? Ray's logs are in "
                    f"/tmp/ray/session_latest/logs"
                ) from error
        else:
            return Path(started.address_info["session_dir"])
    raise AssertionError("the last attempt returns or raises")
