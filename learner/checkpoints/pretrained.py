"""The model as a Hugging Face folder: weights, tokenizer, and with LoRA the adapters.

In: a policy. Out: its weights in the host memory of rank 0, and files. Knows nothing of optimizers or of checkpoints.
"""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from transformers import AutoTokenizer

from learner.model.policy import Policy
from learner.model.weights import published_weights
from learner.model.zero import gathered, in_groups
from learner.spec import LearnerSpec

ADAPTER_FOLDER = "adapter"
GATHER_ELEMENTS = 250_000_000  # limit on the elements gathered at once; a larger parameter is gathered alone


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCopy:
    """All weights in host memory, independent of further training; empty but on rank 0."""

    weights: dict[str, Tensor]  # with adapters merged in, by checkpoint name
    factors: dict[str, Tensor]  # of the adapters, by name in the model; empty where there are none


def copy_model(policy: Policy, *, rank: int) -> ModelCopy:
    """Gathers the weights group by group. Collective; only rank 0 holds all of them."""
    state: dict[str, Tensor] = {}
    weights = {weight.name: weight for weight in published_weights(policy)}
    for group in in_groups(((name, weight.base) for name, weight in weights.items()), max_elements=GATHER_ELEMENTS):
        members = [weights[name] for name, _ in group]
        with gathered([parameter for weight in members for parameter in weight.parameters]):
            if rank == 0:
                state.update((w.name, w.value().to("cpu", dtype=w.base.dtype, copy=True)) for w in members)
    factors: dict[str, Tensor] = {}
    if policy.adapters is not None:
        parameters = dict(policy.adapters.parameters())
        with gathered(list(parameters.values())):
            if rank == 0:
                factors = {name: factor.detach().to("cpu", copy=True) for name, factor in parameters.items()}
    return ModelCopy(weights=state, factors=factors)


def write_model(copy: ModelCopy, policy: Policy, folder: Path) -> None:
    """Writes rank 0's copy into the folder, which is created.

    The sub-folder ADAPTER_FOLDER has the adapters in peft's format. Of the policy only names and settings are read.
    """
    folder.mkdir(exist_ok=True)
    policy.model.save_pretrained(folder, state_dict=copy.weights)
    if policy.adapters is not None:
        policy.adapters.save(folder / ADAPTER_FOLDER, copy.factors)


def save_tokenizer(spec: LearnerSpec, folder: Path) -> None:
    """Writes the model's tokenizer beside its weights."""
    AutoTokenizer.from_pretrained(spec.model_path, trust_remote_code=spec.trust_remote_code).save_pretrained(folder)
