"""The section `journal`: which files a run writes, and how large they may grow."""

from pydantic import Field

from configs.section import Section


class JournalConfig(Section):
    """What a run leaves behind beside metrics.jsonl."""

    rollouts_per_iteration: int = Field(default=2, ge=0)  # groups written in full to rollouts.jsonl
    rollouts_mib: int = Field(default=256, ge=1)  # size of rollouts.jsonl beyond which every second iteration leaves it
    evals_mib: int = Field(default=1024, ge=1)  # size of evals/ beyond which its second-oldest evaluation is deleted
    tensorboard: bool = True
    trace: bool = True  # timeline of every actor in trace.json
    trace_mib: int = Field(default=64, ge=1)  # limit of trace.json and trace.previous.json together
    log_mib: int = Field(default=64, ge=1)  # limit of run.log and run.previous.log together
    progress: bool = True
