"""The section `recovery`: how soon a dead or stuck process is noticed, and how often it is replaced.

In: a plain nested dict. Out: a frozen section. docs/faults.md explains what is replaced and what ends a run.
"""

from pydantic import Field

from configs.section import Section


class RecoveryConfig(Section):
    """Replacement of engines and learner ranks that died or are stuck."""

    max_restarts: int = Field(default=10, ge=0)  # engines and learners started again within an hour; 0: none
    health_every_s: float = Field(default=5.0, gt=0.0)  # pause between two questions to a process whether it is well
    # a process is stuck that does not answer, or an engine that has work and makes no step, for so long
    health_timeout_s: float = Field(default=60.0, gt=0.0)
