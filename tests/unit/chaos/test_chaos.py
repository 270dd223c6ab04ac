"""Chaos itself: its plans follow the seed, its damage leaves a way back, and it recognises what it looks for."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.chaos.checks import broken_promises, differences
from tests.chaos.plan import TARGETS, Event, Plan, plan_of
from tests.chaos.strikes import Stopped, damage_newest, processes_of, strike

ITERATIONS, PROMPTS = 6, 2


def plan(seed: int, round_: int, **more: Any) -> Plan:
    return plan_of(seed, round_, num_iterations=24, checkpoint_every=3, **more)


def test_a_seed_gives_the_same_plan_again_and_another_seed_or_round_another_one() -> None:
    assert plan(0, 1) == plan(0, 1)
    assert len({plan(seed, round_) for seed in range(3) for round_ in range(4)}) == 12
    assert [plan(0, round_).max_staleness for round_ in range(4)] == [0, 2, 0, 2]


def test_plans_hold_every_kind_of_event_and_leave_a_checkpoint_to_go_on_with() -> None:
    plans = [plan(seed, round_) for seed in range(10) for round_ in range(4)]
    events = [event for each in plans for event in each.events]
    kinds = {(event.kind, event.target) for event in events}
    assert {(kind, target) for kind in ("kill", "stop") for target in TARGETS} <= kinds
    assert {("hang", "engine"), ("hang", "rank"), ("hang", "grader"), ("damage", "driver"), ("damage", "rank")} <= kinds
    assert ("hang", "driver") not in kinds
    assert {event.damage for event in events if event.kind == "damage"} == {"flip", "truncate", "remove"}
    for each in plans:
        iterations = [event.iteration for event in each.events]
        assert iterations == sorted(set(iterations))
        assert 0 < iterations[0] <= iterations[-1] < 24
        damaged = [0, *(event.iteration for event in each.events if event.kind == "damage")]
        assert all(after - before >= 6 for before, after in pairwise(damaged))


def test_only_those_named_are_struck() -> None:
    events = [event for seed in range(10) for event in plan(seed, 0, targets=["driver"]).events]
    assert {event.target for event in events} == {"driver"}
    assert {event.kind for event in events} == {"kill", "stop", "damage"}


@pytest.mark.parametrize("how", ["flip", "truncate", "remove"])
@pytest.mark.parametrize("place", [0.0, 0.34, 0.999])
def test_one_file_of_the_newest_checkpoint_is_damaged(tmp_path: Path, how: Any, place: float) -> None:
    names = ("manifest.json", "rank-0/moments", "state.json")
    folders = [tmp_path / f"iteration-{number:06d}" for number in (3, 6)]
    for folder in folders:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"content of " + name.encode())
    (tmp_path / "iteration-000009.damaged-1").mkdir()
    (tmp_path / "tmp-iteration-000009").mkdir()
    struck = damage_newest(tmp_path, how, place)
    hurt = [
        f"{folder.name}/{name}"
        for folder in folders
        for name in names
        if not (folder / name).exists() or (folder / name).read_bytes() != b"content of " + name.encode()
    ]
    assert [f"damaged {name}" for name in hurt] == [struck]
    assert hurt[0].startswith("iteration-000006/")


def test_the_only_checkpoint_is_spared(tmp_path: Path) -> None:
    (tmp_path / "iteration-000003").mkdir()
    (tmp_path / "iteration-000003" / "manifest.json").write_text("{}")
    assert damage_newest(tmp_path, "remove", 0.5) == "no second checkpoint, nothing damaged"
    assert (tmp_path / "iteration-000003" / "manifest.json").exists()


def await_status(process: psutil.Process, *, is_stopped: bool) -> None:
    """Waits until the kernel has delivered the signal; the time-out of the test ends a wait in vain."""
    while (process.status() == psutil.STATUS_STOPPED) != is_stopped:
        time.sleep(0.01)


def test_a_process_of_the_driver_is_found_stopped_and_killed(tmp_path: Path) -> None:
    child = "print(flush=True); input()"
    program = (
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}, 'ray::RolloutEngine'])\ninput()"
    )
    driver = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    driver.stdout.readline()
    (engine,) = processes_of(psutil.Process(driver.pid), "engine")
    stopped = Stopped()
    settings = {"iteration": 1, "delay_s": 0.0, "target": "engine", "index": 1}
    strike(Event(kind="hang", **settings), psutil.Process(driver.pid), tmp_path, stopped)
    await_status(engine, is_stopped=True)
    stopped.release()
    await_status(engine, is_stopped=False)
    strike(Event(kind="kill", **settings), psutil.Process(driver.pid), tmp_path, stopped)
    engine.wait(timeout=60)
    assert strike(Event(kind="kill", **settings), psutil.Process(driver.pid), tmp_path, stopped) == "no engine is there"
    driver.communicate(b"\n")


def write_run(folder: Path, *, change: Callable[[dict[str, list[dict[str, Any]]]], None] = lambda files: None) -> Path:
    """A run one version ahead as it must be, changed by `change`."""
    files: dict[str, list[dict[str, Any]]] = {
        "metrics.jsonl": [
            {
                "iteration": k,
                "policy_version": k,
                "staleness/max": min(k, 1),
                "reward/mean": k / 7,
                "time/update_s": 0.1,
            }
            for k in range(ITERATIONS)
        ],
        "rollouts.jsonl": [
            {
                "iteration": k,
                "position": PROMPTS * k + place,
                "completions": [{"text": f"{k}", "min_policy_version": max(0, k - 1)}],
            }
            for k in range(ITERATIONS)
            for place in range(PROMPTS)
        ],
        "eval.jsonl": [{"iteration": 0, "eval/sums/pass@1": 0.5}],
    }
    change(files)
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.safetensors").write_bytes(b"weights")
    for name, rows in files.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def promises(folder: Path, max_staleness: int = 1) -> list[str]:
    counts = {"num_iterations": ITERATIONS, "num_prompts": PROMPTS}
    return list(broken_promises(folder, max_staleness=max_staleness, **counts))


def test_a_run_as_it_must_be_breaks_no_promise(tmp_path: Path) -> None:
    assert promises(write_run(tmp_path / "run")) == []
    other = write_run(tmp_path / "other", change=lambda files: files["metrics.jsonl"][2].update({"time/update_s": 9.0}))
    assert list(differences(other, tmp_path / "run")) == []


BREACHES: list[tuple[Callable[[dict[str, list[dict[str, Any]]]], Any], str]] = [
    (lambda files: files["metrics.jsonl"].pop(3), "has the iterations [0, 1, 2, 4, 5]"),
    (lambda files: files["metrics.jsonl"][3].update({"policy_version": 2}), "iteration 3: was trained from policy"),
    (lambda files: files["metrics.jsonl"][3].update({"staleness/max": 2}), "iteration 3: staleness 2 above the bound"),
    (lambda files: files["rollouts.jsonl"].pop(3), "missing [(1, 3)]"),
    (lambda files: files["rollouts.jsonl"].append(files["rollouts.jsonl"][0]), "more than once [(0, 0)]"),
    (lambda files: files["rollouts.jsonl"].reverse(), "in disorder"),
    (
        lambda files: files["rollouts.jsonl"][8]["completions"][0].update(min_policy_version=1),
        "sampled by policy version 1",
    ),
]


@pytest.mark.parametrize(("change", "told"), BREACHES)
def test_a_broken_promise_is_found(tmp_path: Path, change: Any, told: str) -> None:
    found = promises(write_run(tmp_path / "run", change=change))
    assert any(told in line for line in found), found


UNEQUAL: list[tuple[Callable[[dict[str, list[dict[str, Any]]]], Any], str]] = [
    (
        lambda files: files["metrics.jsonl"][3].update({"reward/mean": 0.1}),
        "metrics.jsonl, iteration 3: reward/mean is 0.1",
    ),
    (lambda files: files["eval.jsonl"].pop(), "eval.jsonl has 0 rows, undisturbed 1"),
    (lambda files: files["rollouts.jsonl"][4]["completions"][0].update(text="x"), "other completions at positions [4]"),
]


@pytest.mark.parametrize(("change", "told"), UNEQUAL)
def test_a_difference_from_the_undisturbed_run_is_found(tmp_path: Path, change: Any, told: str) -> None:
    undisturbed = write_run(tmp_path / "undisturbed")
    (line,) = differences(write_run(tmp_path / "run", change=change), undisturbed)
    assert told in line


def test_other_weights_are_found(tmp_path: Path) -> None:
    undisturbed, run = write_run(tmp_path / "undisturbed"), write_run(tmp_path / "run")
    (run / "model" / "model.safetensors").write_bytes(b"Weights")
    assert list(differences(run, undisturbed)) == [
        "model/model.safetensors has other bytes than that of the undisturbed run"
    ]
