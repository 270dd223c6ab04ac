"""The watch on Ray's processes while a run goes on: threads that probe, and blocks that end with what it found.

In: a RayWatch and a function that lists the nodes. Out: its error in place of an interrupt, or of a failure that
is the consequence. Knows nothing of what an answer means.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress

from ray.exceptions import RayError

from orchestration.network.probes import PROBE_TIMEOUT_S, probe
from orchestration.network.watch import Node, RayWatch

PROBE_EVERY_S = 1.0
LIST_EVERY_S = 10.0


@contextmanager
def watching(watch: RayWatch, list_nodes: Callable[[], Iterable[Node]]) -> Iterator[None]:
    """Watches Ray while the block runs; ends with the watch's error where that has interrupted it."""
    watch.update(list_nodes())
    ended = threading.Event()
    prober = threading.Thread(target=_probe_until, args=(ended, watch), name="probe-ray", daemon=True)
    prober.start()
    if not watch.is_local:  # a thread of its own, which a GCS that is gone keeps waiting
        threading.Thread(target=_list_until, args=(ended, watch, list_nodes), name="list-nodes", daemon=True).start()
    try:
        yield
    except KeyboardInterrupt:
        if watch.error is None:
            raise
        raise watch.error from None
    finally:
        ended.set()
        prober.join()


@contextmanager
def explaining(watch: RayWatch) -> Iterator[None]:
    """Ends a block that fails because of Ray with an error that names what of Ray is gone, at once."""
    try:
        yield
    except (RuntimeError, RayError, OSError) as error:
        explained = watch.explain(error, asyncio.run(_silent(watch.addresses())))
        if explained is None:
            raise
        raise explained from error


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
