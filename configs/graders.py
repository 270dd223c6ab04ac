"""The section of the processes that grade completions.

In: a plain nested dict. Out: a frozen section. Knows bounds only; rollout/rewards/ starts and watches the processes.
"""

from pydantic import Field

from configs.section import Section


class GradersConfig(Section):
    """Processes that grade completions, and the limits on what they compute and on your own rewards in them."""

    num_workers: int = Field(default=1, ge=1)
    timeout_s: float = Field(default=10.0, gt=0.0)  # limit for one completion
    memory_gib: float = Field(default=4.0, ge=0.5)  # limit for each process, and for all processes of one grader
    max_processes: int = Field(default=64, ge=0)  # most processes that your own rewards may run in one grader
    max_restarts: int = Field(default=60, ge=0)  # most graders that are replaced within an hour
