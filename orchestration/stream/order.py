"""Which admission rule and which buffer belong to an order of batches: a run and the planner ask here alike."""

from typing import Literal

from orchestration.stream.admission import Admission
from orchestration.stream.finished_order import LOOKAHEAD, FinishedBuffer
from orchestration.stream.prompt_order import AdmittedT, GroupBuffer

BatchOrder = Literal["prompt", "finished"]
Buffer = GroupBuffer[AdmittedT] | FinishedBuffer[AdmittedT]


def admission_for(order: BatchOrder, *, prompts_per_iteration: int, max_staleness: int) -> Admission:
    """How far generation may run ahead, so that no batch in this order has tokens older than max_staleness."""
    ahead = LOOKAHEAD if order == "finished" else max_staleness
    return Admission(prompts_per_iteration=prompts_per_iteration, max_staleness=ahead)


def buffer_for(
    order: BatchOrder, *, prompts_per_iteration: int, max_staleness: int, start_iteration: int = 0
) -> Buffer[AdmittedT]:
    """An empty buffer that gives batches in this order, beginning at start_iteration."""
    if order == "finished":
        return FinishedBuffer(prompts_per_iteration, max_staleness=max_staleness, start_iteration=start_iteration)
    return GroupBuffer(prompts_per_iteration, start_iteration=start_iteration)
