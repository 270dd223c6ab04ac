"""Log-probabilities of a batch, some of them computed before the batch was complete.

In: parts of the batch to come, then the batch. Out: one [C] array a sample of the batch, in its order; what no part had
is computed then. Knows nothing of models and ranks: where `score` is collective, all ranks are given the same parts.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from learner.contract import TrainBatch, TrainSample


class LogprobCache:
    """`score` gives one [C] float32 array a sample. Its weights must not move between the first add() and take()."""

    def __init__(self, score: Callable[[TrainBatch], tuple[np.ndarray, ...]]) -> None:
        self._score = score
        self._known: dict[tuple[bytes, bytes], np.ndarray] = {}  # by _key
        self.share = 0.0  # of the completions of the batch taken last, that were known before

    def add(self, part: TrainBatch) -> None:
        """Compute the logprobs of these samples now. Those that turn out not to be in the batch go unused."""
        for sample, logprobs in zip(part.samples, self._score(part), strict=True):
            self._known[_key(sample)] = logprobs

    def take(self, batch: TrainBatch) -> tuple[np.ndarray, ...]:
        """Logprobs of every sample of the batch; forgets what was added afterwards, for the weights move next."""
        known = [self._known.get(_key(sample)) for sample in batch.samples]
        missing = tuple(sample for sample, logprobs in zip(batch.samples, known, strict=True) if logprobs is None)
        computed = iter(self._score(replace(batch, samples=missing)) if missing else ())
        self.share = (len(known) - len(missing)) / len(known)
        self._known.clear()
        return tuple(next(computed) if logprobs is None else logprobs for logprobs in known)


def _key(sample: TrainSample) -> tuple[bytes, bytes]:
    """Which tokens were sampled, and all token ids: under fixed weights they determine the logprobs."""
    return sample.tokens.completion_mask.tobytes(), sample.tokens.token_ids.tobytes()
