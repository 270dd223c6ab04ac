"""Benchmark of grading: plain integers and MATH-like answers on one core, and groups by the graders of a run.

In: number of repeats. Out: rates by name, in answers a second. There is no peer: these are absolute figures, and the
ratio of two grader processes to one.
"""

import gc
import timeit
from collections.abc import Callable
from statistics import median

import numpy as np
import ray

from configs.graders import GradersConfig
from configs.rewards import RewardConfig
from rollout.contract import Completion, Prompt, PromptGroup, SampledTokens, VersionStart
from rollout.rewards.graders import GraderPool, await_verdicts
from rollout.rewards.grading import is_equivalent, prepare

NUM_INTEGERS = 1_000_000
GROUP_SIZE = 8
NUM_GROUPS = 250
# Pairs (candidate, reference) with spellings of MATH's answers, half of them right.
MATH_PAIRS = (
    (r"\dfrac{3}{4}", r"\frac{3}{4}"),
    ("0.75", r"\frac{3}{4}"),
    (r"3\sqrt{13}", r"\sqrt{117}"),
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\pi/2)"),
    ("(a+5)(b+2)", "ab+2a+5b+10"),
    (r"11\sqrt2", r"11\sqrt{3}"),
    (r"x \in [-2,7)", "[-2,7]"),
    ("p - q", "p+q"),
    (r"\begin{pmatrix} 1/5 \\ 2 \end{pmatrix}", r"\begin{pmatrix}0.2\\3\end{pmatrix}"),
    (r"\text{Evelyn}", r"\text{Navin}"),
)


def benchmark_grading(*, repeats: int) -> dict[str, float]:
    """Measures all rates; medians over the repeats, answers/s."""
    integers = [(str(number), str(number + number % 2)) for number in range(NUM_INTEGERS)]  # every other one is wrong
    answers = MATH_PAIRS * 20

    def compare_integers() -> None:
        right = sum(is_equivalent(candidate, reference) for candidate, reference in integers)
        assert right == len(integers) // 2, f"{right} of {len(integers)} integers count as right"

    def compare_answers() -> None:
        for candidate, reference in answers:
            is_equivalent(candidate, reference)

    prepare("x^2")
    compare_answers()  # the algebra system builds its tables at its first use
    return {
        "plain integers, one core": _rate(compare_integers, NUM_INTEGERS, repeats=repeats),
        "answers of MATH's kind, one core": _rate(compare_answers, len(answers), repeats=repeats),
        **_by_processes(repeats=repeats),
    }


def _by_processes(*, repeats: int) -> dict[str, float]:
    """Completions/s of GraderPool with one and with two processes."""
    rates = {}
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        texts = [f"<think>a</think><answer>{candidate}</answer>" for candidate, _ in MATH_PAIRS[:GROUP_SIZE]]
        groups = [ray.put(ungraded_group(*texts, reference=reference)) for _, reference in MATH_PAIRS]
        for num_workers in (1, 2):
            pool = GraderPool(GradersConfig(num_workers=num_workers, timeout_s=60.0), reward=RewardConfig())
            await_verdicts([pool.grade(group) for group in groups * num_workers])

            def grade_all(pool: GraderPool = pool) -> None:
                graded = [pool.grade(groups[index % len(groups)]) for index in range(NUM_GROUPS)]
                await_verdicts(graded)

            name = f"completions, {num_workers} grader process{'es' if num_workers > 1 else ''}"
            rates[name] = _rate(grade_all, NUM_GROUPS * GROUP_SIZE, repeats=repeats)
            pool.close()
    finally:
        ray.shutdown()
    return rates


def ungraded_group(*texts: str, reference: str) -> PromptGroup:
    """A group of completions with these texts and meaningless tokens, as graders get it; tests use it too."""
    token_ids = np.array([1], dtype=np.int32)
    tokens = SampledTokens.one_turn(
        token_ids,
        token_ids,
        rollout_logprobs=np.zeros(1, dtype=np.float32),
        version_starts=(VersionStart(version=0, start=0),),
    )
    prompt = Prompt(position=0, token_ids=token_ids, text="?", reference_answer=reference, source="")
    completions = tuple(Completion(tokens=tokens, text=text, finished=True) for text in texts)
    return PromptGroup(prompt=prompt, completions=completions, engine_index=0, generate_s=0.0)


def _rate(work: Callable[[], None], count: int, *, repeats: int) -> float:
    return count / median(timeit.repeat(work, gc.enable, repeat=repeats, number=1))
