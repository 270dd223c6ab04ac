"""Memory and GPUs of this machine, as its system reports them."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

GPU_QUERY = ("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits")
GPU_QUERY_TIMEOUT_S = 10.0
CGROUPS = Path("/sys/fs/cgroup")


def memory_bytes() -> tuple[int, int]:
    """(memory and swap that this process may use, what of the memory is free now)."""
    rows = (line.split() for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    sizes = {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows}
    total = sizes["MemTotal"] + sizes["SwapTotal"]
    return min([total, *_limits()]), sizes["MemAvailable"]


def smallest_gpu_bytes() -> int | None:
    """Memory of the smallest GPU; None where there is none."""
    try:
        ended = subprocess.run(GPU_QUERY, capture_output=True, text=True, timeout=GPU_QUERY_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    sizes = [int(line) * 2**20 for line in ended.stdout.split("\n") if line.strip().isdigit()]
    return min(sizes, default=None)


def _limits() -> Iterator[int]:
    """Limits of the control groups that this process is in, of either version; a group without one says `max`."""
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, place = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root, name = (CGROUPS, "memory.max") if not controllers else (CGROUPS / "memory", "memory.limit_in_bytes")
        group = root / place.lstrip("/")
        for folder in (group, *group.parents):
            text = (folder / name).read_text(encoding="ascii").strip() if (folder / name).is_file() else "max"
            if text.isdigit():
                yield int(text)
