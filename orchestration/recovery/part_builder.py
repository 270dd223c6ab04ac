"""The parts of a run, attempt by attempt: what lives for the whole run is started once, the rest for each attempt.

In: the configuration, a cluster, a model folder, a task; or none, for a replay. Out: a function from the state in which
an attempt begins to its parts. Knows neither checkpoints nor what a fault is.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from configs.schema import RunConfig
from orchestration.checkpoints.state import RunState
from orchestration.cluster import Cluster
from orchestration.interfaces import RunParts
from orchestration.parts import join_learner, learner_spec
from orchestration.recovery.faults import Faults
from orchestration.replay import build_replay_parts
from orchestration.rollout_parts import open_rollout_side
from rollout.tasks import Task

BuildParts = Callable[[RunState], AbstractContextManager[RunParts]]


@contextmanager
def part_builder(
    config: RunConfig, cluster: Cluster, model_path: Path | str, task: Task | None, faults: Faults
) -> Iterator[BuildParts]:
    """task: None for a replay. On the way out every process ends."""
    if task is None:
        yield lambda state: build_replay_parts(config, cluster, model_path, faults)
        return
    spec = learner_spec(config, cluster, model_path)  # before any actor starts: refuses what does not fit this device
    with open_rollout_side(config, cluster, model_path, faults) as rollout:
        yield lambda state: join_learner(
            config,
            cluster,
            spec,
            rollout,
            task=task,
            start_iteration=state.iteration,
            start_positions=state.positions,
        )
