"""Log-probabilities of sampled tokens under the current weights, on one rank.

In: the engine that holds the policy, and packed rows or whole sequences. Out: log-probabilities, with gradient for a
micro-batch, as numpy for a sequence or a batch, some of which may be computed before the batch is complete. Knows
nothing of objectives, optimizers or which engine it is given.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from learner.batches.packing import pack_all
from learner.batches.rows import RowCost
from learner.contract import MicroBatch, TrainBatch, TrainSample
from learner.spec import LearnerSpec


def to_tensor(array: np.ndarray, device: torch.device) -> Tensor:
    """The array on the device, same shape and dtype."""
    return torch.from_numpy(array).to(device, non_blocking=True)


class Scorer:
    """This rank's forward passes. Under ZeRO-3 each is collective: all ranks make the same calls in the same order."""

    def __init__(
        self,
        engine: nn.Module,
        spec: LearnerSpec,
        *,
        row_cost: RowCost,
        rank: int,
        world_size: int,
        device: torch.device,
        context: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """engine is called as the Policy that it wraps; row_cost balances what the ranks compute.

        context: entered for every pass without gradient.
        """
        self._engine = engine
        self._row_cost = row_cost
        self._rank = rank
        self._world_size = world_size
        self._device = device
        self._context = context
        self._temperature = spec.temperature
        self._max_tokens = spec.learner.max_tokens_per_micro_batch
        self._entropy_gradient = spec.objective.entropy_coef > 0.0

    def forward(self, micro_batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Logprobs and entropies [K] of a micro-batch.

        Entropies carry a gradient where the objective has an entropy bonus.
        """
        return self._engine(
            self._tensor(micro_batch.token_ids)[None],
            self._tensor(micro_batch.position_ids)[None],
            self._tensor(micro_batch.positions),
            self._tensor(micro_batch.targets),
            self._temperature,
            self._entropy_gradient,
        )

    def batch_logprobs(self, batch: TrainBatch) -> tuple[np.ndarray, ...]:
        """Logprobs of every sampled token, one [C] float32 array a sample; each rank computes its share."""
        lengths = [sample.tokens.num_sampled for sample in batch.samples]
        starts = np.cumsum([0, *lengths])
        flat = torch.zeros(int(starts[-1]), dtype=torch.float32, device=self._device)
        packed = pack_all(batch, max_tokens=self._max_tokens, num_ranks=self._world_size, row_cost=self._row_cost)
        with self._inference():
            for micro_batch in packed[self._rank]:
                logprobs, _ = self.forward(micro_batch)
                if micro_batch.loss_weights.any():  # a filler repeats a sequence that another row holds
                    places = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in micro_batch.sample_indices])
                    flat[self._tensor(places)] = logprobs
        dist.all_reduce(flat, op=dist.ReduceOp.SUM)
        return tuple(np.split(flat.cpu().numpy(), starts[1:-1]))

    def sequence_logprobs(self, token_ids: np.ndarray, prompt_length: int) -> np.ndarray:
        """Logprobs [C] float32 of a sequence's completion tokens ([P + C] ids) at temperature 1."""
        length = len(token_ids)
        positions = torch.arange(prompt_length - 1, length - 1, device=self._device)
        tokens = self._tensor(np.asarray(token_ids, dtype=np.int64))
        with self._inference():
            logprobs, _ = self._engine(
                tokens[None],
                torch.arange(length, device=self._device)[None],
                positions,
                tokens[prompt_length:],
                1.0,
            )
        return logprobs.cpu().numpy()

    @contextmanager
    def _inference(self) -> Iterator[None]:
        self._engine.eval()
        try:
            with self._context(), torch.no_grad():
                yield
        finally:
            self._engine.train()

    def _tensor(self, array: np.ndarray) -> Tensor:
        return to_tensor(array, self._device)


class LogprobCache:
    """Logprobs of a batch, some of them computed before the batch was complete.

    `score` gives one [C] float32 array a sample. Its weights must not move between the first add() and take(). Where it
    is collective, all ranks are given the same parts.
    """

    def __init__(self, score: Callable[[TrainBatch], tuple[np.ndarray, ...]]) -> None:
        self._score = score
        self._known: dict[tuple[bytes, bytes], np.ndarray] = {}  # logprobs by _key
        self.share = 0.0  # share of the completions of the batch taken last whose logprobs were known before

    def add(self, part: TrainBatch) -> None:
        """Computes the logprobs of these samples now. Those that turn out not to be in the batch go unused."""
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
    """The mask of sampled tokens and all token ids: under fixed weights they determine the logprobs."""
    return sample.tokens.completion_mask.tobytes(), sample.tokens.token_ids.tobytes()
