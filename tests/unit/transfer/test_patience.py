"""Patience under a clock that the test moves, and in a process that is stopped: what counts, and how it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from transfer.patience import SLICE_S, STOPPED_S, Patience

WAITING = """
import sys, time
from pathlib import Path
from transfer.patience import Patience
print("waiting", flush=True)
for slice_s in Patience(2.0):
    if Path(sys.argv[1]).exists():
        break
    time.sleep(slice_s)
else:
    sys.exit("nothing has come")
"""


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("limit_s", [0.0, 0.3, SLICE_S, 2.2])
def test_the_slices_add_up_to_the_limit_and_a_last_look_follows(limit_s: float) -> None:
    clock, slices = Clock(), []
    for slice_s in Patience(limit_s, clock=clock):
        slices.append(slice_s)
        clock.now += slice_s
    assert sum(slices) == pytest.approx(limit_s)
    assert max(slices) <= SLICE_S
    assert slices[-1] == 0.0
    assert clock.now == pytest.approx(100.0 + limit_s)


def test_a_stop_counts_as_the_slice_in_which_it_fell() -> None:
    clock, looks = Clock(), 0
    for slice_s in Patience(2.0, clock=clock):
        looks += 1
        clock.now += 40.0 if looks == 2 else slice_s
    assert looks == 2.0 / SLICE_S + 1
    assert clock.now == pytest.approx(100.0 + 40.0 + 2.0 - SLICE_S)


def test_time_spent_between_two_looks_counts() -> None:
    clock, looks = Clock(), 0
    for slice_s in Patience(10.0, clock=clock):
        looks += 1
        clock.now += slice_s + STOPPED_S / 2
    assert looks == 8, "of 1.5 s each, the last of which ends the limit, and a last look"


def test_a_limit_can_be_shortened_but_not_lengthened() -> None:
    clock, waited = Clock(), 0.0
    patience = Patience(3600.0, clock=clock)
    for slice_s in patience:
        patience.shorten(1.0 - waited)
        waited += slice_s
        clock.now += slice_s
        patience.shorten(7200.0)
    assert waited == pytest.approx(1.0)


def test_a_process_that_was_stopped_for_longer_than_its_limit_gets_its_answer(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WAITING, str(tmp_path / "answer")]
    root = Path(__file__).parents[3]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(2.8)  # more than the limit, and than a slice and STOPPED_S
        os.kill(process.pid, signal.SIGCONT)
        time.sleep(0.2)
        (tmp_path / "answer").touch()  # in time, because the stop has cost a slice only
        _, told = process.communicate(timeout=300)
    assert (process.returncode, told) == (0, "")
