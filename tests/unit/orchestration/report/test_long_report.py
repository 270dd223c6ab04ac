"""The report of a long run: each file is read once, whatever its length."""

from pathlib import Path

import pytest

from configs.loading import dump_yaml, load_config
from orchestration.journal.json_lines import append_rows
from orchestration.report.run_report import write_run_report


def write_run(folder: Path, num_iterations: int) -> int:
    """A run of that length; the bytes of its files."""
    folder.mkdir()
    (folder / "config.yaml").write_text(dump_yaml(load_config([f"num_iterations={num_iterations}"])))
    metrics = {f"audit/softsign/m{number}": number / 7 for number in range(50)}
    iterations = range(num_iterations)
    append_rows(folder / "metrics.jsonl", [{"iteration": k, "reward/mean": k / 7, **metrics} for k in iterations])
    append_rows(folder / "eval.jsonl", [{"iteration": k, "eval/sums/pass@1": 0.5} for k in range(0, 2001, 100)])
    completion = {"text": "x" * 500, "reward": 1.0, "num_tokens": 3, "finished": True}
    rollouts = [
        {"iteration": k, "position": 16 * k, "prompt": "1+1=", "reference_answer": "2", "completions": [completion] * 2}
        for k in iterations
    ]
    append_rows(folder / "rollouts.jsonl", rollouts)
    return sum(path.stat().st_size for path in folder.iterdir())


def num_bytes_read() -> int:
    """Bytes that this process has read so far."""
    line = Path("/proc/self/io").read_text().splitlines()[0]
    return int(line.removeprefix("rchar: "))


def test_a_report_reads_what_a_run_left_once(tmp_path: Path) -> None:
    sizes, read = [], []
    for number, num_iterations in enumerate((10, 10, 1500)):  # the first loads the libraries that draw
        sizes.append(write_run(tmp_path / str(number), num_iterations))
        before = num_bytes_read()
        report = write_run_report(tmp_path / str(number))
        read.append(num_bytes_read() - before)
    # The fonts are read too, as often for any number of iterations.
    assert read[2] - read[1] == pytest.approx(sizes[2] - sizes[1], rel=0.3)
    assert "1500 of 1500 iterations" in report.read_text()
