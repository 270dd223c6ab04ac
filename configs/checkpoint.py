"""The section `checkpoint`: when a run is saved, and which checkpoints are kept.

In: a plain nested dict. Out: a frozen section, or a line that names the setting and the remedy.
"""

from collections.abc import Sequence

from pydantic import Field

from configs.evaluation import EvalConfig
from configs.section import Section


class CheckpointConfig(Section):
    """When the whole run is saved, and which checkpoints are kept; a final model is always written."""

    every: int = Field(default=10, ge=1)  # iterations
    keep_last: int = Field(default=2, ge=1)  # newest checkpoints kept
    # metric of an evaluation, eval/<set>/pass@1, whose best checkpoint is kept beside the newest; null: none
    keep_best: str | None = Field(default=None, min_length=1)
    pretrained: bool = False  # save the weights in each checkpoint as a Hugging Face folder too
    # limit, s, for the checkpoint that a run saves when a signal stops it; Slurm and Kubernetes kill after 30 s
    grace_s: float = Field(default=20.0, gt=0.0)

    def misfit(self, evaluation: EvalConfig, *, set_names: Sequence[str]) -> str | None:
        """What keeps keep_best from having an effect. set_names: sets that the run evaluates."""
        if self.keep_best is None:
            return None
        told = f"checkpoint.keep_best={self.keep_best}"
        names = [name for set_name in set_names for name in rising_metrics(set_name, samples=evaluation.samples)]
        if self.keep_best not in names:
            allowed = f"must be one of {', '.join(names)}" if names else "this run evaluates no set; leave it out"
            return f"{told}: {allowed}"
        if evaluation.every == 0 or evaluation.every % self.every:
            return (
                f"{told}: eval.every={evaluation.every} must be above 0 and a multiple of checkpoint.every="
                f"{self.every}, so that every evaluation has its checkpoint"
            )
        return None


def rising_metrics(set_name: str, *, samples: int) -> list[str]:
    """Metrics of an evaluation set of which more is better; samples: completions a problem."""
    names = ["pass@1", *([f"pass@{samples}"] if samples > 1 else []), "format"]
    return [f"eval/{set_name}/{name}" for name in names]
