"""Strikes: signals to a run's processes and damage to its files.

In: an event of the plan, and the driver that is alive. Out: what was struck, or a reason why nothing was there.
"""

import os
import signal
import threading
from pathlib import Path

import psutil

from tests.chaos.plan import Damage, Event, Target

NAMES: dict[Target, str] = {  # what a process's command line contains
    "engine": "ray::RolloutEngine",
    "rank": "ray::RankProcess",
    "grader": "ray::GraderWorker",
    "grader_child": "rollout.rewards.grader_child",
}


MANIFEST = "manifest.json"


class Stopped:
    """The processes that are stopped now; each continues by itself after its time, and all at the end of a round."""

    def __init__(self) -> None:
        self._processes: dict[psutil.Process, threading.Timer | None] = {}

    def stop(self, process: psutil.Process, seconds: float | None) -> None:
        """Stops a process, for good with None."""
        process.suspend()
        timer = None
        if seconds is not None:
            timer = threading.Timer(seconds, _resume, args=[process])
            timer.daemon = True
            timer.start()
        self._processes[process] = timer

    def release(self) -> None:
        """Lets every process go on that still exists, so that a signal to end reaches it."""
        for process, timer in self._processes.items():
            if timer is not None:
                timer.cancel()
            _resume(process)
        self._processes.clear()


def _resume(process: psutil.Process) -> None:
    try:
        process.resume()  # psutil sees to it that the id was not used again
    except psutil.NoSuchProcess:
        return


def processes_of(driver: psutil.Process, target: Target) -> list[psutil.Process]:
    """The living processes of a kind below the driver, in the order of their starts."""
    if target == "driver":
        return [driver]
    found = []
    for process in driver.children(recursive=True):
        try:
            if NAMES[target] in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return sorted(found, key=lambda process: process.create_time())


def strike(event: Event, driver: psutil.Process, run_dir: Path, stopped: Stopped) -> str:
    """Carries the event out; a line that names what was struck."""
    struck = f"{damage_newest(run_dir / 'checkpoints', event.damage, event.place)}, " if event.damage else ""
    try:
        found = processes_of(driver, event.target)
        if not found:
            return f"{struck}no {event.target} is there"
        process = found[event.index % len(found)]
        if event.kind in ("kill", "damage"):
            process.send_signal(signal.SIGKILL)
        else:
            stopped.stop(process, event.stopped_s if event.kind == "stop" else None)
    except psutil.NoSuchProcess:
        return f"{struck}the {event.target} has just ended by itself"
    return f"{struck}{event.target} is process {process.pid}"


def complete_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints that are written whole, oldest first."""
    return sorted(path for path in folder.glob("iteration-*") if path.suffix == "" and (path / MANIFEST).exists())


def damage_newest(folder: Path, how: Damage, place: float) -> str:
    """Damages one file of the newest complete checkpoint, unless it is the only one; says what was done."""
    complete = complete_checkpoints(folder)
    if len(complete) < 2:
        return "no second checkpoint, nothing damaged"
    newest = complete[-1]
    files = sorted(path for path in newest.rglob("*") if path.is_file())
    file = files[int(place * len(files))]
    if how == "remove":
        file.unlink()
    else:
        size = file.stat().st_size
        offset = int(place * 1000 % 1 * size)
        with file.open("r+b") as content:
            if how == "truncate":
                content.truncate(offset)
            else:
                content.seek(offset)
                (byte,) = content.read(1)
                content.seek(offset)
                content.write(bytes([byte ^ 1 << int(place * 100_000 % 8)]))
                content.flush()
                os.fsync(content.fileno())
    return f"damaged {newest.name}/{file.relative_to(newest)}"
