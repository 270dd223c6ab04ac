"""Keeps a Ray that this process starts out of reach of its terminal and process group, and ends it with this process.

Ctrl-C, and a SIGTERM to the whole group, then reach the driver alone, which still needs Ray to save a checkpoint.
Replaces two names of Ray that are not public.
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ray._private import services, utils

from orchestration.terminal.processes import end_processes
from orchestration.terminal.stopping import protect

# Kills the process groups that it reads, once nobody can write any more: the driver was killed. Ray's own agents would
# wait a minute for their node.
REAPER = "trap '' HUP INT TERM; groups=; while read -r pid; do groups=\"$groups -$pid\"; done; kill -9 $groups"


@contextmanager
def own_sessions() -> Iterator[Callable[[], None]]:
    """Processes of a Ray that starts inside get sessions of their own, and SIGTERM stays ours.

    At the end, or when this process is killed, no process of these sessions is left, whatever Ray has done. Gives a
    call that ends those of a start that has failed.
    """
    popen, set_handler = services.ConsolePopen, utils.set_sigterm_handler
    sessions: set[int] = set()
    with _reaper() as reaper:

        def start(*arguments: Any, **options: Any) -> Any:
            process = popen(*arguments, start_new_session=True, **options)
            sessions.add(process.pid)
            os.write(reaper, b"%d\n" % process.pid)
            return process

        def end() -> None:
            with protect():
                end_processes(sessions=sessions)

        services.ConsolePopen, utils.set_sigterm_handler = start, lambda handler: None
        try:
            yield end
        finally:
            services.ConsolePopen, utils.set_sigterm_handler = popen, set_handler
            end()


@contextmanager
def _reaper() -> Iterator[int]:
    """The descriptor through which a shell learns what to kill with this process."""
    reader, writer = os.pipe()  # not inherited by other processes
    with subprocess.Popen(["sh", "-c", REAPER], stdin=reader, start_new_session=True) as shell:
        os.close(reader)
        try:
            yield writer
        finally:
            shell.kill()
            shell.wait()
            os.close(writer)
