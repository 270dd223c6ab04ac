"""The sizes of a language model that decide what it costs: parameters, key/value cache, operations a token.

In: the plain tree of a Hugging Face config.json. Out: a ModelShape. Loads no weights and imports no torch; refuses
architectures whose parameters it cannot count exactly.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

# Of each model_type: whether queries, keys and values have biases (None: config.json says it as attention_bias), and
# whether each head's queries and keys are normalized.
ARCHITECTURES: Mapping[str, tuple[bool | None, bool]] = MappingProxyType(
    {"qwen2": (True, False), "qwen3": (None, True), "llama": (None, False), "mistral": (False, False)}
)
# Of the models that configs/model names, from the config.json that is published with each.
KNOWN_CONFIGS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "Qwen/Qwen2.5-1.5B-Instruct": {
            "model_type": "qwen2",
            "vocab_size": 151936,
            "hidden_size": 1536,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "intermediate_size": 8960,
            "tie_word_embeddings": True,
        },
        "Qwen/Qwen2.5-7B-Instruct": {
            "model_type": "qwen2",
            "vocab_size": 152064,
            "hidden_size": 3584,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "intermediate_size": 18944,
            "tie_word_embeddings": False,
        },
    }
)


class ModelShapeError(ValueError):
    """A model whose costs cannot be counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearModule:
    """One matrix of a layer."""

    inputs: int
    outputs: int
    has_bias: bool

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
        hidden, query, kv = self.hidden, self.query_width, self.kv_width
        sizes = {
            "self_attn.q_proj": (hidden, query, self.has_qkv_bias),
            "self_attn.k_proj": (hidden, kv, self.has_qkv_bias),
            "self_attn.v_proj": (hidden, kv, self.has_qkv_bias),
            "self_attn.o_proj": (query, hidden, self.has_output_bias),
            "mlp.gate_proj": (hidden, self.intermediate, False),
            "mlp.up_proj": (hidden, self.intermediate, False),
            "mlp.down_proj": (self.intermediate, hidden, False),
        }
        return {
            name: LinearModule(inputs=inputs, outputs=outputs, has_bias=has_bias)
            for name, (inputs, outputs, has_bias) in sizes.items()
        }

    @property
    def layer_head_norms(self) -> int:
        """Parameters of the norms of each head's queries and keys in one layer."""
        return 2 * self.head_size if self.has_head_norms else 0

    @property
    def layer_parameters(self) -> int:
        """Of one layer."""
        matrices = sum(module.parameters for module in self.layer_modules.values())
        return matrices + self.layer_head_norms + 2 * self.hidden

    @property
    def embedding_parameters(self) -> int:
        return self.vocabulary * self.hidden

    @property
    def num_parameters(self) -> int:
        embeddings = self.embedding_parameters * (1 if self.tied else 2)
        return embeddings + self.layers * self.layer_parameters + self.hidden

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
        head_size = config.get("head_dim") or config["hidden_size"] // heads
        return ModelShape(
            name=name,
            vocabulary=int(config["vocab_size"]),
            hidden=int(config["hidden_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_size=int(head_size),
            intermediate=int(config["intermediate_size"]),
            tied=bool(config["tie_word_embeddings"]),
            has_qkv_bias=has_biases,
            has_output_bias=has_biases and biased is None,
            has_head_norms=has_head_norms,
        )
    except KeyError as error:
        raise ModelShapeError(f"model.path={name}: its config.json has no {error.args[0]}") from error
