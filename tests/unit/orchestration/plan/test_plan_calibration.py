"""Fits that recover what made the measurements, and a file that comes back as it was written."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from plan_fixtures import COSTS, WORKLOAD

from configs.lora import LoraConfig
from orchestration.plan.calibration import (
    GenerationRun,
    LearnerRun,
    MeasuredRun,
    Measurements,
    PublishRun,
    fit_costs,
    fit_runs,
)
from orchestration.plan.calibration_file import (
    Calibration,
    CalibrationError,
    default_path,
    load_calibration,
    require_adapters,
    require_dtypes,
    require_model,
    save_calibration,
)
from orchestration.plan.costs import Costs, EngineCosts, LearnerCosts, generation_counts
from orchestration.plan.fitting import fit_seconds, relative_error
from orchestration.plan.model_shape import shape_of
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


def measurements(*, noise: float = 0.0) -> Measurements:
    random = np.random.default_rng(0)
    prices = (
        ENGINE.step_s,
        ENGINE.sequence_s,
        ENGINE.context_token_s,
        ENGINE.prompt_token_s,
        ENGINE.group_s,
        ENGINE.burst_s,
    )
    generation = []
    for num_groups in (4, 16, 32):
        for longest in (8, 32):
            lengths = tuple(tuple(random.integers(1, longest, size=8).tolist()) for _ in range(num_groups))
            seconds = float(np.dot(generation_counts(lengths, prompt_length=7), prices)) * (1 + noise * random.normal())
            generation.append(GenerationRun(prompt_length=7, lengths=lengths, seconds=seconds))
    learner = []
    for num_samples in (32, 64, 128, 256):
        lengths_1 = random.integers(10, 40, size=num_samples)
        update_s = sum(
            LEARNER.step_s + LEARNER.pass_s(part, num_ranks=1, max_tokens=512) for part in np.array_split(lengths_1, 2)
        )
        load_s = LEARNER.load_s + LEARNER.sample_s * num_samples
        learner.append(
            LearnerRun(
                lengths=tuple(lengths_1.tolist()),
                num_steps=2,
                max_tokens=512,
                load_s=load_s,
                update_s=update_s * (1 + noise * random.normal()),
            )
        )
    publishes = (PublishRun(num_bytes=1000, total_s=0.03, send_s=0.01),) * 3
    return Measurements(generation=tuple(generation), learner=tuple(learner), publishes=publishes, grade_s=1e-3)


def test_fits_reproduce_what_they_were_made_of() -> None:
    costs, errors = fit_costs(measurements(), recomputes_logprobs=False)
    assert errors["generation"] < 1e-3
    assert errors["learner"] < 0.03  # rows are counted from mean minibatches
    assert costs.engine.decoding_s(50, 40, 300) == pytest.approx(ENGINE.decoding_s(50, 40, 300), rel=0.05)
    assert costs.publish.seconds(1000, 1, costs.wire, num_devices=2) == pytest.approx(0.03)
    assert (costs.learner.load_s, costs.learner.sample_s) == pytest.approx((LEARNER.load_s, LEARNER.sample_s))


def test_predictions_from_noisy_measurements_stay_close_where_nothing_was_measured() -> None:
    exact = replace(COSTS, engine=ENGINE, learner=LEARNER, grade_s=1e-3)
    fitted, _ = fit_costs(measurements(noise=0.03), recomputes_logprobs=False)
    fitted = replace(fitted, publish=COSTS.publish, wire=COSTS.wire, iteration_s=COSTS.iteration_s)
    workload = replace(WORKLOAD, prompts_per_iteration=24, completions_per_prompt=4, lengths=(3, 9, 20, 50))
    for max_staleness in (0, 1):
        asked = replace(workload, max_staleness=max_staleness)
        assert predict(asked, fitted).iteration_s == pytest.approx(predict(asked, exact).iteration_s, rel=0.1)


def test_a_scoring_pass_is_priced_where_it_was_measured() -> None:
    measured = measurements()
    with_scoring = tuple(
        replace(
            run,
            load_s=run.load_s
            + 0.4 * sum(LEARNER.pass_s(np.array(part), num_ranks=1, max_tokens=512) for part in halves(run.lengths)),
        )
        for run in measured.learner
    )
    costs, _ = fit_costs(replace(measured, learner=with_scoring), recomputes_logprobs=True)
    assert costs.learner.scoring_share == pytest.approx(0.4, rel=0.2)


def halves(lengths: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [lengths[: len(lengths) // 2], lengths[len(lengths) // 2 :]]


def test_no_coefficient_is_negative_and_unused_counts_cost_nothing() -> None:
    random = np.random.default_rng(1)
    counts = np.column_stack([random.uniform(1, 9, size=(12, 2)), np.zeros(12)])
    seconds = counts @ [2.0, -0.1, 5.0]
    found = fit_seconds(counts, seconds)
    assert (found >= 0).all()
    assert found[1] == found[2] == 0.0
    assert relative_error(counts, counts @ [2.0, 1.0, 0.0], fit_seconds(counts, counts @ [2.0, 1.0, 0.0])) < 1e-9


def whole_run(costs: Costs, **changes: object) -> MeasuredRun:
    workload = replace(WORKLOAD, **changes)  # type: ignore[arg-type]
    return MeasuredRun(workload=workload, iteration_s=predict(workload, costs).iteration_s)


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
    true = replace(COSTS, iteration_s=0.05, completion_s=0.001, grade_s=0.01, rates=(1.0, rate))
    synchronous = [whole_run(true, prompts_per_iteration=size) for size in (2, 8)]
    overlapping = whole_run(true, max_staleness=1)
    found = fit_runs(replace(true, iteration_s=0.0, completion_s=0.0, rates=()), [*synchronous, overlapping])
    assert found.rate(2) == pytest.approx(rate, abs=0.03)
    assert found.rate(1) == 1.0
    assert found.rate(4) == pytest.approx(found.rate(2) / 2)
    other = replace(WORKLOAD, max_staleness=2, prompts_per_iteration=6)
    assert predict(other, found).iteration_s == pytest.approx(predict(other, true).iteration_s, rel=0.02)


def calibration() -> Calibration:
    return Calibration(
        machine="a machine",
        device="cpu",
        shape=SHAPE,
        engine_dtype="float32",
        learner_dtype="float32",
        lora=LoraConfig(),
        costs=replace(COSTS, rates=(1.0, 0.7)),
        prompt_length=7,
        lengths=(3, 9, 20),
        errors={"generation": 0.01},
    )


def test_a_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "cal.json"
    save_calibration(calibration(), path)
    assert load_calibration(path) == calibration()


def test_unusable_files_are_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "cal.json"
    with pytest.raises(CalibrationError, match="no such file; measure this machine with --calibrate"):
        load_calibration(path)
    for text in ("{", "[]", '{"format": 2}'):
        path.write_text(text)
        with pytest.raises(CalibrationError, match=r"not a calibration .* measure again"):
            load_calibration(path)
    path.write_text(json.dumps({"format": 0}))
    with pytest.raises(CalibrationError, match="of another version"):
        load_calibration(path)


def test_a_calibration_of_another_model_is_refused(tmp_path: Path) -> None:
    require_model(calibration(), replace(SHAPE, name="renamed"), tmp_path)
    with pytest.raises(CalibrationError, match="differs from x in vocabulary, layers; measure that model"):
        require_model(calibration(), replace(SHAPE, name="x", layers=9, vocabulary=7), tmp_path)


def test_a_calibration_in_another_dtype_is_refused(tmp_path: Path) -> None:
    require_dtypes(calibration(), engine="float32", learner="float32", path=tmp_path)
    with pytest.raises(CalibrationError, match=r"measured with learner.dtype=float32, asked is bfloat16"):
        require_dtypes(calibration(), engine="float32", learner="bfloat16", path=tmp_path)


def test_a_calibration_with_other_adapters_is_refused(tmp_path: Path) -> None:
    adapted = replace(calibration(), lora=LoraConfig(rank=4, target_modules=("q_proj",)))
    save_calibration(adapted, tmp_path / "cal.json")
    assert load_calibration(tmp_path / "cal.json") == adapted
    require_adapters(adapted, adapted.lora, tmp_path)
    with pytest.raises(CalibrationError, match=r"measured with learner.lora.rank=4, asked are learner.lora.rank=0"):
        require_adapters(adapted, LoraConfig(), tmp_path)


def test_models_and_devices_have_files_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SOFTGATE_CACHE", str(tmp_path))
    assert default_path(SHAPE, "cpu") == tmp_path / "calibrations" / f"tiny-model-{SHAPE.num_parameters}-cpu.json"
