"""The watch on Ray's processes while a run goes on: threads that probe, and an error in the main thread.

In: a RayWatch and a function that lists the nodes. Out: the block ends with the watch's error, at once where the block
failed because of Ray. Knows nothing of what an answer means.
"""

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from ray.exceptions import RayError

from orchestration.network.probes import PROBE_TIMEOUT_S, probe
from orchestration.network.watch import Node, RayWatch

PROBE_EVERY_S = 1.0
LIST_EVERY_S = 10.0
LOST_SIGNAL = signal.SIGUSR2  # interrupts whatever the main thread waits for


@contextmanager
def watching(watch: RayWatch, list_nodes: Callable[[], Iterable[Node]]) -> Iterator[None]:
    """Watches Ray while the block runs."""
    watch.update(list_nodes())
    ended = threading.Event()
    prober = threading.Thread(target=_probe_until, args=(ended, watch), name="probe-ray", daemon=True)
    prober.start()
    if not watch.is_local:  # a thread of its own, which a GCS that is gone keeps waiting
        threading.Thread(target=_list_until, args=(ended, watch, list_nodes), name="list-nodes", daemon=True).start()
    try:
        yield
    except (RuntimeError, RayError, OSError) as error:
        explained = watch.explain(error, asyncio.run(_silent(watch.addresses())))
        if explained is None:
            raise
        raise explained from error
    finally:
        ended.set()
        prober.join()


@contextmanager
def raising_in_main_thread() -> Iterator[Callable[[Exception], None]]:
    """A function that raises an error in the main thread, whatever that waits for, as long as the block runs."""
    errors: list[Exception] = []

    def raise_error(_signal: int, _frame: FrameType | None) -> None:
        raise errors[-1]

    def fail(error: Exception) -> None:
        errors.append(error)
        signal.pthread_kill(threading.main_thread().ident or 0, LOST_SIGNAL)

    before = signal.signal(LOST_SIGNAL, raise_error)
    try:
        yield fail
    finally:
        signal.signal(LOST_SIGNAL, before)


def _probe_until(ended: threading.Event, watch: RayWatch) -> None:
    last = time.monotonic()
    while not ended.wait(PROBE_EVERY_S) and watch.error is None:
        answers = asyncio.run(probe(watch.addresses()))
        now = time.monotonic()
        # where more has passed than a probe takes, this process was stopped, and perhaps all others with it
        watch.note(answers, passed_s=min(now - last, PROBE_EVERY_S + PROBE_TIMEOUT_S))
        last = now


def _list_until(ended: threading.Event, watch: RayWatch, list_nodes: Callable[[], Iterable[Node]]) -> None:
    while not ended.wait(LIST_EVERY_S):
        with suppress(RayError):  # the GCS is gone, which the probes find, or the run ends at this moment
            watch.update(list_nodes())


async def _silent(addresses: Collection[str]) -> set[str]:
    """Addresses that do not answer twice in a row: a busy machine may be late once."""
    for _ in range(2):
        addresses = {address for address, has_answered in (await probe(addresses)).items() if not has_answered}
    return set(addresses)
