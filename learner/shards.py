"""How a learner's checkpoint folder is split over ranks, and whether every rank has written its share.

In: a folder. Out: plain numbers, or a ValueError that names the setting to change. Imports neither torch nor DeepSpeed,
so that the driver can read these files too.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

LAYOUT_FILE = "learner.json"
SHARED_FOLDER_REMEDY = "set run_dir to a folder on a file system that all nodes share"

_SETTINGS = {"num_ranks": "learner.num_workers", "zero_stage": "learner.zero_stage", "dtype_name": "learner.dtype"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardLayout:
    """How weights and optimizer state are split over files; only a learner with the same layout can read them."""

    num_ranks: int
    zero_stage: int
    dtype_name: str  # dtype of the weights

    def write(self, folder: Path) -> None:
        """Writes the layout into the folder."""
        (folder / LAYOUT_FILE).write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "ShardLayout":
        """The layout of the folder. Raises FileNotFoundError where no learner has written a checkpoint."""
        path = folder / LAYOUT_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{folder}: no learner checkpoint there")
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def require_equal(self, folder: Path) -> None:
        """Raises ValueError where the folder has another layout, FileNotFoundError where it has none."""
        own, saved = asdict(self), asdict(ShardLayout.read(folder))
        differing = [field for field in own if own[field] != saved[field]]
        if differing:
            here, there = (
                ", ".join(f"{_SETTINGS[field]}={layout[field]}" for field in differing) for layout in (own, saved)
            )
            raise ValueError(f"{here}: the checkpoint {folder} was written with {there}; resume with that")


def random_state_file(folder: Path, rank: int) -> Path:
    """Path of a rank's random state: the last file that the rank writes."""
    return folder / f"random_state_rank{rank}.pt"


def missing_shards(folder: Path, *, num_ranks: int) -> list[int]:
    """Ranks whose share is not in the folder: they wrote into a folder of the same name on another disk."""
    return [rank for rank in range(num_ranks) if not random_state_file(folder, rank).is_file()]


def require_folder(folder: Path) -> None:
    """Raises FileNotFoundError where this process does not see the folder.

    It is not created here, because it could then be private to the node.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder on this node; {SHARED_FOLDER_REMEDY}")
