"""Prompts and sampling of an evaluation.

In: the problems of a set and the section `eval`. Out: prompts at the positions of their problems, and the sampling of
the set. Pure and without heavy imports, so that it can run before anything starts.
"""

import hashlib
from collections.abc import Sequence

from configs.evaluation import EvalConfig
from configs.schema import RolloutConfig
from rollout.contract import Prompt, SamplingSpec
from rollout.prompts import Encode, Render, make_prompt
from rollout.tasks import Problem


def eval_prompts(problems: Sequence[Problem], config: EvalConfig, encode: Encode, render: Render) -> tuple[Prompt, ...]:
    """The prompts of a set's problems, as many as the configuration asks for; positions are those of the problems."""
    chosen = chosen_problems(problems, config)
    return tuple(
        make_prompt(problem, encode, position=position, render=render) for position, problem in enumerate(chosen)
    )


def chosen_problems(problems: Sequence[Problem], config: EvalConfig) -> Sequence[Problem]:
    """The first eval.num_prompts problems of a set."""
    return problems if isinstance(config.num_prompts, str) else problems[: config.num_prompts]


def eval_sampling(config: EvalConfig, rollout: RolloutConfig, *, name: str) -> SamplingSpec:
    """Sampling of a set; each sample's seed derives from (eval.seed, set, problem, sample)."""
    mixed = hashlib.blake2b(f"{config.seed}/{name}".encode(), digest_size=8).digest()
    return SamplingSpec(
        num_completions=config.samples,
        max_new_tokens=config.limit_new_tokens(rollout.max_new_tokens),
        temperature=config.temperature,
        top_p=config.top_p,
        seed=int.from_bytes(mixed, "big"),
    )
