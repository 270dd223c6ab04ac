"""A TrainBatch on its way to another process."""

import pickle
from dataclasses import fields, replace
from typing import Any

import numpy as np
from sampled import several_turns, versions

from learner.contract import TrainBatch, TrainSample
from rollout.contract import SampledTokens


def random_batch() -> TrainBatch:
    random = np.random.default_rng(0)
    samples = tuple(
        TrainSample(
            position=40 + place // 2,
            tokens=replace(several_turns(mask, seed=place, vocabulary=50_000), version_starts=starts),
            advantage=float(random.normal()),
            staleness=place,
            finished=place != 1,
            is_replayed=place == 2,
        )
        for place, (mask, starts) in enumerate(
            [
                ([0, 0, 1, 1, 1], versions((3, 0))),
                ([0, 0, 1], versions((2, 0))),
                ([0, 0, 0, 1, 1, 0, 0, 1, 0, 1, 1, 1], versions((1, 0), (2, 3), (5, 4))),  # three turns
                ([0, 1], versions((3, 0))),
            ]
        )
    )
    return TrainBatch(samples=samples)


def travelled(batch: TrainBatch) -> tuple[TrainBatch, int]:
    """What arrives, and how many arrays the way took."""
    buffers: list[pickle.PickleBuffer] = []
    sent = pickle.dumps(batch, protocol=5, buffer_callback=buffers.append)
    arrived = pickle.loads(sent, buffers=buffers)  # noqa: S301  our own bytes
    return arrived, len(buffers)


def assert_same(batch: TrainBatch, expected: TrainBatch) -> None:
    assert batch.num_groups == expected.num_groups
    for sample, original in zip(batch.samples, expected.samples, strict=True):
        for field in fields(TrainSample):
            if field.name != "tokens":
                assert_equal(getattr(sample, field.name), getattr(original, field.name), name=field.name)
        for field in fields(SampledTokens):
            assert_equal(getattr(sample.tokens, field.name), getattr(original.tokens, field.name), name=field.name)


def assert_equal(found: Any, sent: Any, *, name: str) -> None:
    assert type(found) is type(sent), name
    if isinstance(sent, np.ndarray):
        np.testing.assert_array_equal(found, sent, err_msg=name, strict=True)
    else:
        assert found == sent, name


def test_arrives_as_it_was() -> None:
    batch = random_batch()
    assert_same(travelled(batch)[0], batch)
    single = replace(batch, samples=batch.samples[:1])
    assert_same(travelled(single)[0], single)


def test_takes_as_many_arrays_for_one_sample_as_for_many() -> None:
    batch = random_batch()
    many = replace(batch, samples=batch.samples * 50)
    assert travelled(many)[1] == travelled(replace(batch, samples=batch.samples[:1]))[1] <= 4
    assert_same(travelled(many)[0], many)
