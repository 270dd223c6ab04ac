"""The folder format of recorded groups: one file an iteration, complete or absent, beside one manifest.

In: GradedGroups. Out: `iteration-000000.npz` and so on, and the same groups back, bit for bit.
Arrays are plain numpy, all else is JSON; nothing is pickled. It knows nothing of runs: what a manifest says of how the
groups were made is kept as it comes.
"""

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from configs.files import write_atomically
from rollout.contract import Completion, GradedGroup, Prompt, PromptGroup, RewardVerdict, SampledTokens, VersionStart

MANIFEST_FILE = "manifest.json"
FORMAT_VERSION = 3
REMEDY = "replay with the version of the program that recorded it, or record again"


class RecordingError(RuntimeError):
    """A recording cannot be read or continued; the message names its folder or file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """Settings and vocabulary with which the groups of a folder were made."""

    settings: Mapping[str, Any]  # settings of the recording run, a tree of JSON values
    vocabulary: str  # digest of the tokenizer's vocabulary: token ids mean something under this one only


def vocabulary_digest(vocabulary: Mapping[str, int]) -> str:
    """SHA-256 of a tokenizer's tokens and ids, whatever order they come in."""
    pairs = sorted((index, token) for token, index in vocabulary.items())
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes the manifest into the folder, which is created if it is new."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"format_version": FORMAT_VERSION, **asdict(manifest)}
    write_atomically(folder / MANIFEST_FILE, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_manifest(folder: Path) -> Manifest:
    """Raises RecordingError where the folder is missing, holds no recording, or one of another format."""
    path = folder / MANIFEST_FILE
    if not folder.is_dir():
        raise RecordingError(f"{folder}: there is no such folder; check the path")
    if not path.is_file():
        raise RecordingError(f"{folder}: holds no recording ({MANIFEST_FILE} is missing); check the path")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["format_version"]
        if version == FORMAT_VERSION:
            return Manifest(settings=dict(content["settings"]), vocabulary=str(content["vocabulary"]))
    except (ValueError, KeyError, TypeError) as error:
        raise RecordingError(f"{path}: is not readable ({type(error).__name__}: {error}); {REMEDY}") from error
    raise RecordingError(f"{folder}: has format version {version}, this program reads {FORMAT_VERSION}; {REMEDY}")


def num_recorded(folder: Path) -> int:
    """Number of iterations that the folder holds, from 0 on without a gap."""
    found = {iteration for iteration, _ in _iteration_files(folder)}
    return next(count for count in range(len(found) + 1) if count not in found)


def discard_from(folder: Path, iteration: int) -> None:
    """Deletes the iterations from `iteration` on."""
    for number, path in _iteration_files(folder):
        if number >= iteration:
            path.unlink()


def write_iteration(folder: Path, iteration: int, groups: Sequence[GradedGroup]) -> None:
    """Writes the groups of an iteration, in place of those that the folder had; durable once this returns."""
    prompts = [graded.group.prompt for graded in groups]
    tokens = [completion.tokens for graded in groups for completion in graded.group.completions]
    rows = [_row(graded) for graded in groups]
    file = io.BytesIO()
    np.savez(
        file,
        prompt_token_ids=_joined([prompt.token_ids for prompt in prompts], np.int32),  # [sum of P]
        prompt_lengths=np.array([len(prompt.token_ids) for prompt in prompts], dtype=np.int64),  # [N]
        token_ids=_joined([each.token_ids for each in tokens], np.int32),  # [sum of T]
        completion_mask=_joined([each.completion_mask for each in tokens], np.bool_),  # [sum of T]
        sequence_lengths=np.array([len(each.token_ids) for each in tokens], dtype=np.int64),  # [S]: T of each
        rollout_logprobs=_joined([each.rollout_logprobs for each in tokens], np.float32),  # [sum of C]
        rows=np.frombuffer(json.dumps(rows, allow_nan=False).encode(), dtype=np.uint8),  # [N] groups as JSON
    )
    write_atomically(_iteration_path(folder, iteration), file.getvalue())


def read_iteration(folder: Path, iteration: int) -> list[GradedGroup]:
    """The groups of an iteration as they were written; RecordingError where its file is missing or damaged."""
    path = _iteration_path(folder, iteration)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return _groups(arrays)
    except FileNotFoundError:
        raise RecordingError(f"{path}: is missing; record the run again") from None
    except (zipfile.BadZipFile, EOFError, ValueError, KeyError, TypeError) as error:
        raise RecordingError(f"{path}: is not readable ({type(error).__name__}: {error}); {REMEDY}") from error


def _groups(arrays: Mapping[str, np.ndarray]) -> list[GradedGroup]:
    """Raises ValueError, KeyError or TypeError where the arrays are not those of write_iteration."""
    rows = json.loads(arrays["rows"].tobytes())
    prompts = _split(arrays["prompt_token_ids"], arrays["prompt_lengths"])
    masks = _split(arrays["completion_mask"], arrays["sequence_lengths"])
    sequences = zip(
        [completion for row in rows for completion in row["completions"]],
        _split(arrays["token_ids"], arrays["sequence_lengths"]),
        masks,
        _split(arrays["rollout_logprobs"], np.array([np.count_nonzero(mask) for mask in masks], dtype=np.int64)),
        strict=True,
    )
    completions = iter(
        [
            Completion(
                tokens=SampledTokens(
                    token_ids=token_ids,
                    completion_mask=mask,
                    rollout_logprobs=logprobs,
                    version_starts=tuple(VersionStart(**start) for start in recorded["version_starts"]),
                ),
                text=recorded["text"],
                finished=recorded["finished"],
            )
            for recorded, token_ids, mask, logprobs in sequences
        ]
    )
    return [
        GradedGroup(
            group=PromptGroup(
                prompt=Prompt(token_ids=prompt_token_ids, **row["prompt"]),
                completions=tuple(islice(completions, len(row["completions"]))),
                engine_index=row["engine_index"],
                generate_s=row["generate_s"],
            ),
            verdicts=tuple(RewardVerdict.from_plain(verdict) for verdict in row["verdicts"]),
        )
        for row, prompt_token_ids in zip(rows, prompts, strict=True)
    ]


def _row(graded: GradedGroup) -> dict[str, Any]:
    """Everything of a group that is not an array."""
    group, prompt = graded.group, graded.group.prompt
    return {
        "prompt": {name: getattr(prompt, name) for name in ("position", "text", "reference_answer", "source")},
        "engine_index": group.engine_index,
        "generate_s": group.generate_s,
        "completions": [
            {
                "text": completion.text,
                "finished": completion.finished,
                "version_starts": [asdict(start) for start in completion.tokens.version_starts],
            }
            for completion in group.completions
        ],
        "verdicts": [asdict(verdict) for verdict in graded.verdicts],
    }


def _joined(arrays: Sequence[np.ndarray], dtype: type[np.generic]) -> np.ndarray:
    for array in arrays:
        assert array.dtype == dtype, f"{array.dtype} would be converted to {dtype.__name__} and not come back exactly"
    return np.concatenate(arrays)


def _split(array: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    if lengths.sum() != len(array):
        raise ValueError(f"{len(array)} entries for lengths that add up to {lengths.sum()}")
    return np.split(array, np.cumsum(lengths)[:-1])


def _iteration_path(folder: Path, iteration: int) -> Path:
    return folder / f"iteration-{iteration:06d}.npz"


def _iteration_files(folder: Path) -> list[tuple[int, Path]]:
    matches = ((re.fullmatch(r"iteration-(\d{6,})\.npz", path.name), path) for path in folder.glob("iteration-*.npz"))
    return sorted((int(match[1]), path) for match, path in matches if match)
