"""The gate benchmark measures every gate, stores the printed figures, and finds regressions."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from gates import GATES
from gates import benchmark as gates_benchmark
from gates.benchmark_report import (
    LABELS,
    NUMBERS,
    GateTiming,
    plot_timings,
    print_timings,
    read_timings,
    regressions,
    write_timings,
)

PHASES = ("forward", "forward+backward")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates_benchmark, "SHORTEST_SAMPLE_S", 1e-4)
    monkeypatch.setattr(gates_benchmark, "COPY_BYTES", 2**16)


def timing(**changes: object) -> GateTiming:
    base = GateTiming(
        gate="erf",
        implementation="eager",
        phase="forward",
        num_tokens=1000,
        device="cpu",
        num_threads=1,
        seconds=1e-3,
        extra_bytes=4000,
        copy_gigabytes_per_s=10.0,
    )
    return replace(base, **changes)


def test_every_gate_size_phase_and_implementation() -> None:
    timings = gates_benchmark.benchmark_gates([16, 1000], repeats=3, device="cpu", compiled=False)
    found = [(t.num_tokens, t.gate, t.phase, t.implementation) for t in timings]
    assert found == [
        (size, name, phase, implementation)
        for size in (16, 1000)
        for name in GATES
        for phase in PHASES
        for implementation in ("eager", "fused")
    ]
    assert all(t.seconds > 0 and t.copy_gigabytes_per_s > 0 and t.extra_bytes > 0 for t in timings)


def test_figures_follow_from_the_time() -> None:
    assert timing().tokens_per_s == pytest.approx(1e6)
    assert timing().gigabytes_per_s == pytest.approx(0.025)
    assert timing(phase="forward+backward").gigabytes_per_s == pytest.approx(0.029)
    assert timing().share_of_copy == pytest.approx(0.0025)


def test_peak_memory_counts_what_is_held_at_once() -> None:
    def work() -> torch.Tensor:
        first = torch.ones(1000)
        del first
        second = torch.ones(2000)
        return second + 1

    assert gates_benchmark.peak_extra_bytes(work, torch.device("cpu")) == pytest.approx(16_000, abs=64)


def test_implementations_are_measured_in_turn() -> None:
    order: list[str] = []
    works = {name: lambda name=name: order.append(name) for name in ("eager", "fused")}
    gates_benchmark._median_seconds(works, 3, torch.device("cpu"))
    runs = [name for i, name in enumerate(order) if i == 0 or order[i - 1] != name]
    assert runs[-6:] == ["eager", "fused"] * 3


def test_command_prints_tables_writes_json_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    json_path, plot_path = tmp_path / "gates.json", tmp_path / "gates.png"
    arguments = ["--sizes", "64", "128", "--repeats", "1", "--device", "cpu", "--no-compile"]
    assert gates_benchmark.main([*arguments, "--json", str(json_path), "--plot", str(plot_path)]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*GATES, "64 tokens", "128 tokens", "fwd+bwd", "fused"))
    assert max(len(line) for line in printed.splitlines()) <= 80
    assert plot_path.read_bytes().startswith(b"\x89PNG")
    rows = json.loads(json_path.read_text())["timings"]
    assert len(rows) == 2 * len(GATES) * 4
    assert all(row["share_of_copy"] == row["gigabytes_per_s"] / row["copy_gigabytes_per_s"] for row in rows)


def test_every_number_has_its_unit(capsys: pytest.CaptureFixture[str]) -> None:
    assert all(number.endswith(("(ms)", "(ratio)", "(M/s)", "(GB/s)", "(%)", "(MB)")) for number in NUMBERS)
    print_timings([timing()], Console(width=80))
    printed = capsys.readouterr().out
    assert all(word in printed for header in (*LABELS, *NUMBERS) for word in header.split("\n"))


def test_json_round_trip_and_regressions(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    old = [timing(), timing(implementation="fused", num_tokens=4096), timing(gate="clip")]
    write_timings(old, path)
    assert read_timings(path) == old
    slower = replace(old[1], seconds=1.2e-3)
    assert regressions(old, [replace(old[0], seconds=1.09e-3), slower, timing(device="other", seconds=9.0)]) == [
        "regression: erf fused forward, 4,096 tokens: 1.200 ms, was 1.000 ms (+20%)"
    ]
    with pytest.raises(ValueError, match=r"--compare: no gate, size, device .* in common"):
        regressions(old, [timing(num_tokens=7)])


def test_compare_ends_with_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--sizes", "64", "--repeats", "1", "--device", "cpu", "--no-compile"]
    timings = gates_benchmark.benchmark_gates([64], repeats=1, device="cpu", compiled=False)
    for factor, status in ((100.0, 0), (0.01, 1)):
        path = tmp_path / "old.json"
        write_timings([replace(t, seconds=factor * t.seconds) for t in timings], path)
        assert gates_benchmark.main([*arguments, "--compare", str(path)]) == status
    assert "regression: power fused forward+backward, 64 tokens: " in capsys.readouterr().out


def test_compiled_is_the_reference_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: compiled.append(function) or function)
    timings = gates_benchmark.benchmark_gates([16], repeats=1, device="cpu")
    assert {t.implementation for t in timings} == {"eager", "compiled", "fused"}
    assert compiled == [gates_benchmark.reference_loss] * len(GATES)


def test_one_gate_draws_alone(tmp_path: Path) -> None:
    plot_timings([timing(phase="forward+backward")], tmp_path / "one.svg")
    assert "<svg" in (tmp_path / "one.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sizes", "0"], "must be at least 1"),
        (["--repeats", "0"], "must be at least 1"),
        (["--threads", "0"], "must be at least 1"),
        (["--plot", "figure.txt"], "must end with .png, .svg, .pdf"),
        (["--full", "--sizes", "8"], "not allowed with argument"),
        (["--compare", "missing.json"], "--compare missing.json: not a file"),
    ],
)
def test_mistaken_options_are_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        gates_benchmark.main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
