"""Recorded groups come back bit for bit, or with a reason why not."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sampled import one_turn, versions
from verdicts import verdict_of

from configs import files
from rollout.contract import Completion, GradedGroup, Prompt, PromptGroup, SampledTokens
from rollout.recording import (
    Manifest,
    RecordingError,
    discard_from,
    num_recorded,
    read_iteration,
    read_manifest,
    vocabulary_digest,
    write_iteration,
    write_manifest,
)

MANIFEST = Manifest(settings={"seed": 7, "rollout": {"temperature": 0.1}}, vocabulary="abc")
SMALLEST = float(np.nextafter(np.float32(0), np.float32(-1)))  # a denormal: lost in any text with too few digits


def recorded_group(rng: np.random.Generator, *, index: int, num_completions: int) -> GradedGroup:
    completions = []
    for sample in range(num_completions):
        length = int(rng.integers(1, 9))
        logprobs = -rng.random(length).astype(np.float32)
        logprobs[0] = SMALLEST
        mask = np.array([False] * (index + 1) + [True] * length)
        if index == 2:  # a turn of tokens that were not sampled lies before its last sampled token
            mask = np.insert(mask, -1, [False, False])
        tokens = SampledTokens(
            token_ids=rng.integers(0, 2**31 - 1, len(mask)).astype(np.int32),
            completion_mask=mask,
            rollout_logprobs=logprobs,
            version_starts=versions((sample, 0), (sample + 1, 1))[:length],
        )
        completions.append(
            Completion(
                tokens=tokens,
                text=f'"{sample}"\n\\ü\ud800<answer>',  # a lone surrogate is what a tokenizer may leave
                finished=bool(sample % 2),
            )
        )
    prompt = Prompt(
        position=index,
        token_ids=rng.integers(0, 99, index + 1).astype(np.int32),
        text=f"problem {index}?",
        reference_answer="1/3",
        source="arithmetic",
    )
    group = PromptGroup(prompt=prompt, completions=tuple(completions), engine_index=index % 2, generate_s=0.1 + 0.2)
    verdicts = tuple(verdict_of(format=0.25, answer=1 / (3 + sample)) for sample in range(num_completions))
    return GradedGroup(group=group, verdicts=verdicts)


def groups_of(seed: int) -> list[GradedGroup]:
    rng = np.random.default_rng(seed)
    return [recorded_group(rng, index=index, num_completions=2 + index) for index in range(3)]


def without_arrays(group: PromptGroup) -> PromptGroup:
    none = np.zeros(9)  # as long as the longest completion, which its version_starts must fit
    completions = tuple(
        replace(c, tokens=one_turn([0], none, starts=c.tokens.version_starts)) for c in group.completions
    )
    return replace(group, prompt=replace(group.prompt, token_ids=none), completions=completions)


def test_groups_come_back_bit_for_bit(tmp_path: Path) -> None:
    written = groups_of(0)
    write_iteration(tmp_path, 4, written)
    read = read_iteration(tmp_path, 4)
    for graded, recorded in zip(read, written, strict=True):
        assert graded.verdicts == recorded.verdicts
        group, expected = graded.group, recorded.group
        pairs = [(group.prompt.token_ids, expected.prompt.token_ids)]
        for completion, other in zip(group.completions, expected.completions, strict=True):
            pairs.append((completion.tokens.token_ids, other.tokens.token_ids))
            pairs.append((completion.tokens.completion_mask, other.tokens.completion_mask))
            pairs.append((completion.tokens.rollout_logprobs, other.tokens.rollout_logprobs))
        for array, original in pairs:
            assert array.dtype == original.dtype
            assert array.tobytes() == original.tobytes()
        assert repr(without_arrays(group)) == repr(without_arrays(expected))


def test_a_file_holds_no_pickle(tmp_path: Path) -> None:
    write_iteration(tmp_path, 0, groups_of(0))
    with np.load(tmp_path / "iteration-000000.npz", allow_pickle=False) as file:
        assert {file[name].dtype.kind for name in file.files} <= {"i", "u", "f", "b"}
    np.savez(tmp_path / "iteration-000001.npz", rows=np.array([{"a": 1}], dtype=object))
    with pytest.raises(RecordingError, match=r"iteration-000001\.npz: is not readable"):
        read_iteration(tmp_path, 1)


def test_a_crash_while_writing_leaves_the_iteration_before_it_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_iteration(tmp_path, 0, groups_of(0))

    def crash(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "fsync", crash)
    with pytest.raises(OSError, match="disk full"):
        write_iteration(tmp_path, 1, groups_of(1))
    assert num_recorded(tmp_path) == 1
    monkeypatch.undo()
    write_iteration(tmp_path, 1, groups_of(1))
    assert num_recorded(tmp_path) == 2


def test_iterations_count_from_zero_to_the_first_gap(tmp_path: Path) -> None:
    assert num_recorded(tmp_path) == 0
    for iteration in (0, 1, 2, 4):
        write_iteration(tmp_path, iteration, groups_of(iteration))
    assert num_recorded(tmp_path) == 3
    discard_from(tmp_path, 1)
    assert os.listdir(tmp_path) == ["iteration-000000.npz"]


def test_an_iteration_is_written_over(tmp_path: Path) -> None:
    write_iteration(tmp_path, 0, groups_of(0))
    write_iteration(tmp_path, 0, groups_of(1))
    (graded, *_), (expected, *_) = read_iteration(tmp_path, 0), groups_of(1)
    found, written = (item.group.completions[0].tokens.token_ids for item in (graded, expected))
    assert found.tolist() == written.tolist()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_named(tmp_path: Path, share: float) -> None:
    write_iteration(tmp_path, 0, groups_of(0))
    path = tmp_path / "iteration-000000.npz"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(RecordingError, match=r"iteration-000000\.npz: is not readable"):
        read_iteration(tmp_path, 0)


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    write_iteration(tmp_path, 0, groups_of(0))
    path = tmp_path / "iteration-000000.npz"
    content = bytearray(path.read_bytes())
    content[content.index(b"problem 0?")] ^= 1
    path.write_bytes(content)
    with pytest.raises(RecordingError, match="CRC"):
        read_iteration(tmp_path, 0)


def test_arrays_and_rows_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    write_iteration(tmp_path, 0, groups_of(0))
    path = tmp_path / "iteration-000000.npz"
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    rows = json.loads(arrays["rows"].tobytes())
    rows[0]["completions"].pop()
    fewer = {"rows": np.frombuffer(json.dumps(rows).encode(), dtype=np.uint8)}
    cut = [{name: arrays[name][1:]} for name in ("token_ids", "completion_mask", "rollout_logprobs", "prompt_lengths")]
    for damage in (fewer, *cut):
        np.savez(path, **{**arrays, **damage})
        with pytest.raises(RecordingError, match="record again"):
            read_iteration(tmp_path, 0)


def test_a_missing_iteration_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"iteration-000005\.npz: is missing"):
        read_iteration(tmp_path, 5)


def test_the_manifest_comes_back(tmp_path: Path) -> None:
    write_manifest(tmp_path / "new" / "folder", MANIFEST)
    assert read_manifest(tmp_path / "new" / "folder") == MANIFEST


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not readable"),
        ("[]", "is not readable"),
        ('{"format_version": 3}', "is not readable"),
        ('{"format_version": 2, "settings": {}, "vocabulary": ""}', "has format version 2, this program reads 3"),
        ('{"format_version": 99}', "has format version 99, this program reads 3"),
    ],
)
def test_a_manifest_of_another_program_is_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(RecordingError, match=words) as caught:
        read_manifest(tmp_path)
    assert "record again" in str(caught.value)


def test_the_digest_of_a_vocabulary_knows_tokens_and_ids_but_no_order() -> None:
    digest = vocabulary_digest({"a": 0, "b": 1})
    assert digest == vocabulary_digest({"b": 1, "a": 0})
    assert digest != vocabulary_digest({"a": 1, "b": 0})
    assert digest != vocabulary_digest({"a": 0, "c": 1})
