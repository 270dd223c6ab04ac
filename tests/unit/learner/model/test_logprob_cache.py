"""Scores of parts of a batch, then of the batch: what is computed when, and that nothing outlives its weights."""

from dataclasses import replace

import numpy as np
import pytest
from sampled import one_turn, several_turns

from learner.contract import TrainBatch, TrainSample
from learner.model.scoring import LogprobCache


class Learner:
    """A sample's score is the sum of its tokens under the weights of the day, for each completion token."""

    def __init__(self) -> None:
        self.weight = 1.0
        self.calls: list[list[int]] = []  # first tokens of the samples of each call

    def __call__(self, batch: TrainBatch) -> tuple[np.ndarray, ...]:
        self.calls.append([int(sample.tokens.token_ids[0]) for sample in batch.samples])
        return tuple(self.scores_of(sample) for sample in batch.samples)

    def scores_of(self, sample: TrainSample) -> np.ndarray:
        return np.full(sample.tokens.num_sampled, self.weight * sample.tokens.token_ids.sum(), dtype=np.float32)


def batch_of(*names: int, prompt_length: int = 2, advantage: float = 0.0) -> TrainBatch:
    """Samples of different lengths, told apart by their first token."""
    samples = tuple(
        TrainSample(
            position=place,
            tokens=one_turn([name, 1, *range(prompt_length - 2)], range(prompt_length - 2, name + 2)),
            advantage=advantage,
            staleness=0,
            finished=True,
        )
        for place, name in enumerate(names)
    )
    return TrainBatch(samples=samples)


def taken(scores: LogprobCache, batch: TrainBatch) -> list[list[float]]:
    return [array.tolist() for array in scores.take(batch)]


def test_only_what_is_missing_is_computed_when_the_batch_is_there() -> None:
    learner = Learner()
    scores = LogprobCache(learner)
    scores.add(batch_of(4, 7))
    scores.add(batch_of(9, 2))  # 9 is replaced later
    batch = batch_of(1, 2, 3, 4, 7, advantage=0.5)
    assert taken(scores, batch) == [learner.scores_of(sample).tolist() for sample in batch.samples]
    assert learner.calls == [[4, 7], [9, 2], [1, 3]]
    assert scores.share == pytest.approx(3 / 5)


def test_a_batch_that_is_known_needs_no_call_and_the_next_one_is_scored_anew() -> None:
    learner = Learner()
    scores = LogprobCache(learner)
    batch = batch_of(1, 2)
    scores.add(batch)
    scores.take(batch)
    assert (learner.calls, scores.share) == ([[1, 2]], 1.0)
    learner.weight = 2.0
    assert taken(scores, batch) == [learner.scores_of(sample).tolist() for sample in batch.samples]
    assert (learner.calls, scores.share) == ([[1, 2], [1, 2]], 0.0)


def test_equal_tokens_after_a_longer_prompt_are_another_sequence() -> None:
    learner = Learner()
    scores = LogprobCache(learner)
    scores.add(batch_of(3, prompt_length=2))
    (found,) = scores.take(batch_of(3, prompt_length=3))
    assert len(found) == 4
    assert len(learner.calls) == 2


def test_equal_tokens_of_other_turns_are_another_sequence() -> None:
    """Equal ids, equally many sampled, equally long prompts: the mask alone tells them apart."""
    learner = Learner()
    scores = LogprobCache(learner)
    first, other = ([0, 0, 1, 1, 0, 0, 1], [0, 0, 1, 0, 0, 1, 1])
    (sample,) = batch_of(3).samples
    batches = [TrainBatch(samples=(replace(sample, tokens=several_turns(mask)),)) for mask in (first, other)]
    assert batches[0].samples[0].tokens.token_ids.tolist() == batches[1].samples[0].tokens.token_ids.tolist()
    scores.add(batches[0])
    scores.take(batches[1])
    assert (len(learner.calls), scores.share) == (2, 0.0)
    scores.add(batches[1])
    scores.take(batches[1])
    assert (len(learner.calls), scores.share) == (3, 1.0)
