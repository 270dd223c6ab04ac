"""The sizes of a language model that decide what it costs: parameters, key/value cache, operations a token.

In: a RunConfig, or the plain tree of a Hugging Face config.json. Out: a ModelShape, and how much of it a run trains and
publishes. Loads no weights and imports no torch; refuses architectures whose parameters it cannot count exactly.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from configs.lora import ALL_LINEAR, LoraConfig
from configs.schema import ModelConfig
from rollout.tasks.embedded_model import EmbeddedRecipe

# Of each model_type: whether queries, keys and values have biases (None: config.json says it as attention_bias), and
# whether each head's queries and keys are normalized.
ARCHITECTURES: Mapping[str, tuple[bool | None, bool]] = MappingProxyType(
    {"qwen2": (True, False), "qwen3": (None, True), "llama": (None, False), "mistral": (False, False)}
)
# Of the models that configs/model names, from the config.json that is published with each.
KNOWN_CONFIGS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "Qwen/Qwen2.5-1.5B-Instruct": {"model_type": "qwen2", "vocab_size": 151936, "tie_word_embeddings": True}
        | {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28}
        | {"num_attention_heads": 12, "num_key_value_heads": 2},
        "Qwen/Qwen2.5-7B-Instruct": {"model_type": "qwen2", "vocab_size": 152064, "tie_word_embeddings": False}
        | {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28}
        | {"num_attention_heads": 28, "num_key_value_heads": 4},
    }
)


class ModelShapeError(ValueError):
    """A model whose costs cannot be counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearModule:
    """One matrix of a layer."""

    inputs: int
    outputs: int
    has_bias: bool = False

    @property
    def parameters(self) -> int:
        return self.inputs * self.outputs + (self.outputs if self.has_bias else 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """A decoder of equal layers: attention with grouped keys and values, and a gated feed-forward."""

    name: str
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    tied: bool  # the output embedding is the input embedding
    has_qkv_bias: bool
    has_output_bias: bool  # of the attention's output projection
    has_head_norms: bool

    @property
    def query_width(self) -> int:
        return self.heads * self.head_size

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_size

    @property
    def layer_modules(self) -> dict[str, LinearModule]:
        """The matrices of one layer, by their names within it."""
        hidden, wide, query, kv, bias = (
            self.hidden,
            self.intermediate,
            self.query_width,
            self.kv_width,
            self.has_qkv_bias,
        )
        return {
            "self_attn.q_proj": LinearModule(inputs=hidden, outputs=query, has_bias=bias),
            "self_attn.k_proj": LinearModule(inputs=hidden, outputs=kv, has_bias=bias),
            "self_attn.v_proj": LinearModule(inputs=hidden, outputs=kv, has_bias=bias),
            "self_attn.o_proj": LinearModule(inputs=query, outputs=hidden, has_bias=self.has_output_bias),
            "mlp.gate_proj": LinearModule(inputs=hidden, outputs=wide),
            "mlp.up_proj": LinearModule(inputs=hidden, outputs=wide),
            "mlp.down_proj": LinearModule(inputs=wide, outputs=hidden),
        }

    @property
    def layer_head_norms(self) -> int:
        """Parameters of the norms of each head's queries and keys in one layer."""
        return 2 * self.head_size if self.has_head_norms else 0

    @property
    def embedding_parameters(self) -> int:
        return self.vocabulary * self.hidden

    @property
    def num_parameters(self) -> int:
        matrices = sum(module.parameters for module in self.layer_modules.values())
        layer = matrices + self.layer_head_norms + 2 * self.hidden
        return self.embedding_parameters * (1 if self.tied else 2) + self.layers * layer + self.hidden

    @property
    def multiplied_parameters(self) -> int:
        """Those that a token is multiplied with: all but an input embedding, which is looked up."""
        return self.num_parameters - (0 if self.tied else self.embedding_parameters)

    @property
    def token_operations(self) -> float:
        """Of a token's forward pass outside attention: a product and a sum a parameter."""
        return 2.0 * self.multiplied_parameters

    @property
    def pair_operations(self) -> float:
        """Of a forward pass for each pair of tokens that attention compares: a score and a weighted value."""
        return 4.0 * self.layers * self.query_width

    @property
    def kv_elements(self) -> int:
        """Elements of the key/value cache a token."""
        return 2 * self.layers * self.kv_width


def model_shape(model: ModelConfig) -> ModelShape:
    """Of the configuration's model: the embedded one, a folder, one of configs/model, or from the hub."""
    path = model.path
    if path == "embedded":
        recipe = EmbeddedRecipe()
        sizes = asdict(recipe) | {"model_type": "qwen2", "vocab_size": len(recipe.vocabulary)}
        sizes |= {"num_hidden_layers": recipe.num_layers, "num_attention_heads": recipe.num_heads}
        return shape_of(sizes | {"tie_word_embeddings": recipe.tied_embeddings}, name=path)
    if (file := Path(path) / "config.json").is_file():
        return shape_of(json.loads(file.read_text(encoding="utf-8")), name=path)
    if path in KNOWN_CONFIGS:
        return shape_of(KNOWN_CONFIGS[path], name=path)
    from transformers import AutoConfig

    try:
        found = AutoConfig.from_pretrained(path, trust_remote_code=model.trust_remote_code)
    except OSError as error:
        raise ModelShapeError(f"model.path={path}: no config.json in a folder or on the hub") from error
    return shape_of(found.to_dict(), name=path)


def shape_of(config: Mapping[str, Any], *, name: str) -> ModelShape:
    """The shape that a config.json describes; ModelShapeError where its parameters cannot be counted."""
    kind = str(config.get("model_type"))
    if kind not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ModelShapeError(f"model.path={name}: parameters of model_type={kind} cannot be counted, only of {known}")
    biased, has_head_norms = ARCHITECTURES[kind]
    has_biases = bool(config.get("attention_bias", False)) if biased is None else biased
    try:
        heads = int(config["num_attention_heads"])
        return ModelShape(
            name=name,
            vocabulary=int(config["vocab_size"]),
            hidden=int(config["hidden_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_size=int(config.get("head_dim") or config["hidden_size"] // heads),
            intermediate=int(config["intermediate_size"]),
            tied=bool(config["tie_word_embeddings"]),
            has_qkv_bias=has_biases,
            has_output_bias=has_biases and biased is None,
            has_head_norms=has_head_norms,
        )
    except KeyError as error:
        raise ModelShapeError(f"model.path={name}: its config.json has no {error.args[0]}") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedParameters:
    """How much a run trains and publishes, in elements: everything, or with low-rank adapters far less."""

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
    """Counts by the names of modules that learner/model/lora.py adapts; ModelShapeError where layers lack one."""
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
