"""The gate benchmark covers every gate and size, and stores what it prints."""

import json
from pathlib import Path

import pytest

from gates import GATES
from gates import benchmark as gates_benchmark


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates_benchmark, "SHORTEST_SAMPLE_S", 1e-4)
    monkeypatch.setattr(gates_benchmark, "COPY_BYTES", 2**16)


def test_every_gate_at_every_size() -> None:
    timings = gates_benchmark.benchmark_gates([16, 1000], 3, "cpu")
    assert [(t.num_tokens, t.gate) for t in timings] == [(size, name) for size in (16, 1000) for name in GATES]
    assert all(t.tokens_per_s > 0 and t.copy_gigabytes_per_s > 0 for t in timings)
    assert timings[0].gigabytes_per_s == pytest.approx(timings[0].tokens_per_s * 22 / 1e9)


def test_command_prints_a_table_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "gates.json"
    gates_benchmark.main(["--sizes", "64", "--repeats", "1", "--device", "cpu", "--json", str(path)])
    printed = capsys.readouterr().out
    rows = json.loads(path.read_text())
    assert [row["gate"] for row in rows] == list(GATES)
    assert all(name in printed for name in GATES)
    assert all(row["share_of_copy"] == row["gigabytes_per_s"] / row["copy_gigabytes_per_s"] for row in rows)


@pytest.mark.parametrize("arguments", [["--sizes", "0"], ["--repeats", "0"]])
def test_sizes_below_one_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        gates_benchmark.main(arguments)
    assert caught.value.code == 2
    assert "must be at least 1" in capsys.readouterr().err
