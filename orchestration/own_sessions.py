"""Keeps a Ray that this process starts out of reach of its terminal and of its process group.

Ctrl-C, and a SIGTERM to the whole group, then reach the driver alone, which still needs Ray to save a checkpoint.
Replaces two names of Ray that are not public.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray._private import services, utils

from orchestration.terminal.processes import end_processes
from orchestration.terminal.stopping import protect


@contextmanager
def own_sessions() -> Iterator[None]:
    """Processes of a Ray that starts inside get sessions of their own, and SIGTERM stays ours.

    At the end no process of these sessions is left, whatever Ray has done.
    """
    popen, set_handler = services.ConsolePopen, utils.set_sigterm_handler
    sessions: set[int] = set()

    def start(*arguments: Any, **options: Any) -> Any:
        process = popen(*arguments, start_new_session=True, **options)
        sessions.add(process.pid)
        return process

    services.ConsolePopen, utils.set_sigterm_handler = start, lambda handler: None
    try:
        yield
    finally:
        services.ConsolePopen, utils.set_sigterm_handler = popen, set_handler
        with protect():
            end_processes(sessions=sessions)
