"""Wire format of a publish: named tensors in, one flat byte buffer and one digest a parameter group out, and back.

Both ends compute layout and digest from the same functions, so they cannot disagree about bytes. Knows nothing of
processes, DeepSpeed or vLLM.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod

import torch

ALIGNMENT_BYTES = 16  # a tensor view needs its offset divisible by the element size; 16 serves every dtype
DIGEST_COLUMNS = 4096
DIGEST_BLOCK_ROWS = 16  # 512 KiB of words: fits a core's second-level cache
IN_FLIGHT_BYTES = 256 * 2**20  # most bytes of buffers under way on either side of a publish


@dataclass(frozen=True, kw_only=True, slots=True)
class ParameterMeta:
    """Checkpoint name, wire dtype ("float32") and full shape of one parameter."""

    name: str
    dtype_name: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        dtype = getattr(torch, self.dtype_name)
        assert isinstance(dtype, torch.dtype), self.dtype_name
        return dtype

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, kw_only=True, slots=True)
class ParameterGroup:
    """Parameters that travel in one buffer: those of one decoder layer, or the unnumbered ones between layers."""

    label: str  # "model.layers.3", or the module names joined by "+"
    parameters: tuple[ParameterMeta, ...]

    def offsets(self) -> list[int]:
        """Start of each parameter in the buffer, in bytes, and the buffer's size as last entry."""
        starts = [0]
        for parameter in self.parameters:
            end = starts[-1] + parameter.num_bytes
            starts.append(-(-end // ALIGNMENT_BYTES) * ALIGNMENT_BYTES)
        return starts

    @property
    def num_bytes(self) -> int:
        return self.offsets()[-1]


def group_parameters(parameters: Iterable[ParameterMeta]) -> list[ParameterGroup]:
    """Groups parameters in order: one group a numbered layer, one for each run of unnumbered parameters."""
    groups = []
    for layer, members in groupby(parameters, key=lambda parameter: _layer_of(parameter.name)):
        metas = tuple(members)
        label = layer or "+".join(dict.fromkeys(meta.name.rpartition(".")[0] for meta in metas))
        groups.append(ParameterGroup(label=label, parameters=metas))
    return groups


def _layer_of(name: str) -> str:
    """The prefix up to the outermost number ("model.layers.3"), or "" for a name without one."""
    parts = name.split(".")
    for place, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: place + 1])
    return ""


def pack(group: ParameterGroup, tensors: Iterable[torch.Tensor], buffer: torch.Tensor) -> None:
    """Copies tensors into buffer ([group.num_bytes] uint8, any device), converting each to its wire dtype.

    Each is asked for after the one before has been copied.
    """
    for meta, tensor, view in zip(group.parameters, tensors, unpack(group, buffer), strict=True):
        if tuple(tensor.shape) != meta.shape:
            raise ValueError(f"{meta.name}: shape {tuple(tensor.shape)} where the wire expects {meta.shape}")
        view.copy_(tensor)


def unpack(group: ParameterGroup, buffer: torch.Tensor) -> list[torch.Tensor]:
    """Views of buffer in the shapes and dtypes of the group; no copy."""
    views = []
    for meta, start in zip(group.parameters, group.offsets()[:-1], strict=True):
        views.append(buffer[start : start + meta.num_bytes].view(meta.dtype).view(meta.shape))
    return views


class BufferPool:
    """Buffers of one side of a publish, kept for the next one while they fit into IN_FLIGHT_BYTES together.

    Fresh memory costs a page fault every 4 KiB. A buffer is handed out once a publish, so that it does not change
    before the publish is over.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._kept: dict[str, torch.Tensor] = {}

    def take(self, group: ParameterGroup) -> torch.Tensor:
        """A buffer for the group, not initialized: padding between tensors travels and is digested as it is."""
        kept = self._kept.pop(group.label, None)
        if kept is not None and kept.numel() == group.num_bytes:  # a group may travel whole once and in part later
            self._kept[group.label] = kept
            return kept
        buffer = torch.empty(group.num_bytes, dtype=torch.uint8, device=self._device)
        if sum(other.numel() for other in (buffer, *self._kept.values())) <= IN_FLIGHT_BYTES:
            self._kept[group.label] = buffer
        return buffer


def fits_in_flight(group: ParameterGroup, in_flight: Sequence[ParameterGroup]) -> bool:
    """Whether the group may travel beside those under way; one may always travel, however large."""
    return not in_flight or sum(other.num_bytes for other in (group, *in_flight)) <= IN_FLIGHT_BYTES


def digest(buffer: torch.Tensor) -> str:
    """A 16-digit digest of a uint8 buffer's content; its length must be a multiple of 8, as that of every group's is.

    Row and column sums of the 64-bit words are hashed. They wrap around modulo 2^64, so they are exact, and equal on
    every device and for every order of addition. Any changed word changes its row and its column, and two swapped words
    cannot keep both. Guards against defects, not against an adversary; costs two passes at the speed of memory.
    """
    words = buffer.view(torch.int64)
    whole = words.numel() // DIGEST_COLUMNS * DIGEST_COLUMNS
    table = words[:whole].view(-1, DIGEST_COLUMNS)
    in_blocks = len(table) // DIGEST_BLOCK_ROWS * DIGEST_BLOCK_ROWS
    # Summing columns over the whole table at once takes twice as long: its reads keep leaving the CPU's cache.
    block_sums = table[:in_blocks].view(-1, DIGEST_BLOCK_ROWS, DIGEST_COLUMNS).sum(dim=1)
    column_sums = block_sums.sum(dim=0) + table[in_blocks:].sum(dim=0)
    state = hashlib.blake2b(str(buffer.numel()).encode(), digest_size=8)
    for sums in (column_sums, table.sum(dim=1), words[whole:]):
        state.update(sums.contiguous().cpu().numpy().tobytes())
    return state.hexdigest()
