"""What a grader's processes print, on its way to the grader's own log: the first part of it in every hour.

In: bytes from a pipe. Out: bytes to a function that writes; the last line, for messages. Knows no process.
"""

import os
import threading
import time
from collections.abc import Callable

from transfer.last_hour import HOUR_S

HOURLY_BYTES = 256 * 1024  # bytes that pass within an hour; of a log that grows for days it is a few megabytes
TAIL_BYTES = 4096  # bytes kept to find the last line in
LAST_LINE_CHARACTERS = 300


class OutputLog:
    """Passes output on up to the hourly limit, and remembers its end. Any thread may call it."""

    def __init__(
        self,
        write: Callable[[bytes], object] = lambda chunk: os.write(2, chunk),
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write = write
        self._clock = clock
        self._lock = threading.Lock()
        self._left = HOURLY_BYTES
        self._hour_began = clock()
        self._tail = b""

    def add(self, chunk: bytes) -> None:
        with self._lock:
            self._tail = (self._tail + chunk)[-TAIL_BYTES:]
            if self._clock() - self._hour_began >= HOUR_S:
                self._left, self._hour_began = HOURLY_BYTES, self._clock()
            if self._left <= 0:
                return
            self._write(chunk[: self._left])
            self._left -= len(chunk)
            if self._left <= 0:
                self._write(f"\na grader's output beyond {HOURLY_BYTES:,} bytes within an hour is dropped\n".encode())

    def note(self, line: str) -> None:
        """A line of the grader's own."""
        self.add(f"{line}\n".encode(errors="backslashreplace"))

    def follow(self, descriptor: int) -> threading.Thread:
        """Takes all that comes from the pipe's descriptor, in a thread that ends with the pipe and closes it."""

        def pump() -> None:
            with os.fdopen(descriptor, "rb", buffering=0) as pipe:
                while chunk := pipe.read(65_536):
                    self.add(chunk)

        thread = threading.Thread(target=pump, name="grader-output", daemon=True)
        thread.start()
        return thread

    def last_line(self) -> str:
        """The last line that is not empty: of a traceback, the exception."""
        with self._lock:
            lines = self._tail.decode(errors="replace").split("\n")
        return next((line.strip()[:LAST_LINE_CHARACTERS] for line in reversed(lines) if line.strip()), "")
