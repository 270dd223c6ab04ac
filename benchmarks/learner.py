"""Benchmark of the learner against bare torch loops: the same sequences, gate and optimizer, completion tokens/s.

The peers are loops as written by hand: forward, objective, backward, clip, AdamW, without DeepSpeed, Ray or statistics.
One runs the learner's packed rows; the other pads its micro-batches, on completions of 16 to 512 tokens with a heavy
tail.
"""

import time
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import ray

from benchmarks.pairs import PairedRate, measure_pairs
from benchmarks.parts import peer_process, running_learner, running_parts, save_model
from learner.contract import MicroBatch, TrainBatch, TrainSample
from learner.group import LearnerGroup
from learner.spec import LearnerSpec
from orchestration.stream.batches import to_train_batch
from rollout.contract import SampledTokens, VersionStart
from rollout.tasks.embedded_model import EmbeddedRecipe

BARE_TARGET, PADDED_TARGET = 0.9, 1.5
PADDED_SEQUENCES = 8  # sequences of a padded micro-batch, TRL's default
PROMPT_LENGTH, SHORTEST, LONGEST, VOCABULARY = 8, 16, 512, 20  # tokens of prompts and completions; number of ids
MAX_ROW_TOKENS = 1024  # tokens of a row with varied lengths
VARIED = (
    f"model.max_model_len={PROMPT_LENGTH + LONGEST}",
    f"rollout.max_new_tokens={LONGEST - 1}",
    f"learner.max_tokens_per_micro_batch={MAX_ROW_TOKENS}",
)


class BareLoop:
    """One process with a plain model and a plain optimizer, on the learner's packed rows."""

    def __init__(self, spec: LearnerSpec) -> None:
        import torch

        from learner.loss.gate_builder import build_gate
        from learner.model.policy import load_policy

        self._spec = spec
        self._gate = build_gate(spec.gate)
        self._policy = load_policy(
            spec.model_path,
            dtype=torch.float32,
            device=torch.device("cpu"),
            trust_remote_code=False,
            gradient_checkpointing=False,
            max_logits=spec.learner.max_logits,
            lora=spec.learner.lora,
        )
        self._optimizer = torch.optim.AdamW(self._policy.parameters(), lr=spec.learner.lr, weight_decay=0.0, fused=True)

    def update(self, batch: TrainBatch) -> float:
        """Runs one iteration's optimizer steps; returns completion tokens a second."""
        from learner.batches.packing import split_minibatches

        started, num_tokens = time.perf_counter(), 0
        num_minibatches = self._spec.learner.num_minibatches
        for indices in split_minibatches(len(batch.samples), num_minibatches, seed=0, iteration=0, epoch=0):
            num_tokens += sum(batch.samples[index].tokens.num_sampled for index in indices)
            self._accumulate(batch, indices)
            self._step()
        return num_tokens / (time.perf_counter() - started)

    def _accumulate(self, batch: TrainBatch, indices: np.ndarray) -> None:
        from torch import from_numpy

        for row in self._rows(batch, indices, max_tokens=self._spec.learner.max_tokens_per_micro_batch):
            logprobs, _ = self._policy(
                from_numpy(row.token_ids)[None],
                from_numpy(row.position_ids)[None],
                from_numpy(row.positions),
                from_numpy(row.targets),
                self._spec.temperature,
            )
            self._backward(logprobs, row, slice(None))

    def _rows(self, batch: TrainBatch, indices: np.ndarray, *, max_tokens: int) -> list[MicroBatch]:
        from learner.batches.packing import pack_minibatch

        return pack_minibatch(
            batch,
            indices,
            aggregation=self._spec.learner.loss_aggregation,
            max_new_tokens=self._spec.max_new_tokens,
            max_tokens=max_tokens,
            num_ranks=1,
        )[0]

    def _backward(self, logprobs: Any, row: MicroBatch, chosen: Any) -> None:
        """The backward pass of a row's chosen tokens, whose logprobs these are."""
        from torch import from_numpy

        from learner.loss.objective import gated_objective

        out = gated_objective(
            logprobs=logprobs,
            old_logprobs=from_numpy(row.rollout_logprobs[chosen]),
            advantages=from_numpy(row.advantages[chosen]),
            loss_weights=from_numpy(row.loss_weights[chosen]),
            gate=self._gate,
        )
        out.loss.backward()

    def _step(self) -> None:
        import torch

        torch.nn.utils.clip_grad_norm_(self._policy.parameters(), self._spec.learner.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()


class PaddedLoop(BareLoop):
    """The bare loop on micro-batches of a few sequences, padded to the longest of the micro-batch."""

    def __init__(self, spec: LearnerSpec) -> None:
        super().__init__(spec)
        self._policy.model.set_attn_implementation("sdpa")

    def _accumulate(self, batch: TrainBatch, indices: np.ndarray) -> None:
        import torch
        from torch.nn.utils.rnn import pad_sequence

        (row,) = self._rows(batch, indices, max_tokens=1 << 30)  # for the loss weights, which do not depend on rows
        token_ids = torch.from_numpy(row.token_ids).split(row.sequence_lengths.tolist())
        for first in range(0, len(token_ids), PADDED_SEQUENCES):
            part = token_ids[first : first + PADDED_SEQUENCES]
            tokens = pad_sequence(part, batch_first=True)
            mask = pad_sequence([torch.ones_like(ids) for ids in part], batch_first=True)
            hidden = self._policy.model.base_model(tokens, attention_mask=mask, use_cache=False).last_hidden_state
            last = first + len(part) - 1
            chosen = np.flatnonzero((row.sequence_index >= first) & (row.sequence_index <= last))
            starts = np.cumsum(row.sequence_lengths) - row.sequence_lengths
            sequences = row.sequence_index[chosen]
            logprobs, _ = self._policy.model.get_output_embeddings()(
                hidden[sequences - first, row.positions[chosen] - starts[sequences]],
                torch.from_numpy(row.targets[chosen]),
                temperature=self._spec.temperature,
                max_logits=self._spec.learner.max_logits,
                entropy_gradient=False,
            )
            self._backward(logprobs, row, chosen)


def varied_batch(*, num_groups: int = 32, group_size: int = 8) -> TrainBatch:
    """A batch of random tokens; most completions have a few dozen tokens, some are cut off at LONGEST - 1."""
    random = np.random.default_rng(0)
    lengths = np.minimum(SHORTEST * (1 + random.pareto(1.0, num_groups * group_size)), LONGEST - 1).astype(int)
    samples = []
    for index, length in enumerate(lengths):
        token_ids = random.integers(VOCABULARY, size=PROMPT_LENGTH + length).astype(np.int32)
        tokens = SampledTokens.one_turn(
            token_ids[:PROMPT_LENGTH],
            token_ids[PROMPT_LENGTH:],
            rollout_logprobs=random.normal(-3.0, 0.1, length).astype(np.float32),
            version_starts=(VersionStart(version=0, start=0),),
        )
        position, advantage = index // group_size, float(random.normal())
        samples.append(TrainSample(position=position, tokens=tokens, advantage=advantage, staleness=0, finished=True))
    return TrainBatch(samples=tuple(samples))


def learner_rate(learner: LearnerGroup, batch: TrainBatch) -> float:
    """Completion tokens a second over load and all steps, as in the loop."""
    started = time.perf_counter()
    learner.load(batch, 0)
    num_tokens = sum(report.num_tokens for report in learner.steps())
    return num_tokens / (time.perf_counter() - started)


def benchmark_learner(*, repeats: int) -> list[PairedRate]:
    """Measures one rank under DeepSpeed and one plain process in turn."""

    def against(peer: type[BareLoop], target: float, *, name: str, of: str) -> PairedRate:
        bare = peer_process(peer).remote(learner.spec)
        ours, peers = measure_pairs(
            lambda: learner_rate(learner, batch), lambda: ray.get(bare.update.remote(batch)), repeats=repeats
        )
        ray.kill(bare)
        return PairedRate(name=name, peer=of, unit="tokens/s", ours=ours, peers=peers, target=target)

    with running_parts() as parts:
        parts.groups.admit(0)
        objective, max_new_tokens = parts.config.objective, parts.config.rollout.max_new_tokens
        batch = to_train_batch(
            parts.groups.take(0), policy_version=0, objective=objective, max_new_tokens=max_new_tokens
        )
        assert any(sample.tokens.num_sampled for sample in batch.samples)
        learner = parts.learner
        rates = [against(BareLoop, BARE_TARGET, name="learner", of="bare torch loop")]
    batch, name = varied_batch(), "learner, varied lengths"
    with TemporaryDirectory() as folder:
        model_path = save_model(folder, EmbeddedRecipe(max_position_embeddings=1024))
        with running_learner(*VARIED, model_path=model_path) as learner:
            rates.append(against(BareLoop, BARE_TARGET, name=name, of="bare torch loop"))
            rates.append(against(PaddedLoop, PADDED_TARGET, name=name, of="bare loop, padded"))
    return rates
