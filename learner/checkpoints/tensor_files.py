"""Float32 tensors in safetensors files, and pieces of them back.

In: copies of fragments. Out: files with fingerprints, hashed while they are written; or the elements that a rank asks
for, from whichever files hold them. Knows nothing of DeepSpeed or of who wrote which part.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from transfer.fingerprints import Fingerprint, write_hashed

ALIGNMENT = 8  # bytes; safetensors wants tensors aligned, so the header is filled up with spaces


class ShardError(ValueError):
    """A checkpoint's tensor files do not hold what the learner needs; the message names folder and parameter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Elements of one tensor of one parameter, in a file or to be written."""

    kind: str  # weight or moment
    name: str  # name of the parameter
    start: int  # place of the first element in the whole parameter, flat

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.start}/{self.name}"

    @classmethod
    def of_key(cls, key: str) -> "Piece":
        kind, start, name = key.split("/", 2)
        return cls(kind=kind, name=name, start=int(start))


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> Fingerprint:
    """Writes flat float32 tensors on the CPU as a safetensors file."""
    return write_hashed(path, _content(tensors))


def _content(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    header, end = {}, 0
    for key, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[key] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    yield len(text).to_bytes(8, "little") + text
    for tensor in tensors.values():
        yield tensor.numpy().data.cast("B")


class TensorFiles:
    """`with TensorFiles(paths) as files:` reads elements from safetensors files as if they were one."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)
        self._closing = ExitStack()
        self._pieces: dict[tuple[str, str], list[tuple[int, Any]]] = defaultdict(list)

    def __enter__(self) -> "TensorFiles":
        for path in self._paths:
            try:
                file = self._closing.enter_context(safe_open(path, framework="pt"))
            except SafetensorError as error:
                raise ShardError(f"{path}: is not a safetensors file ({error})") from error
            for key in file.keys():  # noqa: SIM118 - not a dict
                piece = Piece.of_key(key)
                self._pieces[piece.kind, piece.name].append((piece.start, file.get_slice(key)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    def holds(self, kind: str, name: str) -> bool:
        """Whether a file has elements of this tensor of the parameter."""
        return (kind, name) in self._pieces

    def read_into(self, target: Tensor, piece: Piece) -> None:
        """Fills the flat target with the elements from piece.start on. ShardError where some are in no file."""
        end, filled = piece.start + len(target), 0
        for start, stored in self._pieces.get((piece.kind, piece.name), ()):
            first, last = max(piece.start, start), min(end, start + stored.get_shape()[0])
            if first < last:
                target[first - piece.start : last - piece.start].copy_(stored[first - start : last - start])
                filled += last - first
        if filled != len(target):
            folders = ", ".join(sorted({str(path.parent) for path in self._paths})) or "no files"
            raise ShardError(
                f"{folders}: {filled} of elements {piece.start} to {end} of {piece.name} ({piece.kind}) are there"
            )
