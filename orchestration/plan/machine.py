"""Which model a plan is of, and which machine it is made on, in numbers and in words.

In: a RunConfig. Out: the model's shape, the device, a line about the processor or GPU. Starts nothing.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path

from configs.schema import RunConfig
from orchestration.plan.model_shape import KNOWN_CONFIGS, ModelShape, ModelShapeError, shape_of
from rollout.tasks.embedded_model import EmbeddedRecipe


def model_shape(config: RunConfig) -> ModelShape:
    """Of the configuration's model: the embedded one, a folder, one of configs/model, or from the hub."""
    path = config.model.path
    if path == "embedded":
        return _embedded_shape(EmbeddedRecipe())
    folder = Path(path)
    if (folder / "config.json").is_file():
        return shape_of(json.loads((folder / "config.json").read_text(encoding="utf-8")), name=path)
    if path in KNOWN_CONFIGS:
        return shape_of(KNOWN_CONFIGS[path], name=path)
    from transformers import AutoConfig

    try:
        found = AutoConfig.from_pretrained(path, trust_remote_code=config.model.trust_remote_code)
    except OSError as error:
        raise ModelShapeError(f"model.path={path}: no config.json in a folder or on the hub") from error
    return shape_of(found.to_dict(), name=path)


def _embedded_shape(recipe: EmbeddedRecipe) -> ModelShape:
    sizes = asdict(recipe)
    return shape_of(
        {
            "model_type": "qwen2",
            "vocab_size": len(recipe.vocabulary),
            "num_hidden_layers": sizes["num_layers"],
            "num_attention_heads": sizes["num_heads"],
            "tie_word_embeddings": sizes["tied_embeddings"],
            **sizes,
        },
        name="embedded",
    )


def device_of(config: RunConfig) -> str:
    """cpu or gpu: what the configuration says, else what this machine has."""
    if config.cluster.device != "auto":
        return config.cluster.device
    from orchestration.cluster import local_resources

    return "gpu" if local_resources().get("GPU", 0) > 0 else "cpu"


def machine_in_words(device: str) -> str:
    """The processor or GPU, and how many."""
    from orchestration.cluster import local_resources

    if device == "gpu":
        resources = local_resources()
        kinds = [name.partition(":")[2] for name in resources if name.startswith("accelerator_type:")]
        return f"{resources.get('GPU', 0):g} x {' '.join(kinds) or 'GPU'}"
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.is_file() else []
    name = names[0].partition(":")[2].strip() if names else "CPU"
    return f"{name}, {os.cpu_count()} cores"
