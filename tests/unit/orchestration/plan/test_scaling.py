"""Best splits against all splits, and where more devices stop to help."""

from dataclasses import replace

import pytest
import yaml
from plan_fixtures import COSTS, WORKLOAD

from configs.loading import ConfigError, load_config
from orchestration.plan.scaling import (
    ScalePoint,
    best_split,
    best_splits,
    closed_form_s,
    where_it_stops,
)
from orchestration.plan.scenario import PRESETS, Scenario, model_shape
from orchestration.plan.session import Hardware, costs_from_hardware, load_hardware
from orchestration.plan.simulation import predict

SMALL = model_shape("Qwen/Qwen2.5-1.5B-Instruct")


def scenario(*settings: str, device: str = "gpu", device_bytes: float | None = 80e9) -> Scenario:
    config = load_config(["experiment=paper", *settings])
    return Scenario(
        config=config,
        shape=SMALL,
        device=device,
        device_bytes=device_bytes,
        prompt_length=100,
        lengths=(50, 200, 512),
    )


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_the_best_split_is_the_best_of_all(max_staleness: int) -> None:
    asked = scenario(f"max_staleness={max_staleness}")
    found = best_split(asked, 6, lambda _: COSTS)
    assert found is not None
    every = {
        (engines, ranks): predict(
            replace(asked.workload(), num_engines=engines, num_ranks=ranks), COSTS, num_iterations=6
        ).iteration_s
        for engines in range(1, 6)
        for ranks in range(1, 7 - engines)
    }
    assert found.times.iteration_s <= 1.02 * min(every.values())
    assert found.workload.num_engines + found.workload.num_ranks <= 6


@pytest.mark.parametrize("max_staleness", [0, 2])
def test_more_devices_are_never_slower(max_staleness: int) -> None:
    points = best_splits(scenario(f"max_staleness={max_staleness}"), (2, 8, 64, 1024), lambda _: COSTS)
    speeds = [point.samples_per_s for point in points]
    assert speeds == sorted(speeds)
    assert [point.num_devices for point in points] == [2, 8, 64, 1024]


def test_closed_forms_agree_with_the_simulation_where_nothing_varies() -> None:
    assert closed_form_s(WORKLOAD, COSTS) == pytest.approx(predict(WORKLOAD, COSTS).iteration_s)
    overlapping = replace(WORKLOAD, max_staleness=1)
    assert closed_form_s(overlapping, COSTS) == pytest.approx(predict(overlapping, COSTS).iteration_s)


def point(num_devices: int, samples_per_s: float) -> ScalePoint:
    times = replace(predict(WORKLOAD, COSTS), iteration_s=WORKLOAD.completions / samples_per_s)
    return ScalePoint(num_devices=num_devices, workload=WORKLOAD, times=times)


def test_scaling_stops_where_no_larger_number_gains_a_tenth() -> None:
    stop = where_it_stops([point(2, 10.0), point(4, 10.5), point(8, 18.0), point(16, 19.0), point(32, 19.5)])
    assert stop is not None
    assert stop.num_devices == 8
    assert where_it_stops([point(2, 10.0), point(4, 20.0)]) is None


def test_a_model_that_does_not_fit_needs_more_ranks() -> None:
    big = replace(scenario(), shape=model_shape("Qwen/Qwen2.5-7B-Instruct"))
    assert "a learner rank needs" in (big.misfit(1) or "")
    assert big.misfit(4) is None
    assert best_split(big, 2, lambda _: COSTS) is None
    assert "leave no room" in (replace(big, device_bytes=16e9).misfit(128) or "")
    assert replace(big, device_bytes=None).misfit(1) is None


def test_twice_the_peaks_take_half_the_time() -> None:
    hardware = load_hardware("h100")
    asked = scenario()
    rates = ("operations_per_s", "memory_bytes_per_s", "node_bytes_per_s", "network_bytes_per_s")
    halved = replace(hardware, **{name: getattr(hardware, name) / 2 for name in rates})

    def iteration_s(description: Hardware) -> float:
        costs = costs_from_hardware(description, asked, asked.workload())
        return predict(asked.workload(), costs).iteration_s

    assert iteration_s(halved) == pytest.approx(2 * iteration_s(hardware))


def test_every_preset_names_its_source() -> None:
    names = list(yaml.safe_load((PRESETS / "hardware.yaml").read_text()))
    assert names == ["a100", "h100"]
    for name in names:
        assert "data sheet" in load_hardware(name).source


def test_unknown_hardware_is_refused_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match="hardware=h1000: must be one of a100, h100; add others to"):
        load_hardware("h1000")


def test_each_zero_stage_sends_what_it_gathers_and_sums() -> None:
    workload = replace(WORKLOAD, num_ranks=2, learner_bytes=200.0)
    assert [replace(workload, zero_stage=stage).collective_bytes(3) for stage in (2, 3)] == [200.0, 900.0]


def test_a_step_without_checkpointing_computes_a_quarter_less() -> None:
    def token_s(checkpointing: str) -> float:
        asked = scenario(f"learner.gradient_checkpointing={checkpointing}")
        return costs_from_hardware(load_hardware("h100"), asked, asked.workload()).learner.token_s

    assert token_s("false") == pytest.approx(0.75 * token_s("true"))
