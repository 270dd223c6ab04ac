"""Fits that recover what made the measurements, and a file that comes back as it was written."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from plan_fixtures import COSTS, WORKLOAD

from configs.loading import ConfigError, load_config
from orchestration.plan.calibration import (
    FILE,
    Calibration,
    Timing,
    fit_parts,
    fit_runs,
    fit_seconds,
    kept_path,
    load_calibration,
    require_measured,
)
from orchestration.plan.costs import Costs, EngineCosts, LearnerCosts, Workload, generation_counts, update_counts
from orchestration.plan.scenario import ModelShape, Scenario, shape_of
from orchestration.plan.simulation import predict

SHAPE = shape_of(
    {
        "model_type": "qwen2",
        "vocab_size": 22,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "tie_word_embeddings": True,
    },
    name="org/tiny model",
)
ENGINE = EngineCosts(
    step_s=2e-3, sequence_s=5e-5, context_token_s=1e-7, prompt_token_s=1e-6, group_s=4e-4, burst_s=5e-3
)
LEARNER = LearnerCosts(
    load_s=5e-3, sample_s=2e-5, step_s=8e-3, row_s=3e-3, sequence_s=1e-4, token_s=5e-5, pair_s=2e-8, scoring_share=0.4
)


ONE_RANK = replace(WORKLOAD, max_tokens=512)


def update_s(lengths: np.ndarray) -> float:
    return sum(LEARNER.step_s + LEARNER.pass_s(part, ONE_RANK) for part in np.array_split(lengths, 2))


def fitted(
    *, noise: float = 0.0, scoring_share: float = 0.0, num_scoring_passes: int = 0
) -> tuple[Costs, dict[str, float]]:
    """Costs fitted to measurements made of ENGINE and LEARNER, and the errors of the fits."""
    random = np.random.default_rng(0)

    def noisy(seconds: float) -> float:
        return seconds * (1 + noise * random.normal())

    generation = []
    for num_groups in (4, 16, 32):
        for longest in (8, 32):
            lengths = [random.integers(1, longest, size=8).tolist() for _ in range(num_groups)]
            counts = generation_counts(lengths, prompt_length=7)
            seconds = sum(count * getattr(ENGINE, name) for name, count in counts.items())
            generation.append(Timing(counts=counts, seconds=noisy(seconds)))
    updates, loads = [], []
    for num_samples in (32, 64, 128, 256):
        sequences = random.integers(10, 40, size=num_samples)
        pass_s = update_s(sequences) - 2 * LEARNER.step_s
        load_s = LEARNER.load_s + LEARNER.sample_s * num_samples + scoring_share * pass_s
        counts = update_counts(sequences.tolist(), num_steps=2, max_tokens=512)
        updates.append(Timing(counts=counts, seconds=noisy(update_s(sequences))))
        loads.append(Timing(counts={"load_s": 1.0, "sample_s": float(num_samples)}, seconds=load_s))
    engine, learner, errors = fit_parts(generation, updates, loads, num_scoring_passes=num_scoring_passes)
    return replace(COSTS, engine=engine, learner=learner, grade_s=1e-3), errors


def test_fits_reproduce_what_they_were_made_of() -> None:
    costs, errors = fitted()
    assert errors["generation"] < 1e-3
    assert errors["learner"] < 0.03  # rows are counted from mean minibatches
    assert costs.engine.decoding_s(50, 40, 300) == pytest.approx(ENGINE.decoding_s(50, 40, 300), rel=0.05)
    assert (costs.learner.load_s, costs.learner.sample_s) == pytest.approx((LEARNER.load_s, LEARNER.sample_s))


def test_predictions_from_noisy_measurements_stay_close_where_nothing_was_measured() -> None:
    exact = replace(COSTS, engine=ENGINE, learner=LEARNER, grade_s=1e-3)
    close, _ = fitted(noise=0.03)
    workload = replace(WORKLOAD, prompts_per_iteration=24, completions_per_prompt=4, lengths=(3, 9, 20, 50))
    for max_staleness in (0, 1):
        asked = replace(workload, max_staleness=max_staleness)
        assert iteration_s(asked, close) == pytest.approx(iteration_s(asked, exact), rel=0.1)


def test_a_scoring_pass_is_priced_where_it_was_measured() -> None:
    once, _ = fitted(scoring_share=0.4, num_scoring_passes=1)
    assert once.learner.scoring_share == pytest.approx(0.4, rel=0.2)
    twice, _ = fitted(scoring_share=0.8, num_scoring_passes=2)
    assert twice.learner.scoring_share == pytest.approx(0.4, rel=0.2)


def iteration_s(workload: Workload, costs: Costs) -> float:
    return predict(workload, costs).iteration_s


def test_no_coefficient_is_negative_and_unused_counts_cost_nothing() -> None:
    random = np.random.default_rng(1)
    counts = np.column_stack([random.uniform(1, 9, size=(12, 2)), np.zeros(12)])
    found, _ = fit_seconds(timings(counts, counts @ [2.0, -0.1, 5.0]))
    assert min(found.values()) >= 0
    assert found["b"] == found["c"] == 0.0
    _, error = fit_seconds(timings(counts, counts @ [2.0, 1.0, 0.0]))
    assert error < 1e-9


def timings(counts: np.ndarray, seconds: np.ndarray) -> list[Timing]:
    return [
        Timing(counts=dict(zip("abc", row, strict=True)), seconds=each)
        for row, each in zip(counts.tolist(), seconds.tolist(), strict=True)
    ]


def whole_run(costs: Costs, **changes: object) -> tuple[Workload, float]:
    workload = replace(WORKLOAD, **changes)  # type: ignore[arg-type]
    return workload, iteration_s(workload, costs)


@pytest.mark.parametrize(("iteration_s", "completion_s"), [(0.05, 0.002), (0.05, 0.0), (0.0, 0.01)])
def test_what_whole_runs_take_beyond_their_parts_is_the_drivers(iteration_s: float, completion_s: float) -> None:
    true = replace(COSTS, iteration_s=iteration_s, completion_s=completion_s)
    found = fit_runs(COSTS, [whole_run(true, prompts_per_iteration=size) for size in (2, 8)])
    assert (found.iteration_s, found.completion_s) == pytest.approx((iteration_s, completion_s), abs=1e-9)


def test_runs_that_are_faster_than_their_parts_leave_the_driver_nothing() -> None:
    fast = replace(COSTS, engine=replace(COSTS.engine, step_s=1e-4), iteration_s=0.0)
    found = fit_runs(COSTS, [whole_run(fast, prompts_per_iteration=size) for size in (2, 8)])
    assert (found.iteration_s, found.completion_s) == (0.0, 0.0)


@pytest.mark.parametrize("rate", [0.5, 0.8, 1.0])
def test_sharing_and_the_driver_are_found_together(rate: float) -> None:
    # grading overlaps with generation in synchronous runs too
    true = replace(COSTS, iteration_s=0.05, completion_s=0.001, grade_s=0.01, pair_rate=rate)
    synchronous = [whole_run(true, prompts_per_iteration=size) for size in (2, 8)]
    overlapping = whole_run(true, max_staleness=1)
    found = fit_runs(replace(true, iteration_s=0.0, completion_s=0.0, pair_rate=None), [*synchronous, overlapping])
    assert found.rate(2) == pytest.approx(rate, abs=0.03)
    assert found.rate(1) == 1.0
    assert found.rate(4) == pytest.approx(found.rate(2) / 2)
    other = replace(WORKLOAD, max_staleness=2, prompts_per_iteration=6)
    assert iteration_s(other, found) == pytest.approx(iteration_s(other, true), rel=0.02)


def calibration() -> Calibration:
    return Calibration(
        device="cpu",
        shape=SHAPE,
        engine_dtype="float32",
        learner_dtype="float32",
        costs=replace(COSTS, pair_rate=0.7),
        prompt_length=7,
        lengths=(3, 9, 20),
        errors={"generation": 0.01},
    )


def test_a_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "cal.json"
    path.write_bytes(FILE.dump_json(calibration()))
    assert load_calibration(path) == calibration()


def test_unusable_files_are_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "cal.json"
    with pytest.raises(ConfigError, match="no such file; measure this machine with --calibrate, or count from"):
        load_calibration(path)
    for text in ("{", "[]", '{"format": 4}', '{"format": 0}'):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"not a calibration of this version .* measure again"):
            load_calibration(path)


def scenario(shape: ModelShape, *settings: str) -> Scenario:
    config = load_config(settings)
    return Scenario(config=config, shape=shape, device="cpu", device_bytes=None, prompt_length=7, lengths=(3,))


def test_a_calibration_of_another_model_is_refused(tmp_path: Path) -> None:
    require_measured(calibration(), scenario(replace(SHAPE, name="renamed")), tmp_path)
    with pytest.raises(
        ConfigError, match=r"was measured with vocabulary=22, layers=2, asked is vocabulary=7, layers=9; measure"
    ):
        require_measured(calibration(), scenario(replace(SHAPE, layers=9, vocabulary=7)), tmp_path)


def test_a_calibration_in_another_dtype_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"measured with learner.dtype=float32, asked is learner.dtype=bfloat16; measure"
    ):
        require_measured(calibration(), scenario(SHAPE, "learner.dtype=bfloat16"), tmp_path)
    with pytest.raises(ConfigError, match=r"measured with rollout.dtype=float32, asked is rollout.dtype=bfloat16"):
        require_measured(calibration(), scenario(SHAPE, "rollout.dtype=bfloat16"), tmp_path)


def test_models_and_devices_have_files_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SOFTGATE_CACHE", str(tmp_path))
    assert kept_path(SHAPE, "cpu") == tmp_path / "calibrations" / f"tiny-model-{SHAPE.num_parameters}-cpu.json"
