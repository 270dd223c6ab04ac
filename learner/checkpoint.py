"""The learner's state on disk: DeepSpeed's shards with each rank's random state beside them, and the finished model.

In: an engine or a policy, and an existing folder that all ranks reach. Out: files, and from them the same engine bit
for bit. Knows nothing of iterations or of the rest of a run; orchestration/checkpoint.py makes the folder atomic.
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
from transformers import AutoTokenizer

from learner.model.policy import Policy
from learner.model.weights import published_weights
from learner.model.zero import gathered, in_groups
from learner.shards import ShardLayout, random_state_file, require_folder
from learner.spec import LearnerSpec

TAG = "learner"  # DeepSpeed's name for the sub-folder of its shards
# classes without behaviour that DeepSpeed pickles with its tensors
SAFE_CLASSES = [LossScaler, ZeroStageEnum, fragment_address]
WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
ADAPTER_FOLDER = "adapter"
GATHER_ELEMENTS = 250_000_000  # limit on the elements gathered at once; a larger parameter is gathered alone


def save_engine(engine: DeepSpeedEngine, folder: Path, *, rank: int, layout: ShardLayout) -> None:
    """Writes this rank's share of weights, optimizer state and random state. Collective over the ranks.

    Frozen weights are left out: the model folder has them. Raises FileNotFoundError where this rank does not see the
    folder.
    """
    require_folder(folder)
    if rank == 0:
        layout.write(folder)
    engine.save_checkpoint(str(folder), tag=TAG, save_latest=False, exclude_frozen_parameters=True)
    torch.save(_random_state(), random_state_file(folder, rank))


def load_engine(engine: DeepSpeedEngine, folder: Path, *, rank: int, layout: ShardLayout) -> None:
    """Loads what save_engine wrote with the same layout into an engine that has not stepped yet. Collective.

    Raises ValueError where the layout differs, FileNotFoundError where the folder holds no such checkpoint. Unpickles
    only tensors, containers and SAFE_CLASSES.
    """
    require_folder(folder)
    layout.require_equal(folder)
    has_frozen = any(not parameter.requires_grad for parameter in engine.module.parameters())
    with _weights_only_loads():
        loaded, _ = engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=not has_frozen)
    if loaded is None:
        raise FileNotFoundError(f"{folder}: its sub-folder {TAG} does not hold the learner's weights")
    _set_random_state(torch.load(random_state_file(folder, rank), weights_only=True))


def save_model(policy: Policy, folder: Path, *, rank: int) -> None:
    """Writes the weights as a Hugging Face folder. Collective; only rank 0 writes and holds all weights in memory.

    With LoRA the weights have the adapters merged in, and the sub-folder ADAPTER_FOLDER has the adapters in peft's
    format. Raises FileNotFoundError where rank 0 does not see the folder.
    """
    if rank == 0:
        require_folder(folder)
    state: dict[str, Tensor] = {}
    weights = {weight.name: weight for weight in published_weights(policy)}
    for group in in_groups(((name, weight.base) for name, weight in weights.items()), max_elements=GATHER_ELEMENTS):
        members = [weights[name] for name, _ in group]
        with gathered([parameter for weight in members for parameter in weight.parameters]):
            if rank == 0:
                state.update((w.name, w.value().to("cpu", dtype=w.base.dtype, copy=True)) for w in members)
    if rank == 0:
        policy.model.save_pretrained(folder, state_dict=state)
    if policy.adapters is not None:
        factors = dict(policy.adapters.parameters())
        with gathered(list(factors.values())):
            if rank == 0:
                whole = {name: factor.detach().to("cpu", copy=True) for name, factor in factors.items()}
                policy.adapters.save(folder / ADAPTER_FOLDER, whole)


def save_tokenizer(spec: LearnerSpec, folder: Path) -> None:
    """Writes the model's tokenizer beside its weights."""
    AutoTokenizer.from_pretrained(spec.model_path, trust_remote_code=spec.trust_remote_code).save_pretrained(folder)


def _random_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return state | {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else state


def _set_random_state(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def _weights_only_loads() -> Iterator[None]:
    """Restricts torch.load, which DeepSpeed calls with unrestricted unpickling, by torch's environment variable."""
    before = os.environ.get(WEIGHTS_ONLY)
    os.environ[WEIGHTS_ONLY] = "1"
    try:
        with torch.serialization.safe_globals(SAFE_CLASSES):
            yield
    finally:
        del os.environ[WEIGHTS_ONLY]
        if before is not None:
            os.environ[WEIGHTS_ONLY] = before
