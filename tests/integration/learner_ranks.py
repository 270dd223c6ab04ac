"""Real DeepSpeed ranks as processes that several tests share, and small models and batches for them.

A pool's processes start once (imports take longest) and run one function after another, all ranks in lockstep.
"""

import functools
import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from learner_specs import softsign_spec
from sampled import one_turn

from learner.contract import StepReport, TrainBatch, TrainSample
from learner.spec import LearnerSpec

ANSWER_TIMEOUT_S = 480.0
VOCABULARY_SIZE = 32


class RankPool:
    """Processes; `run` calls function(join, *args) in each, join being that rank's keywords of LearnerWorker."""

    def __init__(self, world_size: int) -> None:
        context = multiprocessing.get_context("spawn")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        os.environ.update(DS_ACCELERATOR="cpu", OMP_NUM_THREADS="1")  # inherited; must stand before torch is imported
        self._connections: list[Connection] = []
        self._processes = []
        for rank in range(world_size):
            ours, theirs = context.Pipe()
            join = {"rank": rank, "world_size": world_size, "master_address": "127.0.0.1", "master_port": port}
            process = context.Process(target=_serve, args=(theirs, join), daemon=True)
            process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """Results by rank. EOFError where a rank died (its traceback is on stderr)."""
        for connection in self._connections:
            connection.send((function, args))
        for rank, connection in enumerate(self._connections):
            assert connection.poll(ANSWER_TIMEOUT_S), f"rank {rank} did not answer {function.__name__}"
        return [connection.recv() for connection in self._connections]


def _serve(connection: Connection, join: dict[str, Any]) -> None:
    while True:
        try:
            function, args = connection.recv()
        except EOFError:  # the test process has ended
            return
        connection.send(function(join, *args))


@functools.cache
def rank_pool(world_size: int) -> RankPool:
    """The pool of that size, started at first use; its daemon processes end with the test process."""
    return RankPool(world_size)


def save_tiny_model(folder: Path, *, tied: bool, seed: int = 0, intermediate_size: int = 48) -> str:
    """A random Qwen2 of about 10,000 parameters with a word-level tokenizer."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=32,
        intermediate_size=intermediate_size,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        initializer_range=0.1,  # at the usual 0.02 so small a model ignores its input
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    words = {f"w{index}": index for index in range(VOCABULARY_SIZE)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0").save_pretrained(folder)
    return str(folder)


def tiny_spec(model_path: str, **learner: Any) -> LearnerSpec:
    """Softsign on a CPU with a rate and a time-out that fit a tiny model; the learner's settings by keyword."""
    return softsign_spec(model_path=model_path, **{"lr": 1e-3, "timeout_s": 240.0} | learner)


def random_batch(*, num_groups: int, group_size: int, seed: int) -> TrainBatch:
    """Random tokens, advantages and rollout logprobs; prompts of 3-5 tokens, completions of 1-8."""
    random = np.random.default_rng(seed)
    samples = []
    for group in range(num_groups):
        for _ in range(group_size):
            prompt_length, completion_length = int(random.integers(3, 6)), int(random.integers(1, 9))
            tokens = random.integers(0, VOCABULARY_SIZE, prompt_length + completion_length)
            samples.append(
                TrainSample(
                    position=group,
                    tokens=one_turn(
                        tokens[:prompt_length],
                        tokens[prompt_length:],
                        logprobs=random.normal(-3.5, 0.5, completion_length).astype(np.float32),
                    ),
                    advantage=float(random.normal()),
                    staleness=0,
                    finished=True,
                )
            )
    return TrainBatch(samples=tuple(samples))


def all_steps(join: dict[str, Any], spec: LearnerSpec, batch: TrainBatch) -> list[StepReport]:
    """In a rank: the steps of one iteration."""
    from learner.worker import LearnerWorker

    worker = LearnerWorker(spec, **join)
    worker.load(batch, 0)
    reports = [worker.step(index) for index in range(spec.num_steps)]
    worker.engine.destroy()
    return reports
