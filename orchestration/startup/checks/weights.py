"""The weights of a model folder, by the headers of its safetensors files: nothing of their content is read.

In: a folder. Out: how many parameters it holds and the rows of its input embedding, with one line for each file that is
missing, cut short or something else. Knows no architecture.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from orchestration.startup.checks.result import reason_of

INDEX_FILE = "model.safetensors.index.json"
LENGTH_BYTES = 8  # a file begins with the length of its header
MAX_HEADER_BYTES = 100 * 10**6  # the format's own limit
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "tok_embeddings.weight")


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """What a folder's weights are."""

    num_parameters: int | None  # None where the folder has none that can be counted
    embedding_rows: int | None  # rows of the input embedding; None where it is not found by its name
    mistakes: tuple[str, ...]  # what is wrong, without the folder


def read_weights(folder: Path) -> Weights:
    """The weights in safetensors files; others (`*.bin`) are taken as they are."""
    tensors: dict[str, tuple[int, ...]] = {}
    mistakes = []
    try:
        named = _named_files(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        mistake = f"{INDEX_FILE}: is not readable ({reason_of(error)}); download it again"
        return Weights(num_parameters=None, embedding_rows=None, mistakes=(mistake,))
    for name, expected in named.items():
        try:
            found = _tensors(folder / name)
        except (OSError, ValueError) as error:
            mistakes.append(f"{name}: {reason_of(error)}; download it again")
            continue
        tensors |= found
        if absent := sorted(expected - found.keys()):
            mistakes.append(f"{name}: has not the tensor {absent[0]}, which {INDEX_FILE} names; download both again")
    if not named and not any(folder.glob("*.bin")):
        mistakes.append("has no weights (model.safetensors, or several files with an index); download the whole model")
    embeddings = {shape[0] for name, shape in tensors.items() if name.endswith(EMBEDDINGS) and shape}
    return Weights(
        num_parameters=sum(prod(shape) for shape in tensors.values()) if tensors and not mistakes else None,
        embedding_rows=embeddings.pop() if len(embeddings) == 1 else None,
        mistakes=tuple(mistakes),
    )


def _named_files(folder: Path) -> Mapping[str, set[str]]:
    """Names of the safetensors files, with the tensors that the index says each holds."""
    if not (folder / INDEX_FILE).is_file():
        return {path.name: set() for path in sorted(folder.glob("model*.safetensors"))}
    named: dict[str, set[str]] = {}
    for tensor, name in json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))["weight_map"].items():
        named.setdefault(name, set()).add(tensor)
    return named


def _tensors(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of a file's tensors; OSError or ValueError where it is missing or not whole."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(LENGTH_BYTES)
        length = struct.unpack("<Q", start)[0] if len(start) == LENGTH_BYTES else 0
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - LENGTH_BYTES):
            raise ValueError(f"is no safetensors file or cut short ({size:,} bytes)")
        header = file.read(length)
    try:
        entries = json.loads(header)
        tensors = dict(_shapes(entries))
        end = LENGTH_BYTES + length + max((entries[name]["data_offsets"][1] for name in tensors), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"its header is not readable ({reason_of(error)})") from error
    if size != end:
        raise ValueError(f"has {size:,} bytes, its header says {end:,}")
    return tensors


def _shapes(entries: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, entry in entries.items():
        if name != "__metadata__":
            yield name, tuple(int(size) for size in entry["shape"])
