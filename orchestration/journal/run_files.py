"""Names of the files in the folders of a run and a study; docs/metrics.md describes their content."""

from pathlib import Path

METRICS_FILE = "metrics.jsonl"
CONFIG_FILE = "config.yaml"
ROLLOUTS_FILE = "rollouts.jsonl"
EVAL_FILE = "eval.jsonl"
NOTICES_FILE = "notices.jsonl"
TRACE_FILE = "trace.json"
CHECKPOINT_FOLDER = "checkpoints"
LOG_FOLDER = "logs"  # folder of a study with one log for each arm


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a log; none where there is no log."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 200 * count))
        return file.read().decode("utf-8", errors="replace").splitlines()[-count:]
