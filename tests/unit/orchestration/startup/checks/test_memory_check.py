"""The estimate of a run's memory against machines of every size."""

from pathlib import Path

import pytest

from configs.loading import load_config
from orchestration.startup.checks import machine, memory
from orchestration.startup.checks.machine import memory_bytes, smallest_gpu_bytes
from orchestration.startup.checks.memory import check_memory
from orchestration.startup.checks.result import Check

BILLION = 10**9
CPU = ("cluster.device=cpu", "rollout.kv_cache_gib=1", "learner.zero_stage=1")


def on_cpu(patch: pytest.MonkeyPatch, *settings: str, total: float, free: float, trains: bool = True) -> Check:
    patch.setattr(memory, "memory_bytes", lambda: (int(total), int(free)))
    return check_memory(load_config([*CPU, *settings]), BILLION, trains=trains)


# A float32 engine holds 4 GB and its cache; a rank at stage 1 weights, gradients, a copy and two moments: 20 GB.
NEEDED = 4e9 + 2**30 + 20e9


@pytest.mark.parametrize(
    ("total", "free", "mistakes", "notices"),
    [(NEEDED - 1, 0, 1, 0), (NEEDED, NEEDED - 1, 0, 1), (2 * NEEDED, NEEDED, 0, 0)],
)
def test_the_impossible_is_refused_and_the_doubtful_noted(
    monkeypatch: pytest.MonkeyPatch, total: float, free: float, mistakes: int, notices: int
) -> None:
    check = on_cpu(monkeypatch, total=total, free=free)
    assert (len(check.mistakes), len(check.notices)) == (mistakes, notices)
    for line in (*check.mistakes, *check.notices):
        assert line.startswith("model.path=embedded: with 1,000,000,000 parameters the run needs at least 25.1 GB of ")


def test_an_evaluation_needs_engines_only_and_adapters_count_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert on_cpu(monkeypatch, total=6e9, free=6e9, trains=False).mistakes == ()
    assert on_cpu(monkeypatch, "learner.lora.rank=8", total=10e9, free=10e9).mistakes == ()


def test_more_processes_than_cpus_are_left_to_the_placement(monkeypatch: pytest.MonkeyPatch) -> None:
    check = on_cpu(monkeypatch, "rollout.num_engines=100000", total=1, free=1)
    assert check.mistakes == ()
    assert "more CPUs than this machine has" in check.found


def fake_smi(folder: Path, patch: pytest.MonkeyPatch, *lines: str, status: int = 0) -> None:
    """A command nvidia-smi that prints these lines."""
    script = folder / "nvidia-smi"
    script.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines) + f"exit {status}\n")
    script.chmod(0o755)
    patch.setenv("PATH", str(folder), prepend=":")


def test_the_smallest_gpu_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_smi(tmp_path, monkeypatch, "81559", "40960")
    assert smallest_gpu_bytes() == 40960 * 2**20
    fake_smi(tmp_path, monkeypatch, "no devices were found", status=9)
    assert smallest_gpu_bytes() is None


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ([], ["a learner rank needs at least 18.0 GB, its share of a GPU is 10.7 GB"]),
        (["learner.num_workers=4", "learner.zero_stage=3"], []),
        (["learner.lora.rank=8", "rollout.gpu_memory_utilization=0.1"], ["an engine's worker holds weights of 2.0 GB"]),
    ],
)
def test_a_rank_and_a_worker_must_fit_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str], told: list[str]
) -> None:
    fake_smi(tmp_path, monkeypatch, "10240")
    config = load_config(["learner.dtype=bfloat16", "learner.zero_stage=2", "rollout.dtype=bfloat16", *settings])
    mistakes = check_memory(config, BILLION, trains=True).mistakes
    assert len(mistakes) == len(told)
    assert all(part in line for part, line in zip(told, mistakes, strict=True))


def test_the_planners_objection_is_a_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_smi(tmp_path, monkeypatch, "100")
    config = load_config(["learner.max_tokens_per_micro_batch=200000", "learner.max_logits=40000000"])
    check = check_memory(config, 298_880, trains=True)
    assert check.mistakes == ()
    (line,) = check.notices
    assert line.startswith("memory is doubtful: a learner rank needs ")


def test_the_limit_of_a_control_group_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    total, free = memory_bytes()
    assert 0 < free <= total
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("123456\n")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    assert memory_bytes()[0] == 123456
