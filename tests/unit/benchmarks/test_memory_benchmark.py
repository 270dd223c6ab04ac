"""The memory benchmark: lines through samples, and the memory of processes that are there."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.memory import KIB, MIB, Sample, draw, growth, memory_by_kind

ROOT = Path(__file__).resolve().parents[3]


def samples(*, start: int, kib_per_iteration: float) -> list[Sample]:
    """A process that takes 50 MiB more in its first 100 iterations, and then so much an iteration, with ripples."""
    found = []
    for iteration in range(2, 301, 2):
        warm_up = min(iteration, 100) / 100 * 50 * MIB
        grown = max(0, iteration - 100) * kib_per_iteration * KIB
        size = int(start + warm_up + grown + (iteration % 4) * KIB)
        found.append(Sample(iteration=iteration, taken_bytes=size, rss_bytes=2 * size))
    return found


@pytest.mark.parametrize("rate", [0.0, 12.0])
def test_the_growth_is_that_after_the_warm_up(rate: float) -> None:
    found = growth("engine", samples(start=100 * MIB, kib_per_iteration=rate))
    assert found.kib_per_iteration == pytest.approx(rate, abs=0.01)
    assert found.second_half_kib == pytest.approx(rate, abs=0.02)
    assert found.rss_kib_per_iteration == pytest.approx(2 * rate, abs=0.02)
    assert found.error_kib < 0.01
    assert found.first_mib == pytest.approx(150.0, abs=0.1)


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="engine: 2 samples after 100 iterations"):
        growth("engine", samples(start=0, kib_per_iteration=0.0)[:51])


def test_processes_are_told_by_their_command_lines_and_measured_with_their_children() -> None:
    child = "data = b'x' * 50_000_000; print(flush=True); input()"
    program = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}, 'ray::RolloutEngine'])\nchild.wait()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, "orchestration/run.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    process.stdout.readline()
    found = memory_by_kind(psutil.Process(process.pid))
    process.communicate(b"\n")
    assert found.keys() == {"driver", "engine"}
    assert 50_000_000 < found["engine"][0] < 80_000_000
    assert found["driver"][0] < found["driver"][1]


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    draw({"driver": samples(start=MIB, kib_per_iteration=1.0)}, tmp_path / "memory.png")
    assert (tmp_path / "memory.png").read_bytes().startswith(b"\x89PNG")
