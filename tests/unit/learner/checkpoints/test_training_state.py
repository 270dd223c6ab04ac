"""The learner's state in files: what any number of ranks wrote, any other number reads, bit for bit."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from learner.checkpoints.fragments import Fragment, OptimizerState
from learner.checkpoints.tensor_files import Piece, ShardError, TensorFiles, write_tensors
from learner.checkpoints.training_state import copy_state, load_state, write_state
from transfer.fingerprints import fingerprint_of

SHAPES = {"embed": (7, 3), "norm": (5,), "scale": (1,), "head.weight": (4, 6)}


def model_of(seed: int, shapes: dict[str, Sequence[int]] | None = None) -> nn.Module:
    torch.manual_seed(seed)
    module = nn.Module()
    for name, shape in (shapes or SHAPES).items():
        *path, last = name.split(".")
        owner = module
        for part in path:
            owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        owner.register_parameter(last, nn.Parameter(torch.randn(*shape)))
    return module


def stage_0(model: nn.Module, *, rank: int = 0, num_ranks: int = 1, num_steps: int = 0) -> OptimizerState:
    """Plain AdamW, as DeepSpeed leaves it at stage 0, after some steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    for step in range(num_steps):
        torch.manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    engine: Any = SimpleNamespace(module=model, basic_optimizer=optimizer, optimizer=optimizer)
    return OptimizerState(engine, zero_stage=0, rank=rank, num_ranks=num_ranks)


def contents(state: OptimizerState) -> dict[str, Tensor]:
    return {
        f"{fragment.name} {kind}": tensor.clone()
        for fragment in state.fragments()
        for kind, tensor in state.tensors(fragment).items()
    }


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("num_steps", [0, 3])
@pytest.mark.parametrize(("num_ranks", "shard_bytes"), [(1, 2**30), (3, 40), (16, 1)])
def test_what_ranks_wrote_one_rank_reads(tmp_path: Path, num_ranks: int, shard_bytes: int, num_steps: int) -> None:
    states = [stage_0(model_of(1), rank=rank, num_ranks=num_ranks, num_steps=num_steps) for rank in range(num_ranks)]
    written: dict[str, Any] = {}
    for rank, state in enumerate(states):
        copy = copy_state(state, rank=rank, texts={"gate.json": "{}"} if rank == 0 else {})
        expected = contents(state)
        state.fragments()[0].master.detach().zero_()  # training goes on
        files = write_state(copy, tmp_path, shard_bytes=shard_bytes)
        assert not copy.tensors, "memory is given back"
        assert not written.keys() & files.keys()
        written |= files
    assert written == {path.name: fingerprint_of(path) for path in tmp_path.iterdir()}
    assert {"learner.json", "gate.json", "learner-0000-0000.safetensors"} <= written.keys()

    restored = stage_0(model_of(2))
    load_state(restored, tmp_path)
    assert_equal(contents(restored), expected)
    assert restored.num_steps() == num_steps


def test_elements_that_a_file_lacks_are_named(tmp_path: Path) -> None:
    write_state(copy_state(stage_0(model_of(1), num_ranks=2), rank=0, texts={}), tmp_path)
    with pytest.raises(ShardError, match=r"10 of elements 0 to 21 of embed \(weight\) are there"):
        load_state(stage_0(model_of(2)), tmp_path)


@pytest.mark.parametrize(
    ("shapes", "told"),
    [
        (SHAPES | {"norm": (6,)}, r"norm is \[5\] there and \[6\] in this model"),
        (SHAPES | {"lora": (2,)}, r"lora is absent there and \[2\] in this model"),
        ({"norm": (5,)}, r"embed is \[7, 3\] there and absent in this model"),
    ],
)
def test_another_model_is_refused_in_one_line(tmp_path: Path, shapes: dict[str, Sequence[int]], told: str) -> None:
    write_state(copy_state(stage_0(model_of(1)), rank=0, texts={}), tmp_path)
    with pytest.raises(ShardError, match=told) as caught:
        load_state(stage_0(model_of(1, shapes)), tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}: no learner checkpoint there"):
        load_state(stage_0(model_of(1)), tmp_path)
    with pytest.raises(FileNotFoundError, match="absent: no such folder on this node; set run_dir to a folder"):
        load_state(stage_0(model_of(1)), tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


def test_a_parameter_that_no_loss_depends_on_has_no_moments(tmp_path: Path) -> None:
    state = stage_0(model_of(1), num_steps=2)
    unused = state.fragments()[2]
    del state._adamw.state[unused.master]
    write_state(copy_state(state, rank=0, texts={}), tmp_path)
    restored = stage_0(model_of(2))
    load_state(restored, tmp_path)
    found, expected = contents(restored), contents(state)
    assert_equal({name: found[name] for name in expected}, expected)
    assert not any(tensor.any() for name, tensor in found.items() if name not in expected)


def test_the_files_are_what_the_library_reads(tmp_path: Path) -> None:
    tensors = {"exp_avg/10/a.weight": torch.randn(3), "weight/0/b": torch.randn(1)}
    write_tensors(tmp_path / "file.safetensors", tensors)
    assert_equal(load_file(tmp_path / "file.safetensors"), tensors)


def test_a_file_that_is_no_safetensors_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"not one")
    with pytest.raises(ShardError, match=r"a.safetensors: is not a safetensors file"), TensorFiles(tmp_path.iterdir()):
        pass


def test_pieces_are_joined_whatever_their_borders(tmp_path: Path) -> None:
    whole = torch.arange(10.0)
    for place, (begin, end) in enumerate([(4, 10), (0, 1), (1, 4)]):
        key = Piece(kind="weight", name="a/b", start=begin).key
        write_tensors(tmp_path / f"{place}.safetensors", {key: whole[begin:end].clone()})
    with TensorFiles(sorted(tmp_path.iterdir())) as files:
        for begin in range(10):
            for end in range(begin + 1, 11):
                target = torch.zeros(12)[1 : 1 + end - begin]
                files.read_into(target, Piece(kind="weight", name="a/b", start=begin))
                assert torch.equal(target, whole[begin:end])


def test_a_fragment_is_a_view() -> None:
    master = nn.Parameter(torch.zeros(2, 3))
    fragment = Fragment(name="a", start=10, size=2, master=master, offset=3)
    fragment.of(master).fill_(1.0)
    assert master.flatten().tolist() == [0, 0, 0, 1, 1, 0]
