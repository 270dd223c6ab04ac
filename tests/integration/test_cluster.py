"""Placement on real Ray clusters: two nodes, and requests that no cluster can meet."""

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from machine import slowdown
from ray.cluster_utils import Cluster as RayCluster
from support import NAMED_WITHIN_S, SMALL, CommandRun, RunCommand, await_rows, wait_until

from configs.loading import load_config
from orchestration.cluster import local_resources, start_cluster
from orchestration.placement import PlacementError

REFUSAL_S = 10.0  # the promise, on an idle machine, for the whole command where the cluster cannot hold the run

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900), pytest.mark.usefixtures("no_shared_ray")]


# A node that is gone is noticed after 15 s otherwise.
NOTICE_SOON = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 5000,
    "health_check_failure_threshold": 3,
}


def test_two_nodes_hold_engines_and_learner_as_configured_and_lose_and_get_places_with_nodes() -> None:
    nodes = RayCluster(initialize_head=True, head_node_args={"num_cpus": 2, "_system_config": NOTICE_SOON})
    try:
        second = nodes.add_node(num_cpus=3)
        config = load_config(
            [
                *SMALL,
                f"cluster.address={nodes.address}",
                "cluster.cpus_per_engine=1",
                "cluster.cpus_per_learner=1",
                "rollout.num_engines=3",
                "rollout.min_engines=2",
                "cluster.placement_timeout_s=2",
                "learner.num_workers=3",
            ]
        )
        told: list[str] = []
        with start_cluster(config.cluster, config.rollout, config.learner, notice=told.append) as cluster:
            places = cluster.placed_engines()
            assert len(places) == 2, "the run begins with the fewest engines"
            placed = cluster.nodes()
            nodes.add_node(num_cpus=1)
            assert wait_until(lambda: cluster.placed_engines() == [0, 1, 2]), "the third has a place once there is room"
            cluster.await_learner()
            nodes.remove_node(second, allow_graceful=False)
            removed_at = time.monotonic()
            assert wait_until(lambda: bool(told))
            assert time.monotonic() - removed_at < NAMED_WITHIN_S * slowdown()
            (line,) = told
            host = re.escape(ray.util.get_node_ip_address())
            ranks = "learner rank 0, learner rank 1, learner rank 2"
            assert re.match(rf"node {host} \({ranks} there\) does not answer any more; start Ray there again", line), (
                line
            )
            assert [node.residents for node in cluster.lost_nodes()] == [tuple(ranks.split(", "))]
            assert wait_until(lambda: "missing 3" in cluster.shortage())
            with pytest.raises(
                PlacementError, match=r"the learner has no place any more within .*=2 s; still missing 3"
            ):
                cluster.await_learner()
            states = {group["state"] for group in ray.util.placement_group_table().values()}
            assert "RESCHEDULING" not in states, "Ray's GCS takes a core as long as there is such a group"
            nodes.add_node(num_cpus=3)
            assert wait_until(lambda: "missing 0" in cluster.shortage())
            cluster.await_learner()
        engines = {placed["engines"][engine] for engine in places}
        assert len({*engines, *placed["learner"]}) == 2, placed
        assert len(set(placed["learner"])) == 1, (
            f"three ranks fit the node of three CPUs, so they lie together: {placed}"
        )
        assert engines.isdisjoint(placed["learner"]), placed
    finally:
        ray.shutdown()
        nodes.shutdown()


def test_an_asynchronous_erf_run_goes_on_without_a_lost_node_and_keeps_the_staleness_bound(
    main_run: CommandRun, run_command: RunCommand, tmp_path: Path, no_process_left: None
) -> None:
    # One engine and the learner fill the first node, the other engine the second.
    nodes = RayCluster(initialize_head=True, head_node_args={"num_cpus": 2, "_system_config": NOTICE_SOON})
    try:
        second = nodes.add_node(num_cpus=1)

        def lose_second(run: "subprocess.Popen[str]") -> None:
            await_rows(tmp_path / "run/metrics.jsonl", 2, run)
            nodes.remove_node(second, allow_graceful=False)

        run = run_command(
            tmp_path / "run",
            f"cluster.address={nodes.address}",
            "cluster.cpus_per_engine=1",
            "cluster.cpus_per_learner=1",
            "rollout.num_engines=2",
            "gate=erf",
            "max_staleness=1",
            "publish.inflight=false",
            "num_iterations=6",
            "eval.every=2",
            meanwhile=lose_second,
        )
    finally:
        nodes.shutdown()
    assert run.status == 0, run.output
    assert re.search(r"^engine \d: its (node [\d.]+ is gone|process \d+ died)", run.output, re.MULTILINE), run.output
    assert "Traceback" not in run.output
    assert run.texts(0) == main_run.texts(0) != []
    staleness = [row["staleness/max"] for row in run.rows()]
    assert len(staleness) == 6
    assert staleness[0] == 0
    assert max(staleness) == 1, "generation runs one version ahead, never more"
    for row in run.rows("rollouts.jsonl"):
        for completion in row["completions"]:
            assert completion["min_policy_version"] == completion["max_policy_version"], "finished before the publish"
    assert [row["iteration"] for row in run.rows("eval.jsonl")] == [0, 2, 4, 6]


@pytest.mark.parametrize(
    ("overrides", "asked"),
    [
        (["rollout.num_engines=50"], r"50 engine\(s\) of 0\.5 CPU .* the cluster has \d+ CPU"),
        (
            ["cluster.device=gpu", "learner.num_workers=8", "rollout.prompts_per_iteration=8"],
            r"9 GPU.* the cluster has 0 GPU",
        ),
    ],
)
def test_a_request_beyond_this_machine_fails_in_seconds(
    overrides: list[str], asked: str, run_command: RunCommand, tmp_path: Path, no_process_left: None
) -> None:
    started = time.monotonic()
    run = run_command(tmp_path / "run", *overrides)
    assert run.status == 1
    message = next(line for line in run.output.splitlines() if line.startswith("softgate: "))
    assert re.search(asked, message), message
    assert time.monotonic() - started < REFUSAL_S * slowdown()


def test_a_machine_is_judged_by_what_its_ray_reports() -> None:
    ray.init(address="local", include_dashboard=False)
    try:
        reported = ray.cluster_resources()
    finally:
        ray.shutdown()
    found = local_resources()
    assert {name: found.get(name, 0.0) for name in ("CPU", "GPU")} == {
        name: reported.get(name, 0.0) for name in ("CPU", "GPU")
    }


@pytest.fixture(scope="module")
def running_ray() -> Iterator[str]:
    """Address of a cluster of two CPUs, which this process has joined until the last test here has ended."""
    ray.init(address="local", num_cpus=2, include_dashboard=False)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


def test_a_request_beyond_a_running_cluster_fails_in_seconds(
    running_ray: str, run_command: RunCommand, tmp_path: Path
) -> None:
    started = time.monotonic()
    run = run_command(tmp_path / "run", f"cluster.address={running_ray}", "rollout.num_engines=50")
    assert run.status == 1
    assert "50 engine(s) of 0.5 CPU" in run.output, run.output
    assert "the cluster has 2 CPU." in run.output, run.output
    assert time.monotonic() - started < REFUSAL_S * slowdown()


def test_a_cluster_held_by_another_run_is_reported(running_ray: str, run_command: RunCommand, tmp_path: Path) -> None:
    holder = ray.util.placement_group([{"CPU": 2.0}])
    assert holder.wait(120)
    run = run_command(tmp_path / "run", f"cluster.address={running_ray}", "cluster.placement_timeout_s=3")
    ray.util.remove_placement_group(holder)
    assert run.status == 1
    assert "not placed within cluster.placement_timeout_s=3 s" in run.output, run.output
