"""The parts of a run that trains on recorded groups.

In: the configuration, a cluster and a model folder. Out: a started learner and the recorded groups; publishing and
evaluation, which need engines, do nothing. stream/recordings.py has refused a recording that does not fit the run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from configs.schema import RunConfig
from learner.group import LearnerGroup
from orchestration.cluster import Cluster
from orchestration.interfaces import ActorStatus
from orchestration.journal.eval_rows import Evaluation
from orchestration.parts import learner_spec, learner_status, start_learner
from orchestration.recovery.faults import Faults
from orchestration.stream.recorded_groups import ReplayStream
from orchestration.stream.recordings import refuse_other_vocabulary
from orchestration.task_loading import model_tokenizer
from rollout.recording import vocabulary_digest
from transfer.spans import Span


class NoReceivers:
    """The Publisher of a replay, and its publish without metrics: no engine receives weights."""

    def publish(self, version: int) -> "NoReceivers":
        return self

    def metrics(self) -> dict[str, float]:
        return {}


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayParts:
    """The parts of a replay; only the learner runs."""

    learner: LearnerGroup
    groups: ReplayStream
    channel: NoReceivers
    faults: Faults

    def evaluate(self) -> Evaluation:
        """An empty evaluation: a replay has no engines."""
        return Evaluation(metrics={}, samples={})

    def status(self) -> ActorStatus:
        return learner_status(self.learner, self.faults)

    def last_spans(self) -> tuple[Span, ...]:
        """No spans: a replay does nothing after the last iteration."""
        return ()


@contextmanager
def build_replay_parts(
    config: RunConfig, cluster: Cluster, model_path: Path | str, faults: Faults
) -> Iterator[ReplayParts]:
    """Starts the learner after a check that the recording's token ids are the model's; ends it on the way out."""
    assert config.rollout.replay is not None, "a replay needs a recording"
    folder = Path(config.rollout.replay)
    tokenizer = model_tokenizer(config.model, model_path)
    refuse_other_vocabulary(folder, vocabulary=vocabulary_digest(tokenizer.get_vocab()))
    groups = ReplayStream(
        folder,
        prompts_per_iteration=config.rollout.prompts_per_iteration,
        completions_per_prompt=config.rollout.completions_per_prompt,
    )
    spec = learner_spec(config, cluster, model_path)
    learner = start_learner(config, spec, cluster)
    try:
        yield ReplayParts(learner=learner, groups=groups, channel=NoReceivers(), faults=faults)
    finally:
        learner.shutdown()
