"""Learner against a bare torch loop: the same packed rows, gate and optimizer, completion tokens/s of each.

The peer is what one would write by hand: forward, objective, backward, clip, AdamW; no DeepSpeed, Ray or statistics.
"""

import time
from typing import Any

import numpy as np
import ray

from benchmarks.pairs import PairedRate, measure_pairs
from benchmarks.parts import running_parts
from learner.contract import TrainBatch
from learner.spec import LearnerSpec
from orchestration.batches import to_train_batch
from orchestration.parts import Parts

TARGET = 0.85


class BareLoop:
    """One process with a plain model and a plain optimizer."""

    def __init__(self, spec: LearnerSpec) -> None:
        import torch

        from learner.gate_builder import build_gate
        from learner.policy import load_policy

        self._spec = spec
        self._gate = build_gate(spec.gate)
        self._policy = load_policy(
            spec.model_path,
            dtype=torch.float32,
            device=torch.device("cpu"),
            trust_remote_code=False,
            gradient_checkpointing=False,
            max_logits=spec.learner.max_logits,
        )
        self._optimizer = torch.optim.AdamW(self._policy.parameters(), lr=spec.learner.lr, weight_decay=0.0, fused=True)

    def update(self, batch: TrainBatch) -> float:
        """One iteration's optimizer steps; completion tokens a second."""
        from learner.packing import pack_minibatch, split_minibatches

        learner, started, num_tokens = self._spec.learner, time.perf_counter(), 0
        splits = split_minibatches(len(batch.samples), learner.num_minibatches, seed=0, iteration=0, epoch=0)
        for indices in splits:
            rows = pack_minibatch(
                batch,
                indices,
                aggregation=learner.loss_aggregation,
                max_new_tokens=self._spec.max_new_tokens,
                max_tokens=learner.max_tokens_per_micro_batch,
                num_ranks=1,
            )[0]
            for row in rows:
                self._backward(row)
                num_tokens += len(row.targets)
            self._step()
        return num_tokens / (time.perf_counter() - started)

    def _backward(self, row: Any) -> None:
        from torch import from_numpy

        from learner.objective import gated_objective

        logprobs, _ = self._policy(
            from_numpy(row.token_ids)[None],
            from_numpy(row.position_ids)[None],
            from_numpy(row.positions),
            from_numpy(row.targets),
            self._spec.temperature,
        )
        out = gated_objective(
            logprobs=logprobs,
            old_logprobs=from_numpy(row.rollout_logprobs),
            advantages=from_numpy(row.advantages),
            loss_weights=from_numpy(row.loss_weights),
            gate=self._gate,
        )
        out.loss.backward()

    def _step(self) -> None:
        import torch

        torch.nn.utils.clip_grad_norm_(self._policy.parameters(), self._spec.learner.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()


def learner_rate(parts: Parts, batch: TrainBatch) -> float:
    """Completion tokens a second of load and all steps, as the loop does them."""
    started = time.perf_counter()
    parts.learner.load(batch, 0)
    num_tokens = sum(report.num_tokens for report in parts.learner.steps())
    return num_tokens / (time.perf_counter() - started)


def benchmark_learner(*, repeats: int) -> list[PairedRate]:
    """One rank under DeepSpeed against one plain process, alternating."""
    with running_parts() as parts:
        parts.groups.admit(0)
        batch = to_train_batch(
            parts.groups.take(0),
            policy_version=0,
            objective=parts.config.objective,
            max_new_tokens=parts.config.rollout.max_new_tokens,
        )
        assert np.sum([sample.completion_length for sample in batch.samples]) > 0
        peer = ray.remote(BareLoop).options(num_cpus=0, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}})
        bare = peer.remote(parts.learner.spec)
        ours, peers = measure_pairs(
            lambda: learner_rate(parts, batch),
            lambda: ray.get(bare.update.remote(batch)),
            repeats=repeats,
            warmups=2,
        )
        ray.kill(bare)
    return [PairedRate(name="learner", peer="bare torch loop", unit="tokens/s", ours=ours, peers=peers, target=TARGET)]
