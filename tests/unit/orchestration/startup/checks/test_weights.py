"""Weights by the headers of real safetensors files, whole and damaged."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from orchestration.startup.checks.weights import INDEX_FILE, read_weights

EMBEDDING = {"model.embed_tokens.weight": np.zeros((8, 4), np.float32)}
LAYER = {"model.layers.0.w": np.zeros((3, 5), np.float16), "model.layers.0.b": np.zeros(3, np.float16)}


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """A model in two files with an index."""
    save_file(EMBEDDING, tmp_path / "model-1.safetensors")
    save_file(LAYER, tmp_path / "model-2.safetensors")
    named = dict.fromkeys(EMBEDDING, "model-1.safetensors") | dict.fromkeys(LAYER, "model-2.safetensors")
    (tmp_path / INDEX_FILE).write_text(json.dumps({"weight_map": named}))
    return tmp_path


def test_parameters_and_rows_are_counted(split: Path) -> None:
    weights = read_weights(split)
    assert (weights.num_parameters, weights.embedding_rows, weights.mistakes) == (8 * 4 + 3 * 5 + 3, 8, ())


def test_one_file_needs_no_index(tmp_path: Path) -> None:
    save_file(EMBEDDING, tmp_path / "model.safetensors")
    save_file(LAYER, tmp_path / "adapter.safetensors")
    assert read_weights(tmp_path).num_parameters == 32


def test_other_weights_are_left_to_the_library(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    weights = read_weights(tmp_path)
    assert (weights.num_parameters, weights.mistakes) == (None, ())


def test_every_damaged_file_is_named(split: Path) -> None:
    (split / "model-1.safetensors").unlink()
    path = split / "model-2.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    first, second = read_weights(split).mistakes
    assert first == "model-1.safetensors: No such file or directory; download it again"
    size = path.stat().st_size
    assert second == f"model-2.safetensors: has {size:,} bytes, its header says {size + 1:,}; download it again"
    assert read_weights(split).num_parameters is None


@pytest.mark.parametrize("content", [b"", b"1234567", b"\xff" * 64, b"\x10" + b"\0" * 7 + b"{" * 16, b"<html>" * 20])
def test_what_is_no_safetensors_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    (line,) = read_weights(tmp_path).mistakes
    assert line.startswith("model.safetensors: ")
    assert line.endswith("; download it again")


def test_a_tensor_that_only_the_index_has_is_named(split: Path) -> None:
    save_file({"other": np.zeros(1, np.float32)}, split / "model-2.safetensors")
    (line,) = read_weights(split).mistakes
    assert line.startswith(
        "model-2.safetensors: has not the tensor model.layers.0.b, which model.safetensors.index.json"
    )


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": 3}'])
def test_an_index_that_cannot_be_read_is_named(split: Path, text: str) -> None:
    (split / INDEX_FILE).write_text(text)
    (line,) = read_weights(split).mistakes
    assert line.startswith(f"{INDEX_FILE}: is not readable (")
