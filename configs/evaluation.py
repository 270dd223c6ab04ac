"""The section `eval`: when a model is evaluated, on how many problems, and how its completions are sampled.

In: a plain nested dict. Out: a frozen section, or a ValueError that names field, value, rule and remedy. A run and the
command `python -m orchestration.evaluate` share the section. docs/evaluation.md explains what is measured.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator

from configs.section import Section

MIN_TEMPERATURE = 0.01  # smallest temperature that vLLM accepts; it raises smaller ones to this without a message


def _whole_number_or(word: str, *, key: str) -> PlainValidator:
    """A validator that accepts whole numbers from 1, or the word.

    It gives one line for a wrong value, where pydantic would give one for each half of the union.
    """

    def check(value: Any) -> Any:
        if value == word or (type(value) is int and value >= 1):
            return value
        raise ValueError(f"{key}={value}: must be {word} or a whole number from 1")

    return PlainValidator(check)


class EvalConfig(Section):
    """Evaluation on the task's evaluation sets; every=0 evaluates at start and end only."""

    every: int = Field(default=0, ge=0)  # iterations between two evaluations
    # number of problems of each set, from the first; a set that has fewer is used whole
    num_prompts: Annotated[int | Literal["all"], _whole_number_or("all", key="eval.num_prompts")] = 400
    samples: int = Field(default=1, ge=1)  # completions a problem; the k of pass@k
    temperature: float = Field(default=0.0, ge=0.0, le=2.0)  # sampling temperature; 0: greedy
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)  # nucleus sampling, not for training: it would bias the ratio
    # longest completion, in tokens; auto: rollout.max_new_tokens
    max_new_tokens: Annotated[int | Literal["auto"], _whole_number_or("auto", key="eval.max_new_tokens")] = "auto"
    seed: int = Field(default=0, ge=0, lt=2**31)  # seed of sampling, from which the seed of every sample derives

    def mistakes(self) -> Iterator[str]:
        if self.temperature == 0.0 and self.samples > 1:
            yield (
                f"eval.samples={self.samples}: with eval.temperature=0 all samples of a problem are the same; "
                f"set eval.temperature=0.7 or eval.samples=1"
            )
        if self.temperature == 0.0 and self.top_p < 1.0:
            remedy = "leave it at 1 or set a temperature"
            yield f"eval.top_p={self.top_p:g}: has no effect with eval.temperature=0; {remedy}"
        if 0.0 < self.temperature < MIN_TEMPERATURE:
            yield f"eval.temperature={self.temperature:g}: must be 0 (greedy) or at least {MIN_TEMPERATURE:g}"

    def limit_new_tokens(self, rollout_max_new_tokens: int) -> int:
        """Number of tokens of the longest completion, with `auto` resolved."""
        return rollout_max_new_tokens if isinstance(self.max_new_tokens, str) else self.max_new_tokens
