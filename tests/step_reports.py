"""StepReports for tests, one line each."""

from learner.contract import StepReport


def step(*, num_tokens: int = 10, grad_norm: float = 1.0, lr: float = 1e-4, **metrics: float) -> StepReport:
    """A StepReport; keywords are metrics, with __ in place of the slash."""
    names = {name.replace("__", "/"): value for name, value in metrics.items()}
    return StepReport(num_tokens=num_tokens, grad_norm=grad_norm, lr=lr, metrics=names)
