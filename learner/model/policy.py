"""The policy: a Hugging Face causal LM that answers with the log-probabilities of chosen tokens.

In: one packed row of sequences and the positions to look at. Out: float32 log-probabilities and entropies of those
positions only; logits of the others are never built. Knows nothing of advantages, gates or DeepSpeed.
"""

import math
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedModel

from configs.lora import LoraConfig
from learner.batches.rows import RowCost
from learner.model.attention import BY_SEQUENCE
from learner.model.logprobs import OutputHead
from learner.model.lora import Adapters, add_adapters, base_parameters

HEAD_TOLERANCE = 1e-2  # nats; far above rounding in bfloat16, far below what a scaled or capped head would show


class Policy(nn.Module):
    """A causal LM reduced to what training needs: its output embedding answers with logprobs, not with logits."""

    def __init__(self, model: PreTrainedModel, *, max_logits: int, adapters: Adapters | None = None) -> None:
        """max_logits: how many exist at a time. Takes the model over; ValueError for a head that is not linear."""
        super().__init__()
        model.set_output_embeddings(OutputHead.of(model.get_output_embeddings()))
        self.model = model
        self.adapters = adapters
        self._max_logits = max_logits

    def forward(
        self,
        token_ids: Tensor,
        position_ids: Tensor,
        positions: Tensor,
        targets: Tensor,
        temperature: float,
        entropy_gradient: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Logprobs (with gradient) and entropies (nats) of `targets` predicted at `positions`; [K] float32.

        token_ids, position_ids: [1, T], several sequences in one row. position_ids restart at 0 for each, by which
        they are kept apart without an attention mask. positions, targets: [K]. temperature divides logits.
        entropy_gradient: entropies have a gradient too.
        """
        hidden = _hidden_states(self.model, token_ids, position_ids)
        return self.model.get_output_embeddings()(
            hidden[positions],
            targets,
            temperature=temperature,
            max_logits=self._max_logits,
            entropy_gradient=entropy_gradient,
        )


def load_policy(
    path: str,
    *,
    dtype: torch.dtype,
    device: torch.device,
    trust_remote_code: bool,
    gradient_checkpointing: bool,
    max_logits: int,
    lora: LoraConfig,
) -> Policy:
    """Loads a model folder or hub name for training: dropout off, training mode on (checkpointing needs it).

    With LoRA only the adapters are trained, which change nothing at first. Raises ValueError for a model that cannot be
    trained on packed rows or without logits, and says why: an attention that does not take where sequences start,
    sequences that see each other, logits that are not simply head(hidden).
    """
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, trust_remote_code=trust_remote_code)
    if not model.is_backend_compatible():
        raise ValueError(
            f"model.path={path}: {type(model).__name__} does not use transformers' AttentionInterface, which "
            "passes on where the sequences of a packed row start; choose another model"
        )
    model.set_attn_implementation(attention_for(device, dtype))
    model.to(device)
    _require_plain_head(model, path)
    _require_sequences_apart(model, path)
    _remove_dropout(model)
    if gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    adapters = add_adapters(model, lora) if lora.is_on else None
    model.train()
    return Policy(model, max_logits=max_logits, adapters=adapters)


def attention_for(device: torch.device, dtype: torch.dtype) -> str:
    """The attention for packed rows, without masked pairs; flash attention has one call a row, but no float32."""
    suits = device.type == "cuda" and dtype in (torch.bfloat16, torch.float16)
    return "flash_attention_2" if suits and find_spec("flash_attn") is not None else BY_SEQUENCE


def row_cost_of(policy: Policy) -> RowCost:
    """Cost of the policy's rows, by counting products; before DeepSpeed takes its parameters apart.

    A token passes 2 N operations outside attention, N the parameters but for looked-up embeddings. In each of L layers
    of width H, a pair of tokens takes 4 H, 2 for the score and 2 for the value; half of the pairs are causal. A
    backward pass about doubles both, which cancels.
    """
    config, embedding = policy.model.config.get_text_config(), policy.model.get_input_embeddings().weight
    looked_up = 0 if embedding is policy.model.get_output_embeddings().weight else embedding.numel()
    num_parameters = sum(parameter.numel() for parameter in policy.parameters()) - looked_up
    return RowCost(pair_cost=config.num_hidden_layers * config.hidden_size / num_parameters)


def checkpoint_parameters(policy: Policy) -> Iterator[tuple[str, nn.Parameter]]:
    """Every parameter once, under the name that checkpoint files and engines use; a tied head is left out.

    With LoRA the parameters of the initial model; published_weights() are what policy computes with.
    """
    yield from base_parameters(policy.model)


def _remove_dropout(model: nn.Module) -> None:
    """Sets every dropout to 0: old and current log-probabilities must come from the same function."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def _hidden_states(model: PreTrainedModel, token_ids: Tensor, position_ids: Tensor) -> Tensor:
    """[T, H] of a row [1, T]."""
    return model.base_model(token_ids, **_row_arguments(model, position_ids)).last_hidden_state[0]


def _row_arguments(model: PreTrainedModel, position_ids: Tensor) -> dict[str, Any]:
    """Arguments of a model's forward pass beside the tokens [1, T].

    Where sequences start is read from position_ids here, once a pass: each layer would do it again, and wait for the
    GPU each time.
    """
    arguments = {"position_ids": position_ids, "use_cache": False}
    starts = (position_ids[0] == 0).nonzero().squeeze(-1)
    bounds = functional.pad(starts, (0, 1), value=position_ids.shape[1])
    lengths = bounds.diff().tolist()
    if model.config._attn_implementation == BY_SEQUENCE:
        return arguments | {"sequence_lengths": lengths}
    bounds, longest = bounds.to(torch.int32), max(lengths)
    return arguments | {
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": longest,
        "max_length_k": longest,
    }


@torch.no_grad()
def _require_sequences_apart(model: PreTrainedModel, path: str) -> None:
    tokens, positions = (row[None].to(model.device) for row in (torch.arange(8), torch.arange(4).repeat(2)))
    packed = _hidden_states(model, tokens, positions)[4:]
    alone = _hidden_states(model, tokens[:, 4:], positions[:, 4:])
    difference = ((packed.float() - alone.float()).norm() / alone.float().norm()).item()
    # far above what kernels of another shape round in this dtype, far below what mixing changes
    tolerance = math.sqrt(torch.finfo(alone.dtype).eps)
    if not difference <= tolerance:
        raise ValueError(
            f"model.path={path}: a sequence changes with the one before it in a packed row (hidden states by "
            f"{difference:.2g}); choose a model whose layers look at tokens by attention only"
        )


@torch.no_grad()
def _require_plain_head(model: PreTrainedModel, path: str) -> None:
    tokens = torch.arange(4, device=model.device)[None]
    whole = torch.log_softmax(model(tokens, **_row_arguments(model, tokens)).logits[0].float(), dim=-1)
    hidden = _hidden_states(model, tokens, tokens)
    plain = torch.log_softmax(model.get_output_embeddings()(hidden).float(), dim=-1)
    difference = (whole - plain).abs().max().item()
    if not difference <= HEAD_TOLERANCE:
        raise ValueError(
            f"model.path={path}: its logits are not head(hidden), as with capped or scaled logits (log-probabilities "
            f"differ by {difference:.3g} nats); choose a model with a plain output head"
        )
