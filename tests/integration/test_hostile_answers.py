"""A thousand hostile answers through the real graders: in time, none right, no process left behind."""

import random
import time
from collections.abc import Callable, Iterator

import pytest
from machine import slowdown
from support import command_lines, wait_until

from benchmarks.grading import ungraded_group as group
from configs.graders import GradersConfig
from configs.rewards import RewardConfig
from rollout.rewards.graders import GraderPool, await_verdicts

pytestmark = pytest.mark.integration

NUM_ANSWERS = 1000
GROUP_SIZE = 8
LIMIT_S = 60.0  # on 2 idle cores; the graders' start is not counted
REFERENCES = (
    "42",
    r"\frac{1}{2}",
    "x^2+1",
    r"\{1,2,3\}",
    "(1,2)",
    "[0,1)",
    r"\begin{pmatrix}1\\2\end{pmatrix}",
    r"\sqrt{2}",
)

Maker = Callable[[random.Random], str]
MAKERS: dict[str, Maker] = {
    "tower of powers": lambda r: "9^{9^{9^{" + str(r.randint(2, 9)) * r.randint(1, 9) + "}}}",
    "power of 10^9 digits": lambda r: f"{r.randint(2, 9)}^{{{r.randint(10**9, 10**10)}}}",
    "python power": lambda r: f"{r.randint(2, 9)}**{r.randint(10**8, 10**9)}**9",
    "factorials": lambda r: f"{r.randint(10**6, 10**9)}" + "!" * r.randint(1, 30),
    "deep brackets": lambda r: "(" * r.randint(10, 900) + "x" + ")" * r.randint(10, 900),
    "deep fractions": lambda r: r"\frac{1}{1+" * (n := r.randint(5, 60)) + "x" + "}" * n,
    "deep roots": lambda r: r"\sqrt{" * (n := r.randint(5, 100)) + "2" + "}" * n,
    "a megabyte of braces": lambda r: "{" * r.randint(10**6, 10**6 + 9),
    "a megabyte of digits": lambda r: str(r.randint(1, 9)) * 10**6,
    "long integer": lambda r: str(r.randint(1, 9)) * 990,
    "file inclusion": lambda r: r"\input{/etc/passwd}" + r"\write18{touch x}" * r.randint(1, 9),
    "shell": lambda r: f"$(sleep {r.randint(1, 99)}); `rm -rf .`; kill -9 0",
    "python": lambda r: f"__import__('os')._exit({r.randint(0, 9)})",
    "lambda": lambda r: "(lambda f: f(f))(lambda f: f(f))" * r.randint(1, 9),
    "nul bytes": lambda r: "4\0002" * r.randint(1, 200),
    "unicode": lambda r: "".join(chr(r.randint(0xE000, 0x10FFFF)) for _ in range(200)),
    "lone surrogates": lambda r: "\ud800" * r.randint(1, 99),
    "right to left": lambda r: "\u202e" + "24" * r.randint(2, 99) + "\u202c",
    "digits of other scripts": lambda r: "٤٢" * r.randint(2, 99),
    "bait for backtracking": lambda r: "a" * r.randint(100, 900) + "!" + " " * r.randint(10, 90) + "b",
    "commas": lambda r: ",".join("1" * r.randint(1, 3) for _ in range(r.randint(50, 240))),
    "bars": lambda r: "|" * r.randint(3, 200) + "x" + "|" * r.randint(3, 200),
    "huge matrix": lambda r: r"\begin{pmatrix}" + r"1&2\\" * r.randint(50, 180) + r"\end{pmatrix}",
    "huge sum": lambda r: "+".join(f"x^{{{i}}}" for i in range(r.randint(20, 110))),
    "product to expand": lambda r: "(a+b+c+d+e)^{99}" * r.randint(1, 9),
    "nested sines": lambda r: r"\sin(" * (n := r.randint(3, 90)) + "x" + ")" * n,
    "integral": lambda r: rf"\int_0^{{\infty}} e^{{-x^{r.randint(2, 9)}}} \sin(x^x) dx",
    "sum without end": lambda r: rf"\sum_{{n=1}}^{{10^{{{r.randint(9, 99)}}}}} \frac{{1}}{{n^n}}",
    "plus or minus": lambda r: r"\pm 1" * r.randint(20, 200),
    "unbalanced": lambda r: "".join(r.choice(r"(){}[]\$^_&%#~|") for _ in range(r.randint(10, 900))),
    "division by zero": lambda r: r"\frac{" + str(r.randint(1, 99)) + "}{0}" + "^{0}" * r.randint(0, 3),
    "boxes": lambda r: r"\boxed{" * (n := r.randint(3, 100)) + "7" + "}" * n,
}  # fmt: skip


def completion(answer: str) -> str:
    return f"<think>a</think><answer>{answer}</answer>"


@pytest.fixture
def pool(shared_ray: None) -> Iterator[GraderPool]:
    graders = GraderPool(GradersConfig(num_workers=2), reward=RewardConfig())
    yield graders
    graders.close()
    assert wait_until(lambda: not grader_processes()), grader_processes()


def grader_processes() -> list[str]:
    return [line for line in command_lines().values() if "ray::GraderWorker" in line or "grader_child" in line]


def test_thousand_hostile_answers_are_graded_in_time_and_none_is_right(pool: GraderPool) -> None:
    choose = random.Random(0)
    makers = list(MAKERS.values())
    answers = [makers[index % len(makers)](choose) for index in range(NUM_ANSWERS)]
    warm_up = [pool.grade(group(completion("x+1"), reference=reference)) for reference in REFERENCES]
    await_verdicts(warm_up)
    assert grader_processes()

    start = time.monotonic()
    references = []
    for number, first in enumerate(range(0, NUM_ANSWERS, GROUP_SIZE)):
        texts = [completion(answer) for answer in answers[first : first + GROUP_SIZE]]
        references.append(pool.grade(group(*texts, reference=REFERENCES[number % len(REFERENCES)])))
    graded = await_verdicts(references)
    taken_s = time.monotonic() - start
    assert taken_s < LIMIT_S * slowdown()

    verdicts = [verdict for answer in graded for verdict in answer.verdicts]
    right = [answer for answer, verdict in zip(answers, verdicts, strict=True) if verdict.value("answer") != 0.0]
    print(f"{NUM_ANSWERS} hostile answers in {taken_s:.1f} s, {sum(one.timed_out for one in graded)} without a verdict")
    assert len(verdicts) == NUM_ANSWERS
    assert right == []
    (of_right,) = await_verdicts([pool.grade(group(completion("42"), reference="42"))])
    assert of_right.verdicts[0].value("answer") == 1.0
