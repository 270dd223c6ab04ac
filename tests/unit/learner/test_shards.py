"""What a checkpoint folder of the learner tells before any tensor is read."""

from dataclasses import replace
from pathlib import Path

import pytest

from learner.shards import ShardLayout, missing_shards, random_state_file, require_folder

LAYOUT = ShardLayout(num_ranks=4, zero_stage=3, dtype_name="bfloat16")


def test_the_layout_that_was_written_is_accepted(tmp_path: Path) -> None:
    LAYOUT.write(tmp_path)
    assert ShardLayout.read(tmp_path) == LAYOUT
    LAYOUT.require_equal(tmp_path)


@pytest.mark.parametrize(
    ("other", "here", "there"),
    [
        (replace(LAYOUT, num_ranks=2), "learner.num_workers=2", "learner.num_workers=4"),
        (replace(LAYOUT, zero_stage=2), "learner.zero_stage=2", "learner.zero_stage=3"),
        (replace(LAYOUT, dtype_name="float32"), "learner.dtype=float32", "learner.dtype=bfloat16"),
        (
            replace(LAYOUT, num_ranks=1, zero_stage=2),
            "learner.num_workers=1, learner.zero_stage=2",
            "learner.num_workers=4, learner.zero_stage=3",
        ),
    ],
    ids=["ranks", "stage", "dtype", "two"],
)
def test_another_layout_is_refused_in_one_line_of_settings(
    tmp_path: Path, other: ShardLayout, here: str, there: str
) -> None:
    LAYOUT.write(tmp_path)
    with pytest.raises(ValueError) as caught:
        other.require_equal(tmp_path)
    assert str(caught.value) == f"{here}: the checkpoint {tmp_path} was written with {there}; resume with that"


def test_a_folder_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}: no learner checkpoint there"):
        LAYOUT.require_equal(tmp_path)


@pytest.mark.parametrize(("written", "missing"), [([0, 1, 2], []), ([1], [0, 2]), ([], [0, 1, 2])])
def test_ranks_without_files_are_listed(tmp_path: Path, written: list[int], missing: list[int]) -> None:
    for rank in written:
        random_state_file(tmp_path, rank).touch()
    assert missing_shards(tmp_path, num_ranks=3) == missing


def test_a_missing_folder_is_not_created(tmp_path: Path) -> None:
    require_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="absent: no such folder on this node; set run_dir to a folder"):
        require_folder(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()
