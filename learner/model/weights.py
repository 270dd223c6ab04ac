"""The policy's weights under checkpoint names, adapters merged.

In: a Policy. Out: its weights in order, each with what must be whole to compute it, and which of them training changes.
Refuses to know who asks: a publish, or the final model's file.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from learner.model.lora import Factors
from learner.model.policy import Policy, checkpoint_parameters


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedWeight:
    """One weight of the policy."""

    name: str  # name in checkpoint files and engines
    base: nn.Parameter
    factors: Factors | None  # factors of its adapter

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """Parameters that must be gathered before value() is asked for."""
        return (self.base,) if self.factors is None else (self.base, self.factors.a, self.factors.b)

    def value(self) -> Tensor:
        """The whole weight, detached: the parameter itself, or a merged copy in float32."""
        base = self.base.detach()
        return base if self.factors is None else self.factors.merged(base)


def published_weights(policy: Policy) -> tuple[PublishedWeight, ...]:
    """Every weight once, in the model's order; a tied head is left out."""
    factors = policy.adapters.factors() if policy.adapters is not None else {}
    weights = tuple(
        PublishedWeight(name=name, base=parameter, factors=factors.get(name))
        for name, parameter in checkpoint_parameters(policy)
    )
    lost = factors.keys() - {weight.name for weight in weights}
    assert not lost, f"adapters of weights that the model does not have: {lost}"
    return weights


def changing_weights(weights: Sequence[PublishedWeight]) -> tuple[PublishedWeight, ...]:
    """Weights that differ from one publish to the next: all, or with adapters the adapted ones and what goes with them.

    An engine may keep modules of one parent as one (q, k and v; gate and up) and can then only load them together.
    Hence all weights below the parent of an adapted module are among them.
    """
    if all(weight.factors is None for weight in weights):
        return tuple(weights)
    adapted = [weight.name for weight in weights if weight.factors is not None]
    parents = {name.rpartition(".")[0].rpartition(".")[0] for name in adapted}  # mlp of mlp.up_proj.weight
    below = tuple(f"{parent}." for parent in parents if parent)
    return tuple(weight for weight in weights if weight.factors is not None or weight.name.startswith(below))
