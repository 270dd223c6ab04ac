"""The learner's state on disk: DeepSpeed's shards, and each rank's random state beside them.

In: an engine and a folder that all ranks reach. Out: the same engine, bit for bit, on another day.
Knows nothing of iterations or of the rest of a run; orchestration makes a checkpoint whole and atomic.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from deepspeed import DeepSpeedEngine
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address
from torch import Tensor

TAG = "learner"  # DeepSpeed's name for the sub-folder of its shards
SAFE_CLASSES = [
    LossScaler,
    ZeroStageEnum,
    fragment_address,
]  # plain data holders that DeepSpeed pickles with its tensors
WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


def save_engine(engine: DeepSpeedEngine, folder: str, *, rank: int) -> None:
    """Write this rank's share of weights, optimizer state and random state. Collective over the ranks."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    engine.save_checkpoint(folder, tag=TAG, save_latest=False)
    torch.save(_random_state(), _random_state_file(folder, rank))


def load_engine(engine: DeepSpeedEngine, folder: str, *, rank: int) -> None:
    """Load what save_engine wrote with as many ranks and the same ZeRO stage, into an engine that has not stepped yet.

    Raises FileNotFoundError where the folder holds no such checkpoint. Unpickles nothing but tensors, containers and
    SAFE_CLASSES.
    """
    if not (Path(folder) / TAG).is_dir():
        raise FileNotFoundError(f"{folder}: no learner checkpoint there")
    with _weights_only_loads():
        loaded, _ = engine.load_checkpoint(folder, tag=TAG)
    if loaded is None:
        raise FileNotFoundError(f"{folder}: no learner checkpoint for this number of ranks and ZeRO stage")
    _set_random_state(torch.load(_random_state_file(folder, rank), weights_only=True))


def _random_state_file(folder: str, rank: int) -> Path:
    return Path(folder) / f"random_state_rank{rank}.pt"


def _random_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return state | {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else state


def _set_random_state(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def _weights_only_loads() -> Iterator[None]:
    """DeepSpeed asks torch.load for unrestricted unpickling; torch's own switch overrules it."""
    before = os.environ.get(WEIGHTS_ONLY)
    os.environ[WEIGHTS_ONLY] = "1"
    try:
        with torch.serialization.safe_globals(SAFE_CLASSES):
            yield
    finally:
        del os.environ[WEIGHTS_ONLY]
        if before is not None:
            os.environ[WEIGHTS_ONLY] = before
