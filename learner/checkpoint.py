"""The learner's state on disk: DeepSpeed's shards with each rank's random state beside them, and the finished model.

In: an engine or a policy, and a folder that exists and that all ranks reach. Out: the same engine, bit for bit, on
another day. Knows nothing of iterations or of the rest of a run; orchestration makes a checkpoint whole and atomic.
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

from learner.policy import Policy, checkpoint_parameters
from learner.shards import ShardLayout, random_state_file, require_folder
from learner.zero import gathered, in_groups

TAG = "learner"  # DeepSpeed's name for the sub-folder of its shards
# plain data holders that DeepSpeed pickles with its tensors
SAFE_CLASSES = [LossScaler, ZeroStageEnum, fragment_address]
WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
GATHER_ELEMENTS = 250_000_000  # at most so many whole at once beside the partitions, or one larger parameter


def save_engine(engine: DeepSpeedEngine, folder: Path, *, rank: int, layout: ShardLayout) -> None:
    """Write this rank's share of weights, optimizer state and random state. Collective over the ranks.

    Raises FileNotFoundError where this rank does not see the folder.
    """
    require_folder(folder)
    if rank == 0:
        layout.write(folder)
    engine.save_checkpoint(str(folder), tag=TAG, save_latest=False)
    torch.save(_random_state(), random_state_file(folder, rank))


def load_engine(engine: DeepSpeedEngine, folder: Path, *, rank: int, layout: ShardLayout) -> None:
    """Load what save_engine wrote with the same layout, into an engine that has not stepped yet. Collective.

    Raises ValueError where the layout was another, FileNotFoundError where the folder holds no such checkpoint.
    Unpickles nothing but tensors, containers and SAFE_CLASSES.
    """
    require_folder(folder)
    layout.require_equal(folder)
    with _weights_only_loads():
        loaded, _ = engine.load_checkpoint(str(folder), tag=TAG)
    if loaded is None:
        raise FileNotFoundError(f"{folder}: its sub-folder {TAG} does not hold the learner's weights")
    _set_random_state(torch.load(random_state_file(folder, rank), weights_only=True))


def save_model(policy: Policy, folder: Path, *, rank: int) -> None:
    """Write the weights as a Hugging Face folder; gathered in groups, whole in rank 0's main memory only. Collective.

    Raises FileNotFoundError where rank 0, which writes, does not see the folder.
    """
    if rank == 0:
        require_folder(folder)
    state: dict[str, Tensor] = {}
    for group in in_groups(checkpoint_parameters(policy), max_elements=GATHER_ELEMENTS):
        with gathered([parameter for _, parameter in group]):
            if rank == 0:
                state.update((name, parameter.detach().to("cpu", copy=True)) for name, parameter in group)
    if rank == 0:
        policy.model.save_pretrained(folder, state_dict=state)


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
