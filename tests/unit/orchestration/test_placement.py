"""The arithmetic of bundles."""

import pytest

from configs.schema import ClusterConfig, LearnerConfig, RolloutConfig
from orchestration.placement import PlacementError, plan_placement


def test_gpu_engines_take_one_bundle_of_all_their_gpus() -> None:
    placement = plan_placement(
        ClusterConfig(),
        RolloutConfig(num_engines=2, tensor_parallel_size=4),
        LearnerConfig(num_workers=3),
        resources={"CPU": 64.0, "GPU": 11.0},
    )
    assert placement.device == "gpu"
    assert placement.engine_bundles == ({"CPU": 4.0, "GPU": 4.0},) * 2
    assert placement.learner_bundles == ({"CPU": 1.0, "GPU": 1.0},) * 3
    assert placement.demand() == {"CPU": 11.0, "GPU": 11.0}


def test_an_engine_and_a_rank_share_one_gpu() -> None:
    placement = plan_placement(
        ClusterConfig(gpus_per_engine=0.4, gpus_per_learner=0.6),
        RolloutConfig(gpu_memory_utilization=0.3),
        LearnerConfig(),
        resources={"CPU": 2.0, "GPU": 1.0},
    )
    assert placement.engine_bundles == ({"CPU": 1.0, "GPU": 0.4},)
    assert placement.learner_bundles == ({"CPU": 1.0, "GPU": 0.6},)
    with pytest.raises(PlacementError, match=r"together 1\.2 GPU"):
        plan_placement(
            ClusterConfig(gpus_per_learner=0.6),
            RolloutConfig(replay="groups"),
            LearnerConfig(num_workers=2),
            resources={"CPU": 2.0, "GPU": 1.0},
        )


def test_a_cluster_without_gpus_holds_the_same_shapes_in_cpus() -> None:
    placement = plan_placement(
        ClusterConfig(cpus_per_engine=0.5, cpus_per_learner=0.5),
        RolloutConfig(num_engines=2),
        LearnerConfig(num_workers=2),
        resources={"CPU": 2.0},
    )
    assert placement.device == "cpu"
    assert placement.demand() == {"CPU": 2.0}


def test_an_evaluation_has_engines_only() -> None:
    rollout = RolloutConfig(num_engines=2)
    placement = plan_placement(ClusterConfig(), rollout, None, resources={"CPU": 64.0, "GPU": 2.0})
    assert placement.demand() == {"CPU": 2.0, "GPU": 2.0}
    assert placement.describe() == "2 engine(s) of 1 GPU, 1 CPU"
    with pytest.raises(
        PlacementError,
        match=r"needs 2 engine\(s\) of 1 CPU, together 2 CPU; the cluster has 1 CPU\. Lower \S+ or",
    ):
        plan_placement(ClusterConfig(), rollout, None, resources={"CPU": 1.0})


def test_device_cpu_leaves_the_gpus_alone() -> None:
    placement = plan_placement(
        ClusterConfig(device="cpu"), RolloutConfig(), LearnerConfig(), resources={"CPU": 8.0, "GPU": 8.0}
    )
    assert placement.demand() == {"CPU": 2.0}


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        (
            {"CPU": 64.0, "GPU": 4.0},
            r"needs 4 engine\(s\) of 1 GPU, 1 CPU and 1 learner rank\(s\) of 1 GPU, 1 CPU",
        ),
        ({"CPU": 64.0, "GPU": 4.0}, r"together 5 GPU, 5 CPU; the cluster has 4 GPU, 64 CPU"),
        ({"CPU": 3.0}, r"together 5 CPU; the cluster has 3 CPU"),
    ],
)
def test_too_small_a_cluster_is_told_apart_from_what_was_asked(resources: dict[str, float], message: str) -> None:
    with pytest.raises(PlacementError, match=message):
        plan_placement(ClusterConfig(), RolloutConfig(num_engines=4), LearnerConfig(), resources=resources)


def test_a_cluster_with_room_for_the_fewest_engines_is_large_enough() -> None:
    resources = {"CPU": 3.0}
    rollout = RolloutConfig(num_engines=8, min_engines=2)
    placement = plan_placement(ClusterConfig(), rollout, LearnerConfig(), resources=resources)
    assert len(placement.engine_bundles) == 8, "more have bundles, for which Ray looks for room"
    assert placement.demand() == {"CPU": 9.0}
    with pytest.raises(PlacementError, match=r"the run needs 3 engine\(s\) of 1 CPU .* Lower rollout.min_engines,"):
        plan_placement(
            ClusterConfig(), RolloutConfig(num_engines=8, min_engines=3), LearnerConfig(), resources=resources
        )
    with pytest.raises(ValueError, match=r"rollout.min_engines=3: must be at most rollout.num_engines=2"):
        RolloutConfig(num_engines=2, min_engines=3)
