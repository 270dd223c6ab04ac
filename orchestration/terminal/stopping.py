"""What stops a command from outside its own course: Ctrl-C, SIGTERM, SIGHUP, and a failure that another thread sees.

In: signals, and errors from any thread. Out: KeyboardInterrupt in the main thread as soon as nothing forbids it, and
its reason. Each further Ctrl-C hurries: the second breaks off what is still waited for, the third kills. What
comes before and after is leaving.py's.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType, TracebackType
from typing import Any

from orchestration.terminal.leaving import WORDS, Terminated, end_now, write_lines
from orchestration.terminal.processes import end_processes

WAKE = signal.SIGRTMIN  # wakes the main thread if another thread has something for it
ASKED, HURRIED, KILLED, NEVER = 1, 2, 3, 4  # urgencies
SAME_PRESS_S = 0.1  # one Ctrl-C may come twice, from the terminal and from a program that started this one
ENDING_LIMIT_S = 60.0  # seconds after grace_s until an ending that hangs is killed

_active: "Stopping | None" = None


class Stopping:
    """The signals of a command: `with Stopping() as stopping:` around what it does.

    They raise KeyboardInterrupt in the main thread once. `reason` says why, because libraries replace the exception,
    and the end of the block raises the reason. A signal that was ignored at the start, as with nohup, stays ignored.
    In another thread than the main one, signals stay as they are.
    """

    def __init__(self, *, grace_s: float | None = None) -> None:
        """grace_s: how long after the first signal postpone() and urgent() may go on; None: until a further Ctrl-C.

        Where it is given, the first signal prints it, because its effect may take so long.
        """
        self.reason: BaseException | None = None
        self._grace_s = grace_s
        self._urgency = 0
        self._threshold = ASKED  # urgency from which the main thread is interrupted
        self._is_ending = False
        self._pressed_at = 0.0
        self._lock = threading.RLock()
        self._handlers: dict[int, Any] = {}  # handlers before this block, empty outside of it
        self._timers: list[threading.Timer] = []

    def __enter__(self) -> "Stopping":
        global _active
        if threading.current_thread() is threading.main_thread():
            self._outer, _active = _active, self
            self._handlers = {number: signal.getsignal(number) for number in WORDS}
            self.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _active
        self.close()
        for timer in self._timers:
            timer.cancel()
        if self._handlers:
            signal.signal(WAKE, signal.SIG_IGN)  # another thread may be about to send it
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            _active = self._outer
        if self.reason is not None and error is not self.reason:
            raise self.reason

    def install(self) -> None:
        """Takes the signals; takes them back from a library that has taken them since."""
        if self._handlers:
            signal.signal(WAKE, self._handle)
            if self._urgency:
                signal.alarm(0)  # the library may be about to abort: Ray's C++ side does, 3 s after SIGTERM
        for number, before in self._handlers.items():
            if before is not signal.SIG_IGN:
                signal.signal(number, self._handle)

    @property
    def is_hurried(self) -> bool:
        """Whether nothing shall be waited for any more: a further Ctrl-C has come, or grace_s has passed."""
        return self._urgency >= HURRIED

    def protect(self) -> AbstractContextManager[None]:
        """Inside nothing is raised; what came meanwhile is raised at the end."""
        return self._at(NEVER)

    def postpone(self) -> AbstractContextManager[None]:
        """Inside only a further Ctrl-C and the end of grace_s are raised; what came meanwhile is raised at the end."""
        return self._at(max(self._threshold, HURRIED))

    def urgent(self) -> AbstractContextManager[None]:
        """For what is still done after an interrupt: a further Ctrl-C and the end of grace_s break it off."""
        return self._at(HURRIED)

    def optional(self) -> AbstractContextManager[None]:
        """For what may be left out of an ending: any signal breaks it off."""
        return self._at(ASKED)

    def hold(self) -> None:
        """Begins what postpone() does; release() ends it."""
        self._threshold = max(self._threshold, HURRIED)

    def release(self) -> None:
        """Ends hold(), and raises what came meanwhile."""
        if self._threshold == HURRIED:
            self._threshold = ASKED
        self._check()

    def close(self) -> None:
        """Nothing is raised from here on, because the command is ending; a third Ctrl-C still kills."""
        self._is_ending, self._threshold = True, NEVER

    def settle(self, error: BaseException) -> BaseException:
        """The exception that counts as the command's end: the reason, or else this error. Closes."""
        with self._lock:
            self.reason = self.reason or error
        self.close()
        return self.reason

    def fail(self, error: BaseException) -> None:
        """Interrupts the main thread because of the error; to be called from any thread. The first reason counts."""
        with self._lock:
            self.reason = self.reason or error
        self._hurry()

    @contextmanager
    def _at(self, threshold: int) -> Iterator[None]:
        before, self._threshold = self._threshold, threshold
        try:
            yield
        finally:
            if self._threshold == threshold:  # else raised or closed inside
                self._threshold = before
        self._check()

    def _check(self) -> None:
        if self._urgency >= self._threshold:
            self.close()
            raise self.reason if isinstance(self.reason, KeyboardInterrupt) else KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number != WAKE:
            self._receive(number)
        self._check()

    def _receive(self, number: int) -> None:
        now = time.monotonic()
        with self._lock:
            self.reason = self.reason or (KeyboardInterrupt() if number == signal.SIGINT else Terminated(number))
            if self._urgency == 0:
                self._urgency = ASKED
                if self._grace_s is not None:
                    if not self._is_ending:
                        write_lines([f"stopping within {self._grace_s:g} s; Ctrl-C again stops at once"])
                    self._after(self._grace_s, self._hurry)
                    self._after(self._grace_s + ENDING_LIMIT_S, self._kill)
            elif number == signal.SIGINT and now - self._pressed_at > SAME_PRESS_S:
                self._urgency += 1  # only a person hurries: programs send SIGTERM and SIGHUP more than once
            self._pressed_at = now
        if self._urgency >= KILLED:
            self._kill()

    def _hurry(self) -> None:
        with self._lock:
            self._urgency = max(self._urgency, HURRIED)
        if self._handlers:
            signal.pthread_kill(threading.main_thread().ident or 0, WAKE)

    def _after(self, seconds: float, act: Callable[[], None]) -> None:
        self._timers.append(threading.Timer(seconds, act))
        self._timers[-1].daemon = True
        self._timers[-1].start()

    def _kill(self) -> None:
        """Ends this process and all below it, at once."""
        end_processes(below=os.getpid())
        end_now(self.reason if isinstance(self.reason, KeyboardInterrupt) else KeyboardInterrupt())


def install() -> None:
    """install() of the Stopping of this process, if it has one."""
    if _active is not None:
        _active.install()


def fail(error: BaseException) -> None:
    """fail() of the Stopping of this process, if it has one."""
    if _active is not None:
        _active.fail(error)


def protect() -> AbstractContextManager[None]:
    """protect() of the Stopping of this process, if it has one."""
    return nullcontext() if _active is None else _active.protect()


def urgent() -> AbstractContextManager[None]:
    """urgent() of the Stopping of this process, if it has one."""
    return nullcontext() if _active is None else _active.urgent()


def optional() -> AbstractContextManager[None]:
    """optional() of the Stopping of this process, if it has one."""
    return nullcontext() if _active is None else _active.optional()


def is_hurried() -> bool:
    """Whether a further Ctrl-C has come."""
    return _active is not None and _active.is_hurried
