"""Files for the figures of benchmarks."""

import json
from datetime import datetime
from pathlib import Path

RESULTS = Path("benchmarks/results")


def result_path(given: Path | None, *, name: str) -> Path:
    """The given file, or a new one named by the time; its folder is created."""
    target = given or RESULTS / f"{name}-{datetime.now():%Y-%m-%d-%H%M%S}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def write_figures(target: Path, figures: object) -> None:
    """Writes the figures as indented JSON."""
    target.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
