"""The learner's training state as a checkpoint: float32 weights, AdamW moments, step count, and small texts.

In: a rank's OptimizerState and an existing folder that all ranks reach. Out: a copy in host memory, its files, and from
them the same state bit for bit, whatever the number of ranks, ZeRO stage and dtype that reads it. Knows nothing of
iterations or of the rest of a run; orchestration/checkpoints makes the folder atomic.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from learner.checkpoints.fragments import MOMENTS, OptimizerState
from learner.checkpoints.shared_folder import require_folder
from learner.checkpoints.tensor_files import Piece, ShardError, TensorFiles, write_tensors
from transfer.fingerprints import Fingerprint, write_hashed

RECORD_FILE = "learner.json"
SHARDS = "learner-*.safetensors"
SHARD_BYTES = 4 * 2**30  # a file's size unless a single tensor is larger


@dataclass(frozen=True, kw_only=True, slots=True)
class StateCopy:
    """What one rank writes, in host memory and independent of further training."""

    rank: int
    tensors: dict[str, Tensor]  # float32 [size] by the key of its Piece
    texts: Mapping[str, str]  # content by file name; empty but on rank 0


def copy_state(state: OptimizerState, *, rank: int, texts: Mapping[str, str]) -> StateCopy:
    """Copies this rank's share to host memory. texts: further files of rank 0."""
    tensors = {
        Piece(kind=kind, name=fragment.name, start=fragment.start).key: tensor.to("cpu", copy=True)
        for fragment in state.own_fragments()
        for kind, tensor in state.tensors(fragment).items()
    }
    record = {"num_steps": state.num_steps(), "shapes": state.shapes()}
    own = {RECORD_FILE: json.dumps(record, indent=1) + "\n", **texts} if rank == 0 else {}
    return StateCopy(rank=rank, tensors=tensors, texts=own)


def write_state(copy: StateCopy, folder: Path, *, shard_bytes: int = SHARD_BYTES) -> dict[str, Fingerprint]:
    """Writes the copy, which it empties as it goes; fingerprints by file name."""
    written = {name: write_hashed(folder / name, [text.encode()]) for name, text in copy.texts.items()}
    part = 0
    while copy.tensors:
        shard: dict[str, Tensor] = {}
        filled = 0
        while copy.tensors and (not shard or filled + next(iter(copy.tensors.values())).nbytes <= shard_bytes):
            key = next(iter(copy.tensors))
            shard[key] = copy.tensors.pop(key)
            filled += shard[key].nbytes
        name = SHARDS.replace("*", f"{copy.rank:04d}-{part:04d}")
        written[name] = write_tensors(folder / name, shard)
        part += 1
    return written


def load_state(state: OptimizerState, folder: Path) -> None:
    """Fills an optimizer that has not stepped with what all ranks of some learner wrote. Collective over the ranks.

    Raises ShardError where the folder is of another model or adapter, FileNotFoundError where it holds no such state.
    """
    require_folder(folder)
    path = folder / RECORD_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: no learner checkpoint there")
    record = json.loads(path.read_text(encoding="utf-8"))
    _require_equal(record["shapes"], state.shapes(), folder)
    if record["num_steps"] > 0:
        state.start_moments(record["num_steps"])
    with TensorFiles(sorted(folder.glob(SHARDS))) as files:
        for fragment in state.fragments():
            for kind, tensor in state.tensors(fragment).items():
                if kind in MOMENTS and not files.holds(kind, fragment.name):
                    continue  # no loss depends on this parameter, so no step has moved it
                files.read_into(tensor, Piece(kind=kind, name=fragment.name, start=fragment.start))
    state.refresh_weights()


def _require_equal(stored: Mapping[str, list[int]], own: Mapping[str, list[int]], folder: Path) -> None:
    for name in sorted(stored.keys() | own.keys()):
        there, here = stored.get(name, "absent"), own.get(name, "absent")
        if there != here:
            raise ShardError(
                f"{folder}: the trained parameter {name} is {there} there and {here} in this model; set model.path and "
                f"learner.lora as they were"
            )
