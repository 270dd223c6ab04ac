"""The Ray actor that grades: one child process, the verdicts on whole groups, and a record of its time.

In: PromptGroups. Out: GroupVerdicts. Imports no Ray; graders.py starts it.
"""

from configs.graders import GradersConfig
from configs.rewards import RewardConfig
from rollout.contract import GroupVerdicts, PromptGroup
from rollout.rewards.child import GraderChild, GradingError
from rollout.rewards.functions import zero_verdict
from transfer.spans import Span, SpanLog

SPAN_GAP_S = 0.005  # a grader with a queue pauses for less between two groups


class GraderWorker:
    """The actor around one child."""

    def __init__(self, index: int, config: GradersConfig, *, reward: RewardConfig, reward_factory: str) -> None:
        self._spans = SpanLog("grader", index, merge_gap_s=SPAN_GAP_S)
        self._without_reward = zero_verdict(reward)
        self._child = GraderChild(config, reward=reward, reward_factory=reward_factory)

    def grade(self, group: PromptGroup) -> GroupVerdicts:
        """Verdicts on the group's completions; those that met no verdict in time get zeros and are counted.

        GradingError, naming the prompt, where one of the user's own rewards fails and reward.on_error is raise.
        """
        texts = [completion.text for completion in group.completions]
        with self._spans.span("grade"):
            try:
                verdicts = self._child.grade(texts, reference_answer=group.prompt.reference_answer)
            except GradingError as error:
                raise GradingError(f"prompt {group.prompt.position}: {error}") from error
        graded = tuple(self._without_reward if verdict is None else verdict for verdict in verdicts)
        return GroupVerdicts(verdicts=graded, timed_out=verdicts.count(None))

    def progress(self) -> int:
        """A number that grows while the grader gets on; another thread answers than the one that grades."""
        return self._child.progress

    def drain_spans(self) -> tuple[Span, ...]:
        return self._spans.drain()
