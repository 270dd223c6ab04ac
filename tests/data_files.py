"""Data sets for tests: a few dozen rows of our own in the columns of the public sets, and copies of the real ones.

The copies lie beside the repository where there are any, and are no part of it; `needs_copies` skips a test elsewhere.
"""

from pathlib import Path

import pytest

from configs.loading import load_config
from configs.schema import RunConfig

ROOT = Path(__file__).resolve().parents[1]
OWN = ROOT / "tests" / "data"
COPIES = ROOT.parent / "shared" / "data"
OWN_FILES = {
    "train.gsm8k": OWN / "gsm8k_style.jsonl",
    "train.deepmath": OWN / "deepmath_style.jsonl",
    "eval.gsm8k": OWN / "gsm8k_style.jsonl",
    "eval.math500": OWN / "math500_style.jsonl",
    "eval.aime24": OWN / "aime_style.jsonl",
}
COPIED_FILES = {
    "train.gsm8k": COPIES / "gsm8k_train.jsonl",
    "train.deepmath": COPIES / "deepmath_sample.jsonl",
    "eval.gsm8k": COPIES / "gsm8k_test.jsonl",
    "eval.math500": COPIES / "math500_test.jsonl",
    "eval.aime24": COPIES / "aime24_test.jsonl",
    "eval.aime25": COPIES / "aime25_test.jsonl",
}
HAS_COPIES = all(path.is_file() for path in COPIED_FILES.values())
LONG_SEQUENCES = ("model=qwen2_5_7b_instruct", "learner=paper")  # settings with room for prompts of this length

needs_copies = pytest.mark.skipif(not HAS_COPIES, reason=f"no copies of the public data sets in {COPIES}")


def path_settings(files: dict[str, Path]) -> list[str]:
    """Settings of task=gsm8k_deepmath with every data set from a file; evaluation sets without one are left out."""
    names = [f"eval.{name}" for name in ("gsm8k", "math500", "aime24", "aime25")]
    left_out = [f"task.{name}=null" for name in names if name not in files]
    return ["task=gsm8k_deepmath", *left_out, *(f"task.{name}.path={path}" for name, path in files.items())]


def data_config(files: dict[str, Path], *settings: str) -> RunConfig:
    """The configuration of task=gsm8k_deepmath on these files."""
    return load_config([*LONG_SEQUENCES, *path_settings(files), *settings])


def custom_config(path: Path, *settings: str) -> RunConfig:
    """The configuration of task=custom with one training set, `mine`."""
    return load_config([*LONG_SEQUENCES, "task=custom", f"task.train.mine.path={path}", *settings])
