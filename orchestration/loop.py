"""The algorithm: one iteration is generate, grade, learn, publish.

In: the parts of a run and its RunState. Out: a trained learner, published weights and the files of the run. The loop
calls the parts through interfaces.py: session.py prepares the run, parts.py or replay.py builds the parts,
stream/group_stream.py turns prompts into graded batches, journal/journal.py measures and writes.
"""

from collections.abc import Mapping

from configs.schema import RunConfig
from orchestration.boundary import Boundary
from orchestration.checkpoints.saver import CheckpointSaver
from orchestration.checkpoints.state import RunState
from orchestration.interfaces import RunParts
from orchestration.journal.journal import Journal
from orchestration.stream.batches import to_train_batch


def iterate(config: RunConfig, parts: RunParts, journal: Journal, saver: CheckpointSaver, boundary: Boundary) -> None:
    """Runs the remaining iterations, from the boundary's state to the last."""
    state = boundary.state
    assert state is not None, "the learner must have the weights of a state"
    with journal.span("publish"):
        parts.channel.publish(state.policy_version)  # a broken path fails here, not after the first update
    if (state.iteration == 0 or is_evaluated(config, state.iteration)) and not journal.has_evaluation(state.iteration):
        evaluate(parts, journal, state.iteration)

    for iteration in range(state.iteration, config.num_iterations):
        with journal.iteration(iteration) as entry:
            parts.groups.admit(state.policy_version)  # staleness bound: how far generation may run ahead
            with entry.timed("wait"):
                groups = parts.groups.take(iteration)
            entry.rollouts(groups, policy_version=state.policy_version)
            with entry.timed("old_logprobs"):
                batch = to_train_batch(
                    groups,
                    policy_version=state.policy_version,
                    objective=config.objective,
                    max_new_tokens=config.rollout.max_new_tokens,
                )
                parts.learner.load(batch, iteration)
            boundary.leave()
            with entry.timed("update"):
                for report in parts.learner.steps():
                    entry.record_step(report)
            state = state.advance(parts.groups.positions())
            with entry.span("publish"):
                published = parts.channel.publish(state.policy_version)
            status = parts.status()
            entry.record(parts.groups.summary() | published.metrics() | status.metrics)
            entry.record_spans(status.spans)

        boundary.reach(state)

        evaluated = evaluate(parts, journal, state.iteration) if is_evaluated(config, state.iteration) else {}
        is_last = state.iteration == config.num_iterations
        saver.poll()
        if is_last or state.iteration % config.checkpoint.every == 0:
            with boundary.saving():
                save(journal, saver, state, evaluation=evaluated, waits=is_last)
    journal.record_spans(parts.last_spans())


def evaluate(parts: RunParts, journal: Journal, iteration: int) -> Mapping[str, float]:
    """Evaluates the weights published last, `iteration` iterations after the start; returns the metrics."""
    with journal.span("evaluate"):
        evaluation = parts.evaluate()
    journal.record_eval(iteration, evaluation)
    return evaluation.metrics


def is_evaluated(config: RunConfig, iteration: int) -> bool:
    """Whether the weights after `iteration` iterations are evaluated."""
    every = config.eval.every
    return iteration == config.num_iterations or (every > 0 and iteration % every == 0)


def save(
    journal: Journal, saver: CheckpointSaver, state: RunState, *, evaluation: Mapping[str, float], waits: bool
) -> None:
    """Saves the state with the learner's weights: copied now, written while the next iterations run unless it waits."""
    with journal.span("checkpoint"):
        saver.start(state, evaluation=evaluation)
        if waits:
            saver.finish()
