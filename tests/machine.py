"""How busy the machine is, for tests of a promise about time."""

import os
from pathlib import Path


def slowdown() -> float:
    """How many processes want each core, now or in the last minute; 1 on an idle machine."""
    minute, *_, running, _ = Path("/proc/loadavg").read_text().split()
    wanting = max(float(minute), int(running.partition("/")[0]))
    return max(1.0, wanting / (os.cpu_count() or 1))
