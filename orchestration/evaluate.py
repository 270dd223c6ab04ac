"""Greedy evaluation on held-out prompts, on the rollout engines.

Prompts and the fleet in, accuracy, format rate and length out. It leaves the engines as it found them.
"""

from collections.abc import Sequence

import numpy as np

from rollout.contract import Prompt, SamplingSpec
from rollout.fleet import FinishedGroup, RolloutFleet
from rollout.graders import GraderPool, await_verdicts


def evaluate(
    fleet: RolloutFleet,
    graders: GraderPool,
    prompts: Sequence[Prompt],
    *,
    name: str,
    max_new_tokens: int,
    timeout_s: float,
) -> dict[str, float]:
    """One greedy completion a prompt; shares and tokens under the names eval/<name>/....

    Training groups that are in flight meanwhile go on and stay with the caller's fleet.
    """
    fleet = fleet.sibling()
    greedy = SamplingSpec(num_completions=1, max_new_tokens=max_new_tokens, temperature=0.0, seed=0)
    for prompt in prompts:
        fleet.submit(prompt, greedy)
    finished: list[FinishedGroup] = []
    while fleet.num_in_flight:
        finished.extend(fleet.await_finished())
    answers = await_verdicts([graders.grade(group.group_ref) for group in finished], timeout_s=timeout_s)
    verdicts = [verdict for answer in answers for verdict in answer.verdicts]
    return {
        f"eval/{name}/pass@1": float(np.mean([verdict.answer for verdict in verdicts])),
        f"eval/{name}/format": float(np.mean([verdict.format for verdict in verdicts])),
        f"eval/{name}/length": float(np.mean([group.summary.num_tokens for group in finished])),
    }
