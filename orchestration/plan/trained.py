"""How many parameters a run trains and how many it publishes: all, or with low-rank adapters far fewer.

In: a ModelShape and the configuration's LoraConfig. Out: TrainedParameters. Counts by the same names of modules that
learner/model/lora.py adapts; refuses names that a decoder of equal layers does not have.
"""

from dataclasses import dataclass

from configs.lora import ALL_LINEAR, LoraConfig
from orchestration.plan.model_shape import ModelShape, ModelShapeError


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedParameters:
    """Of one run; numbers of elements."""

    base: int  # of the model itself
    adapters: int  # 0 where the model itself is trained
    published: int  # by every publish but the first over a connection

    @property
    def trained(self) -> int:
        """Those with a gradient and optimizer state."""
        return self.adapters or self.base

    @property
    def held(self) -> int:
        """Weights of the learner, frozen ones included."""
        return self.base + self.adapters


def trained_parameters(shape: ModelShape, lora: LoraConfig) -> TrainedParameters:
    """ModelShapeError where lora.target_modules names what the layers do not have."""
    if not lora.is_on:
        return TrainedParameters(base=shape.num_parameters, adapters=0, published=shape.num_parameters)
    modules = shape.layer_modules
    named = tuple(modules) if lora.target_modules == (ALL_LINEAR,) else lora.target_modules
    adapted = {path for path in modules for name in named if f".{path}".endswith(f".{name}")}
    unknown = [name for name in named if not any(f".{path}".endswith(f".{name}") for path in modules)]
    if unknown:
        last_parts = ", ".join(path.rpartition(".")[2] for path in modules)
        raise ModelShapeError(
            f"learner.lora.target_modules: {', '.join(unknown)} cannot be counted, only {ALL_LINEAR} or of {last_parts}"
        )
    elements = sum(lora.rank * (modules[path].inputs + modules[path].outputs) for path in adapted)
    # an engine keeps modules of one parent as one, so that all of a parent are sent (learner/model/weights.py)
    parents = {path.rpartition(".")[0] for path in adapted}
    sent = sum(module.parameters for path, module in modules.items() if path.rpartition(".")[0] in parents)
    norms = shape.layer_head_norms if "self_attn" in parents else 0
    return TrainedParameters(
        base=shape.num_parameters, adapters=shape.layers * elements, published=shape.layers * (sent + norms)
    )
