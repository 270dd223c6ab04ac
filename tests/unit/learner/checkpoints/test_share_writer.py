"""A rank's share, written in the background: files with fingerprints, and errors where they are waited for."""

from pathlib import Path

import pytest
import torch
from learner_specs import softsign_spec

from learner.checkpoints.training_state import StateCopy
from learner.checkpoints.writing import Share, ShareWriter, seal
from transfer.fingerprints import fingerprint_of


def share_of(**tensors: torch.Tensor) -> Share:
    state = StateCopy(rank=1, tensors={f"weight/0/{name}": tensor for name, tensor in tensors.items()}, texts={})
    return Share(state=state, model=None)


def test_shares_are_written_one_after_the_other(tmp_path: Path) -> None:
    writer = ShareWriter(None, softsign_spec())  # type: ignore[arg-type]
    assert not writer.is_busy
    for place in range(2):
        folder = tmp_path / str(place)
        folder.mkdir()
        writer.start(share_of(a=torch.randn(5)), folder)
        written = writer.await_written()
        assert not writer.is_busy
        assert written == {path.name: fingerprint_of(path) for path in folder.iterdir()}
        assert list(written) == ["learner-0001-0000.safetensors"]


def test_what_kept_it_from_writing_is_raised_where_it_is_waited_for(tmp_path: Path) -> None:
    writer = ShareWriter(None, softsign_spec())  # type: ignore[arg-type]
    writer.start(share_of(a=torch.randn(5)), tmp_path / "absent")
    with pytest.raises(OSError, match=r"absent/learner-0001-0000\.safetensors"):
        writer.await_written()


def test_sealed_files_are_listed_by_their_path_below_the_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b").write_bytes(b"bb")
    (tmp_path / "a").write_bytes(b"a")
    sealed = seal(tmp_path)
    assert {name: file.num_bytes for name, file in sealed.items()} == {"a": 1, "sub/b": 2}
    assert sealed["sub/b"] == fingerprint_of(tmp_path / "sub" / "b")
