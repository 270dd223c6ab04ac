"""Best splits against all splits, and where more devices stop to help."""

from dataclasses import replace
from pathlib import Path

import pytest
from plan_fixtures import COSTS, WORKLOAD

from configs.loading import load_config
from orchestration.plan.hardware import Hardware, HardwareError, costs_from_hardware, load_hardware, preset_names
from orchestration.plan.model_shape import KNOWN_CONFIGS, shape_of
from orchestration.plan.scaling import (
    ScalePoint,
    best_split,
    best_splits,
    closed_form_s,
    floors_s,
    where_it_stops,
)
from orchestration.plan.scenario import Scenario
from orchestration.plan.simulation import predict

SMALL = shape_of(KNOWN_CONFIGS["Qwen/Qwen2.5-1.5B-Instruct"], name="small")


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
            asked.workload(num_engines=engines, num_ranks=ranks), COSTS, num_iterations=6
        ).mean.iteration_s
        for engines in range(1, 6)
        for ranks in range(1, 7 - engines)
    }
    assert found.prediction.mean.iteration_s <= 1.02 * min(every.values())
    assert found.workload.num_engines + found.workload.num_ranks <= 6


@pytest.mark.parametrize("max_staleness", [0, 2])
def test_more_devices_are_never_slower(max_staleness: int) -> None:
    points = best_splits(scenario(f"max_staleness={max_staleness}"), (2, 8, 64, 1024), lambda _: COSTS)
    speeds = [point.samples_per_s for point in points]
    assert speeds == sorted(speeds)
    assert [point.num_devices for point in points] == [2, 8, 64, 1024]


def test_closed_forms_agree_with_the_simulation_where_nothing_varies() -> None:
    assert closed_form_s(WORKLOAD, COSTS) == pytest.approx(predict(WORKLOAD, COSTS).mean.iteration_s)
    overlapping = replace(WORKLOAD, max_staleness=1)
    assert closed_form_s(overlapping, COSTS) == pytest.approx(predict(overlapping, COSTS).mean.iteration_s)


def test_floors_are_no_more_than_an_iteration() -> None:
    for max_staleness in (0, 1):
        workload = replace(WORKLOAD, max_staleness=max_staleness)
        floors = floors_s(workload, COSTS)
        assert sum(floors.values()) <= predict(workload, COSTS).mean.iteration_s
        assert all(seconds >= 0.0 for seconds in floors.values())


def point(num_devices: int, samples_per_s: float) -> ScalePoint:
    found = predict(WORKLOAD, COSTS)
    mean = replace(found.mean, iteration_s=WORKLOAD.completions / samples_per_s)
    return ScalePoint(
        num_devices=num_devices,
        workload=WORKLOAD,
        prediction=replace(found, mean=mean),
        floor="publish",
        floor_share=0.5,
    )


def test_scaling_stops_where_no_larger_number_gains_a_tenth() -> None:
    stop = where_it_stops([point(2, 10.0), point(4, 10.5), point(8, 18.0), point(16, 19.0), point(32, 19.5)])
    assert stop is not None
    assert (stop.point.num_devices, stop.point.floor) == (8, "publish")
    assert stop.gain == pytest.approx(19.5 / 18.0)
    assert where_it_stops([point(2, 10.0), point(4, 20.0)]) is None


def test_a_model_that_does_not_fit_needs_more_ranks() -> None:
    big = replace(scenario(), shape=shape_of(KNOWN_CONFIGS["Qwen/Qwen2.5-7B-Instruct"], name="big"))
    assert "a learner rank needs" in (big.misfit(1) or "")
    assert big.misfit(4) is None
    assert best_split(big, 2, lambda _: COSTS) is None
    assert "leave no room" in (replace(big, device_bytes=16e9).misfit(128) or "")
    assert replace(big, device_bytes=None).misfit(1) is None


def test_twice_the_peaks_take_half_the_time() -> None:
    hardware = load_hardware("h100")
    asked = scenario()
    halved = hardware.model_copy(update={"operations_share": 0.5, "memory_share": 0.5, "wire_share": 0.5})
    assert hardware.is_at_peak
    assert not halved.is_at_peak

    def iteration_s(description: Hardware) -> float:
        costs = costs_from_hardware(description, asked, asked.workload())
        return predict(asked.workload(), costs).mean.iteration_s

    assert iteration_s(halved) == pytest.approx(2 * iteration_s(hardware))


def test_every_preset_names_its_source() -> None:
    assert preset_names()
    for name in preset_names():
        assert "data sheet" in load_hardware(name).source


def test_unknown_hardware_is_refused_with_what_there_is() -> None:
    with pytest.raises(HardwareError, match="neither a file nor one of a100, h100"):
        load_hardware("h1000")


def test_a_file_of_ones_own_is_checked_key_by_key(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nmemory_bytes: -1\nspeed: 3\n")
    with pytest.raises(HardwareError) as caught:
        load_hardware(str(path))
    lines = str(caught.value).splitlines()
    assert any("source: missing" in line for line in lines)
    assert any("memory_bytes=-1: must be greater than 0" in line for line in lines)
    assert any("speed=3: no such setting" in line for line in lines)
