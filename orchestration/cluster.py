"""The Ray cluster of a run: joins or starts it, reserves placement groups, and releases everything at the end.

In: ClusterConfig and the run's engines and learner ranks. Out: a Cluster with the actor options that place them. Knows
nothing of what they do, and imports no torch, so that a run that does not fit is refused within seconds.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private.resource_and_label_spec import ResourceAndLabelSpec
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from configs.loading import ConfigError
from configs.schema import ClusterConfig, LearnerConfig, RolloutConfig
from orchestration.level_memory import keep_memory_level
from orchestration.network.abandon import abandon_ray
from orchestration.network.session_folders import folders_of_this_process, session_folder, settle_failed_start
from orchestration.network.starting import starting_ray
from orchestration.network.watch import Node, RayLostError, RayWatch
from orchestration.network.watching import explaining, watching
from orchestration.own_sessions import own_sessions
from orchestration.placement import Placement, PlacementError, plan_placement
from orchestration.startup.checks.cluster_address import LOCAL, check_address, cluster_address
from orchestration.startup.checks.folders import ray_temp_root
from orchestration.startup.ray_errors import not_joined, not_started
from orchestration.terminal.stopping import fail, install, protect
from transfer.patience import Patience

POLL_S = 0.05  # pause between two looks at what Ray has placed
ENGINE_STRATEGY = "STRICT_PACK"
NUM_LOCAL_STARTS = 2  # Ray gives its own start 30 s, which a busy machine may exceed once


class Cluster:
    """The bundles reserved for one run."""

    def __init__(self, placement: Placement, *, engines_at_start: int, timeout_s: float, watch: RayWatch) -> None:
        """Waits for the learner's bundles and those of the engines; engines_at_start of these are enough in the end.

        Ray goes on to look for places for the others. PlacementError names what is missing.
        """
        self.placement = placement
        self._timeout_s = timeout_s
        self._watch = watch
        bundles = placement.learner_bundles
        # The learner first: its ranks communicate at every step, engines do not.
        self._learner_group = placement_group(list(bundles), strategy=_learner_strategy(bundles)) if bundles else None
        self._engine_groups = [placement_group([each], strategy=ENGINE_STRATEGY) for each in placement.engine_bundles]
        waiting = self._await(self._groups)
        if self._learner_group in waiting or len(self.placed_engines()) < engines_at_start:
            shortage = self.shortage()
            self.release()
            raise PlacementError(
                f"not placed within cluster.placement_timeout_s={timeout_s:g} s: the run needs "
                f"{self.placement.describe()}; {shortage}. Each bundle must fit on one node; does another run use the "
                f"cluster?"
            )

    @property
    def _groups(self) -> list[PlacementGroup]:
        return [*([self._learner_group] if self._learner_group is not None else []), *self._engine_groups]

    def _await(self, groups: Sequence[PlacementGroup]) -> list[PlacementGroup]:
        """Waits for Ray to reserve the bundles of all groups; those that are missing when the time is up."""
        waiting = list(groups)
        for slice_s in Patience(self._timeout_s):
            waiting = [group for group in groups if not _is_placed(group)]
            if not waiting:
                break
            time.sleep(min(slice_s, POLL_S))
        return waiting

    def shortage(self) -> str:
        """What Ray has not placed, and what is free."""
        missing = [bundle for group in self._groups if not _is_placed(group) for bundle in group.bundle_specs]
        free = {name: amount for name, amount in ray.available_resources().items() if name in ("CPU", "GPU")}
        return f"still missing {len(missing)} bundle(s), the first {missing[:1]}; free now {free}"

    def placed_engines(self) -> list[int]:
        """Engines that have a place now: after the end of its node, an engine has none before Ray finds another."""
        placed = []
        for engine, group in enumerate(self._engine_groups):
            match _state(group):
                case "CREATED":
                    placed.append(engine)
                case "RESCHEDULING":
                    self._engine_groups[engine] = _ask_anew(group, strategy=ENGINE_STRATEGY)
        return placed

    def await_learner(self) -> None:
        """Waits until the learner has its bundles, whose node may be gone; PlacementError names what is missing."""
        if self._learner_group is None:
            return
        if _state(self._learner_group) == "RESCHEDULING":
            strategy = _learner_strategy(self.placement.learner_bundles)
            self._learner_group = _ask_anew(self._learner_group, strategy=strategy)
        if self._await([self._learner_group]):
            raise PlacementError(
                f"the learner has no place any more within cluster.placement_timeout_s={self._timeout_s:g} s; "
                f"{self.shortage()}. Add a node, then continue the run with resume=true"
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

    def run_beside(self, engine: int, function: Callable[..., Any], *arguments: Any) -> None:
        """Calls the function on the engine's node, unless it is gone; waits for nothing."""
        if node := _table(self._engine_groups[engine]).get("bundles_to_node_id", {}).get(0):
            there = NodeAffinitySchedulingStrategy(node, soft=False)
            ray.remote(function).options(num_cpus=0, scheduling_strategy=there).remote(*arguments)

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
        """Node id of every engine and of every learner rank, as Ray placed them; "" where an engine has no place."""
        engines = [_table(group)["bundles_to_node_id"].get(0, "") for group in self._engine_groups]
        ranks = _table(self._learner_group)["bundles_to_node_id"] if self._learner_group is not None else {}
        return {"engines": engines, "learner": [ranks[rank] for rank in sorted(ranks)]}

    def lost_nodes(self) -> tuple[Node, ...]:
        """Nodes that do not answer any more, with the engines and ranks that were there."""
        return self._watch.lost_nodes()

    def explaining(self) -> AbstractContextManager[None]:
        """A block whose failure is put down to Ray where a process of Ray has gone first."""
        return explaining(self._watch)

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
        self._learner_group, self._engine_groups = None, []


def _is_placed(group: PlacementGroup) -> bool:
    return _state(group) == "CREATED"


def _ask_anew(group: PlacementGroup, *, strategy: str) -> PlacementGroup:
    """A new group in place of one whose node is gone: for that Ray's GCS looks without a pause, and takes a core."""
    bundles = group.bundle_specs
    remove_placement_group(group)
    return placement_group(bundles, strategy=strategy)


def _state(group: PlacementGroup) -> str:
    return str(_table(group).get("state"))


def _table(group: PlacementGroup) -> dict[str, Any]:
    table: dict[str, Any] = ray.util.placement_group_table(group)
    return table


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

    learner=None: for engines alone. Within seconds, PlacementError if the cluster has no room for the run and
    ConfigError if there is none to join; ConfigError also where Ray does not start on this machine. RayLostError or
    NodeLostError where the run ends because a process of Ray has; a node that is lost meanwhile is told by `notice`.
    """
    if mistakes := check_address(cluster.address).mistakes:
        raise ConfigError(mistakes)
    address = cluster_address(cluster.address)
    if address == LOCAL:  # a refusal should not take the 5 to 15 s of starting and stopping Ray
        plan_placement(cluster, rollout, learner, resources=local_resources())
    with own_sessions() as end_started, _ray_session(cluster, address, notice, end_started) as watch:
        install()  # ray.init has taken SIGTERM
        placement = plan_placement(cluster, rollout, learner, resources=ray.cluster_resources())
        reserved = Cluster(
            placement,
            engines_at_start=rollout.engines_at_start if rollout.has_engines else 0,
            timeout_s=cluster.placement_timeout_s,
            watch=watch,
        )
        try:
            with watching(watch, reserved.living_nodes), reserved.explaining():
                yield reserved
        finally:
            if watch.error is None:  # else Ray takes no bundles back
                reserved.release()


def local_resources() -> dict[str, float]:
    """Resources that a Ray started on this machine would report, from its own detection without a start."""
    # Not public, but the same from Ray 2.54 to 2.60; test_cluster.py compares it with the report of a started Ray.
    return ResourceAndLabelSpec().resolve(is_head=True).to_resource_dict()


@contextmanager
def _ray_session(
    cluster: ClusterConfig, address: str, notice: Callable[[str], None], end_started: Callable[[], None]
) -> Iterator[RayWatch]:
    """A connection to Ray; gives a watch on it, which does not look yet. end_started: ends Ray's processes."""
    keep_memory_level()
    end = ray.shutdown
    with ExitStack() as undo:
        try:
            if address == LOCAL:
                with protect():  # half a start would leave processes
                    folder = _start_local_ray(end_started)
                undo.enter_context(session_folder(folder))
            else:
                folder = _join_ray(cluster, address)
            yield RayWatch(
                gcs_address=ray.get_runtime_context().gcs_address,
                is_local=address == LOCAL,
                logs=str(folder / "logs"),
                fail=fail,
                notice=notice,
            )
        except RayLostError:
            end = abandon_ray
            raise
        finally:
            with protect():
                end()


def _join_ray(cluster: ClusterConfig, address: str) -> Path:
    """Joins a cluster and returns its folder on this machine; ConfigError if none answers."""
    try:
        with starting_ray(is_local=False):
            joined = ray.init(address=address, log_to_driver=True, logging_level="warning")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise not_joined(cluster.address, error) from error
    return Path(joined.address_info["session_dir"])


def _start_local_ray(end_started: Callable[[], None]) -> Path:
    """Starts a Ray of this process's own, on loopback, and returns its folder; ConfigError where two attempts fail.

    Of the first of these nothing stays, of the second the folder with Ray's logs.
    """
    root = ray_temp_root()[1] / "ray"
    for start in range(1, NUM_LOCAL_STARTS + 1):
        before, is_last = folders_of_this_process(root), start == NUM_LOCAL_STARTS
        try:
            with starting_ray(is_local=True):
                started = ray.init(address=LOCAL, include_dashboard=False, log_to_driver=True, logging_level="warning")
        except Exception as error:  # Ray raises this very class when its start times out
            end_started()
            settle_failed_start(folders_of_this_process(root) - before, is_kept=is_last)
            if is_last:
                raise not_started(error, attempts=NUM_LOCAL_STARTS) from error
            ray.shutdown()
        else:
            return Path(started.address_info["session_dir"])
    raise AssertionError("the last attempt returns or raises")
