"""Metrics of an evaluation against counts by hand."""

from dataclasses import replace

import numpy as np
import pytest

from configs.checkpoint import rising_metrics
from orchestration.evaluate.summary import correct_counts, summarize
from orchestration.journal.eval_rows import EvalSample
from orchestration.statistics.bootstrap import bootstrap_interval

SAMPLE = EvalSample(
    set="sums",
    problem=0,
    sample=0,
    prompt="1+1=",
    reference="2",
    completion="<answer>2</answer>",
    length=10,
    finished=True,
    format=1.0,
    answer=1.0,
)


def samples_of(verdicts: dict[int, list[float]]) -> list[EvalSample]:
    """Samples with these answer verdicts, problem by problem."""
    return [
        replace(SAMPLE, problem=problem, sample=index, answer=answer)
        for problem, answers in verdicts.items()
        for index, answer in enumerate(answers)
    ]


def test_one_sample_a_problem_has_no_pass_at_k() -> None:
    metrics = summarize(samples_of({0: [1.0], 1: [0.0], 2: [1.0], 3: [1.0]}), name="sums")
    assert list(metrics) == [
        f"eval/sums/{name}" for name in ("pass@1", "pass@1_low", "pass@1_high", "format", "length", "truncated_share")
    ]
    assert metrics["eval/sums/pass@1"] == 0.75
    assert set(rising_metrics("sums", samples=1)) < metrics.keys(), "a checkpoint can be kept by these"
    assert metrics["eval/sums/pass@1_low"] < 0.75 < metrics["eval/sums/pass@1_high"]


def test_several_samples_average_and_count_the_problems_solved_at_least_once() -> None:
    metrics = summarize(
        samples_of({0: [1.0, 0.0, 0.0, 1.0], 1: [0.0, 0.0, 0.0, 0.0], 2: [0.0, 1.0, 0.0, 0.0]}), name="s"
    )
    assert metrics["eval/s/pass@1"] == pytest.approx((2 + 0 + 1) / 12)
    assert metrics["eval/s/pass@4"] == pytest.approx(2 / 3)


def test_a_verdict_below_1_is_not_right() -> None:
    assert summarize(samples_of({0: [0.5], 1: [1.0]}), name="s")["eval/s/pass@1"] == 0.5


def test_the_interval_is_over_problems_not_over_samples() -> None:
    shares = np.array([1.0, 0.0] * 10)
    alike = summarize(samples_of({problem: [share] * 8 for problem, share in enumerate(shares)}), name="s")
    expected = bootstrap_interval(shares, seed=0)
    assert (alike["eval/s/pass@1_low"], alike["eval/s/pass@1_high"]) == (expected.low, expected.high)


def test_format_length_and_share_cut_off_are_means_over_samples() -> None:
    samples = [
        replace(SAMPLE, sample=0, format=0.25, length=8, finished=False),
        replace(SAMPLE, sample=1, format=1.0, length=11),
        replace(SAMPLE, problem=1, sample=0, format=0.25, length=3),
        replace(SAMPLE, problem=1, sample=1, format=0.0, length=2),
    ]
    metrics = summarize(samples, name="s")
    assert metrics["eval/s/format"] == 0.375
    assert metrics["eval/s/length"] == 6.0
    assert metrics["eval/s/truncated_share"] == 0.25


def test_rows_may_come_in_any_order_but_not_in_unequal_numbers() -> None:
    samples = samples_of({7: [1.0, 0.0], 3: [0.0, 0.0], 5: [1.0, 1.0]})
    correct, num_samples = correct_counts(samples[::-1])
    assert correct.tolist() == [0, 2, 1]
    assert num_samples == 2
    with pytest.raises(AssertionError, match="between 1 and 2 samples"):
        correct_counts(samples[:-1])
