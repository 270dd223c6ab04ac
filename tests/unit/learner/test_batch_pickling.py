"""A TrainBatch on its way to another process."""

import pickle
from dataclasses import fields, replace

import numpy as np

from learner.contract import TrainBatch, TrainSample


def random_batch() -> TrainBatch:
    random = np.random.default_rng(0)
    samples = tuple(
        TrainSample(
            group_index=place // 2,
            token_ids=random.integers(50_000, size=prompt_length + length).astype(np.int32),
            prompt_length=prompt_length,
            rollout_logprobs=random.normal(size=length).astype(np.float32),
            advantage=float(random.normal()),
            staleness=place,
            finished=place != 1,
            is_replayed=place == 2,
        )
        for place, (prompt_length, length) in enumerate([(2, 3), (2, 1), (7, 5), (1, 1)])
    )
    return TrainBatch(samples=samples, num_groups=2)


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
            found, sent = getattr(sample, field.name), getattr(original, field.name)
            assert type(found) is type(sent), field.name
            np.testing.assert_array_equal(found, sent, err_msg=field.name, strict=isinstance(sent, np.ndarray))


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
