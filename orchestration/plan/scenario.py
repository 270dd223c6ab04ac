"""The model and the run as the planner sees them: sizes, memory, and a Workload for the simulation.

In: a RunConfig, the tree of a Hugging Face config.json, the device, a sample of completion lengths. Out: a ModelShape
and a Scenario. Loads no weights and imports no torch; refuses architectures whose parameters it cannot count exactly.
Memory is that of tensors, without what an allocator, a driver or a framework keeps beside them.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from configs.loading import ConfigError
from configs.schema import LearnerConfig, RunConfig
from learner.deepspeed_config import MAX_BUCKET_ELEMENTS
from orchestration.plan.costs import Workload
from rollout.tasks.embedded_model import EmbeddedRecipe

PRESETS = Path(__file__).resolve().parent / "presets"
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
FLOAT32_BYTES = 4
TILE_COPIES = 2.5  # float32 arrays of a logit tile's size at a time: logits, their exponentials, part of a gradient
FAMILIES = ("qwen2", "qwen3", "llama", "mistral")  # model_type of models whose parameters are counted


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """A decoder of equal layers: attention with grouped keys and values, and a gated feed-forward."""

    name: str
    vocabulary: int
    hidden: int
    layers: int
    query_width: int  # elements of all heads
    kv_width: int  # elements of all key heads, and of all value heads
    head_size: int
    intermediate: int
    tied: bool  # the output embedding is the input embedding
    layer_extras: int  # parameters of a layer's biases and of its heads' norms

    @property
    def num_parameters(self) -> int:
        matrices = self.hidden * (2 * self.query_width + 2 * self.kv_width + 3 * self.intermediate)
        layer = matrices + self.layer_extras + 2 * self.hidden
        return self.vocabulary * self.hidden * (1 if self.tied else 2) + self.layers * layer + self.hidden

    @property
    def multiplied_parameters(self) -> int:
        """Parameters that a token is multiplied with: all but an input embedding, which is looked up."""
        return self.num_parameters - (0 if self.tied else self.vocabulary * self.hidden)

    @property
    def kv_elements(self) -> int:
        """Elements of the key/value cache a token."""
        return 2 * self.layers * self.kv_width


def model_shape(path: str) -> ModelShape:
    """Shape of model.path: the embedded model, one of configs/model, or a folder."""
    if path == "embedded":
        return shape_of(embedded_config(), name=path)
    known = yaml.safe_load((PRESETS / "models.yaml").read_text(encoding="utf-8"))
    if path in known:
        return shape_of(known[path], name=path)
    file = Path(path) / "config.json"
    if not file.is_file():
        raise ConfigError([f"model.path={path}: no folder with a config.json; download the model and name its folder"])
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            [f"model.path={path}: its config.json is not readable ({error}); correct the path"]
        ) from error
    return shape_of(config, name=path)


def embedded_config() -> dict[str, Any]:
    """The sizes in the embedded model's config.json."""
    recipe = EmbeddedRecipe()
    sizes = asdict(recipe) | {"model_type": "qwen2", "vocab_size": len(recipe.vocabulary)}
    sizes |= {"num_hidden_layers": recipe.num_layers, "num_attention_heads": recipe.num_heads}
    return sizes | {"tie_word_embeddings": recipe.tied_embeddings}


def shape_of(config: Mapping[str, Any], *, name: str) -> ModelShape:
    """The shape that a config.json describes; ConfigError if its parameters cannot be counted."""
    kind = str(config.get("model_type"))
    if kind not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ConfigError([f"model.path={name}: parameters of model_type={kind} cannot be counted, only of {known}"])
    try:
        hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        head_size = int(config.get("head_dim") or hidden // heads)
        query, kv = heads * head_size, int(config.get("num_key_value_heads") or heads) * head_size
        all_biased = kind in ("qwen3", "llama") and bool(config.get("attention_bias", False))
        biases = (query + 2 * kv if all_biased or kind == "qwen2" else 0) + (hidden if all_biased else 0)
        return ModelShape(
            name=name,
            vocabulary=int(config["vocab_size"]),
            hidden=hidden,
            layers=int(config["num_hidden_layers"]),
            query_width=query,
            kv_width=kv,
            head_size=head_size,
            intermediate=int(config["intermediate_size"]),
            tied=bool(config["tie_word_embeddings"]),
            layer_extras=biases + (2 * head_size if kind == "qwen3" else 0),
        )
    except KeyError as error:
        raise ConfigError([f"model.path={name}: its config.json has no {error.args[0]}"]) from error
    except (TypeError, ValueError) as error:
        raise ConfigError([f"model.path={name}: its config.json has a size that is no number ({error})"]) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineMemory:
    """Bytes of one worker of an engine, and what the engine's key/value cache holds."""

    weights: float
    kv_cache: float  # bytes; negative if the weights alone do not fit
    kv_tokens: int  # tokens of the whole engine
    longest_sequences: int  # number of sequences of model.max_model_len


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """One run on one kind of device."""

    config: RunConfig
    shape: ModelShape
    device: str  # cpu or gpu
    device_bytes: float | None  # memory of one device; None: not known
    prompt_length: int  # tokens
    lengths: tuple[int, ...]  # sample of completion lengths, tokens

    @property
    def engine_dtype(self) -> str:
        return resolved_dtype(self.config.rollout.dtype, self.device)

    @property
    def learner_dtype(self) -> str:
        return resolved_dtype(self.config.learner.dtype, self.device)

    @property
    def num_scoring_passes(self) -> int:
        learner = self.config.learner
        recomputes = learner.old_logprobs == "recompute" or (learner.old_logprobs == "auto" and self.device != "cpu")
        return int(recomputes) + int(self.config.objective.kl_coef > 0.0)

    def learner_memory(self, num_ranks: int) -> dict[str, float]:
        """Bytes of one rank, by what they are for."""
        learner, size = self.config.learner, DTYPE_BYTES[self.learner_dtype]
        count = self.shape.num_parameters
        state = state_bytes(count, learner, dtype=self.learner_dtype, num_ranks=num_ranks)
        logits = min(learner.max_logits, learner.max_tokens_per_micro_batch * self.shape.vocabulary)
        return state | {
            "reference": state["weights"] if self.config.objective.kl_coef > 0.0 else 0.0,  # initial model of a KL term
            "buckets": 0.0 if learner.zero_stage == 0 else 2.0 * min(MAX_BUCKET_ELEMENTS, count) * size,
            "activations": activation_bytes(
                self.shape,
                dtype=self.learner_dtype,
                num_tokens=learner.max_tokens_per_micro_batch,
                checkpointing=learner.gradient_checkpointing,
            ),
            "logits": TILE_COPIES * FLOAT32_BYTES * logits,
        }

    def engine_memory(self) -> EngineMemory | None:
        """None if the device's memory decides about the cache and is not known."""
        rollout, size = self.config.rollout, DTYPE_BYTES[self.engine_dtype]
        workers = rollout.tensor_parallel_size
        weights = self.shape.num_parameters * size / workers
        if self.device == "cpu":
            cache = rollout.kv_cache_gib * 2**30 / workers
        elif self.device_bytes is not None:
            cache = self.device_bytes * rollout.gpu_memory_utilization - weights
        else:
            return None
        kv_tokens = int(cache * workers // (self.shape.kv_elements * size))
        longest = kv_tokens // self.config.model.max_model_len
        return EngineMemory(weights=weights, kv_cache=cache, kv_tokens=kv_tokens, longest_sequences=longest)

    def misfit(self, num_ranks: int) -> str | None:
        """One line if a rank or an engine does not fit its device; None if both fit, or it is not known."""
        if self.device == "cpu" or self.device_bytes is None:
            return None
        share = self.device_bytes * self.config.cluster.gpus_per_learner
        needed = sum(self.learner_memory(num_ranks).values())
        if needed > share:
            return f"a learner rank needs {needed / 1e9:.0f} GB, there are {share / 1e9:.0f}"
        engine = self.engine_memory()
        if engine is not None and engine.longest_sequences < 1:
            return f"an engine worker's weights ({engine.weights / 1e9:.0f} GB) leave no room for one sequence"
        return None

    def workload(self) -> Workload:
        """The numbers of the run that decide its time."""
        rollout, learner, engine = self.config.rollout, self.config.learner, self.engine_memory()
        # an unknown cache holds as many of the longest sequences as may run at a time
        all_longest = rollout.max_num_seqs * self.config.model.max_model_len
        return Workload(
            prompts_per_iteration=rollout.prompts_per_iteration,
            completions_per_prompt=rollout.completions_per_prompt,
            prompt_length=self.prompt_length,
            lengths=self.lengths,
            max_staleness=self.config.max_staleness,
            batch_order=rollout.batch_order,
            publishes_inflight=self.config.publish.inflight,
            num_engines=rollout.num_engines,
            workers_per_engine=rollout.tensor_parallel_size,
            max_sequences=rollout.max_num_seqs,
            kv_tokens=all_longest if engine is None else max(1, engine.kv_tokens),
            num_ranks=learner.num_workers,
            num_minibatches=learner.num_minibatches,
            num_epochs=learner.num_epochs,
            max_tokens=learner.max_tokens_per_micro_batch,
            zero_stage=learner.zero_stage,
            num_scoring_passes=self.num_scoring_passes,
            num_graders=self.config.graders.num_workers,
            learner_bytes=self.shape.num_parameters * DTYPE_BYTES[self.learner_dtype],
            published_bytes=self.shape.num_parameters * DTYPE_BYTES[self.engine_dtype],
        )


def state_bytes(num_parameters: int, learner: LearnerConfig, *, dtype: str, num_ranks: int) -> dict[str, float]:
    """Bytes of a rank's weights, gradients and optimizer, all of them trained.

    ZeRO stage 1 shares out the optimizer, 2 gradients too, 3 weights too; a share is 1 / num_ranks. Stages 0 and 1
    add up gradients in the weights' dtype, 2 and 3 in float32.
    """
    stage, size, share, count = learner.zero_stage, DTYPE_BYTES[dtype], 1.0 / num_ranks, float(num_parameters)
    # ZeRO's optimizers step on float32 copies, also of weights that are float32 themselves
    copies = 1 if stage >= 1 else 0
    return {
        "weights": count * size * (share if stage == 3 else 1.0),
        "gradients": count * (FLOAT32_BYTES * share if stage >= 2 else size),
        "optimizer": count * FLOAT32_BYTES * (2 + copies) * (share if stage >= 1 else 1.0),
    }


def resolved_dtype(dtype: str, device: str) -> str:
    return ("float32" if device == "cpu" else "bfloat16") if dtype == "auto" else dtype


def activation_bytes(shape: ModelShape, *, dtype: str, num_tokens: int, checkpointing: bool) -> float:
    """Bytes that a forward pass of so many tokens keeps for the backward pass, without the output embedding.

    With checkpointing: each layer's input, and one layer's tensors while it is computed again.
    """
    # Norms compute in float32 and keep a float32 copy of their input if that is bfloat16: two elements more each.
    norm_copies = 0 if dtype == "float32" else 1
    attention = 3 * shape.query_width + 2 * shape.kv_width  # as learner/model/attention.py computes it
    layer = (6 + 2 * norm_copies) * shape.hidden + attention + 4 * shape.intermediate
    ends = (2 + norm_copies) * shape.hidden + 2 * shape.head_size  # the last norm, and the places' sines and cosines
    kept = layer + shape.layers * shape.hidden if checkpointing else layer * shape.layers
    return float(num_tokens * DTYPE_BYTES[dtype] * (kept + ends))
