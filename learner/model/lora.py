"""Low-rank adapters of the policy, with peft: the only file that imports it.

In: a Hugging Face model and a LoraConfig. Out: the same model with adapters in place, of which alone the parameters are
trained; their factors under the names of the weights they change; a context without them, which is the initial model.
Knows nothing of DeepSpeed, of publishing or of where files go.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from configs.lora import ALL_LINEAR, LoraConfig

if TYPE_CHECKING:  # half a second that a run without adapters should not wait for
    from peft import PeftModel

ADAPTER = "default"  # peft's name for the only adapter
WRAPPED = ".base_layer."  # what peft puts into the names of a module that has an adapter
FACTOR_MARKS = (".lora_A.", ".lora_B.")
PEFT_PREFIX = "base_model.model."  # prefix of every name in an adapter's file


@dataclass(frozen=True, kw_only=True, slots=True)
class Factors:
    """An adapter of one weight W [out, in]: the module computes with W + scale * B A."""

    a: nn.Parameter  # [rank, in]
    b: nn.Parameter  # [out, rank]
    scale: float

    def merged(self, weight: Tensor) -> Tensor:
        """W + scale * B A in float32, [out, in]; W stays as it is. All three must be whole."""
        return torch.addmm(weight.float(), self.b.detach().float(), self.a.detach().float(), alpha=self.scale)


class Adapters:
    """The adapters of one model."""

    def __init__(self, model: "PeftModel") -> None:
        self._model = model

    def factors(self) -> dict[str, Factors]:
        """The factors of every adapter, by the checkpoint name of the weight that it changes."""
        from peft.tuners.lora import LoraLayer

        return {
            f"{name}.weight": Factors(
                a=layer.lora_A[ADAPTER].get_parameter("weight"),
                b=layer.lora_B[ADAPTER].get_parameter("weight"),
                scale=layer.scaling[ADAPTER],
            )
            for name, layer in self._model.get_base_model().named_modules()
            if isinstance(layer, LoraLayer)
        }

    def disabled(self) -> AbstractContextManager[None]:
        """A context in which the model computes what it computed before training."""
        return self._model.disable_adapter()

    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Every trained parameter under its name in the model."""
        for name, parameter in self._model.get_base_model().named_parameters():
            if _is_factor(name):
                yield name, parameter

    def save(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        """Writes what PeftModel.from_pretrained reads into the folder; state: parameters() as whole tensors."""
        named = {f"{PEFT_PREFIX}{name}": tensor for name, tensor in state.items()}
        # False: asked to find out by itself whether embeddings changed, peft would look for the model on the hub
        self._model.save_pretrained(str(folder), state_dict=named, save_embedding_layers=False)


def add_adapters(model: PreTrainedModel, config: LoraConfig) -> Adapters:
    """Puts adapters into the model and freezes everything else. They add 0 until they have been trained.

    Their first values come from torch's random state, which must be equal on all ranks. Raises ValueError where
    target_modules names nothing, or a module that cannot have one.
    """
    import peft

    names = config.target_modules
    all_linear = names == (ALL_LINEAR,)
    if not all_linear:
        _require_adaptable(model, names)
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules=ALL_LINEAR if all_linear else list(names),
        lora_dropout=0.0,  # old and current log-probabilities must come from the same function
        bias="none",
        task_type="CAUSAL_LM",
    )
    # the weights' dtype, which engines get too; DeepSpeed keeps the optimizer's copy in float32 itself
    return Adapters(peft.get_peft_model(model, settings, autocast_adapter_dtype=False))


def base_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters beside the adapters', under the names they have without them."""
    for name, parameter in model.named_parameters():
        if not _is_factor(name):
            yield name.replace(WRAPPED, "."), parameter


def _is_factor(name: str) -> bool:
    return any(mark in name for mark in FACTOR_MARKS)


def _require_adaptable(model: PreTrainedModel, names: Sequence[str]) -> None:
    """ValueError where a name is not the end of a linear module's, or is the output head's."""
    head = model.get_output_embeddings()
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    usual = sorted({name.rpartition(".")[2] for name, module in linear.items() if module is not head})
    for name in names:
        meant = [module for whole, module in linear.items() if f".{whole}".endswith(f".{name}")]
        if meant and head not in meant:
            continue
        fault = f"{name} is the output head, which has none" if meant else f"there is no linear module {name}"
        raise ValueError(
            f"learner.lora.target_modules=[{','.join(names)}]: {fault}; must be {ALL_LINEAR} or of {', '.join(usual)}"
        )
