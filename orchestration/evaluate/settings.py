"""Settings that determine the numbers of an evaluation; its folder stores them, and a resume must have the same.

In: the configuration and its model. Out: a flat dict of plain values by dotted name, and the default folder's name.
Settings of the cluster, the number of engines and time-outs are left out, because they do not change the numbers.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from configs.schema import ModelConfig, RunConfig
from rollout.tasks.embedded_model import EmbeddedRecipe

ROOT = Path("evals")
SAMPLED_PLACES = 16  # places read in a weights file; training changes every weight, so a few distinguish two models
SAMPLED_BYTES = 65_536


def settings_of(config: RunConfig) -> dict[str, Any]:
    """Every setting that changes a number, with `auto` resolved unless the device decides it."""
    evaluation, task = config.eval, config.task
    settings: dict[str, Any] = {
        "model.path": config.model.path,
        "model.weights": weights_digest(config.model),
        "model.max_model_len": config.model.max_model_len,
        "task": task.name,
        "eval.num_prompts": evaluation.num_prompts,
        "eval.samples": evaluation.samples,
        "eval.temperature": evaluation.temperature,
        "eval.top_p": evaluation.top_p,
        "eval.max_new_tokens": evaluation.limit_new_tokens(config.rollout.max_new_tokens),
        "eval.seed": evaluation.seed,
        "rollout.dtype": config.rollout.dtype,
    }
    if task.prompt is not None:
        settings |= {f"task.prompt.{name}": value for name, value in task.prompt.model_dump(mode="json").items()}
    return settings


def weights_digest(model: ModelConfig) -> str:
    """Digest that distinguishes models at the same path: 16 hex digits of the folder, or `hub` for a hub name."""
    if model.path == "embedded":
        return EmbeddedRecipe().hash()
    folder = Path(model.path)
    if not folder.is_dir():
        return "hub"
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")]):
        size = path.stat().st_size
        digest.update(f"{path.name}/{size}/".encode())
        with path.open("rb") as file:
            for place in range(SAMPLED_PLACES):
                file.seek(size * place // SAMPLED_PLACES)
                digest.update(file.read(SAMPLED_BYTES))
    return digest.hexdigest()[:16]


def default_folder(settings: dict[str, Any]) -> Path:
    """The default folder, evals/<model>-<8 hex digits of the settings>, in which a repeated command finds its rows."""
    names = [part for part in Path(settings["model.path"]).parts if part.strip("/.")]
    model = re.sub(r"[^\w.-]+", "-", "-".join(names[-2:]))
    content = json.dumps({name: value for name, value in settings.items() if name != "model.weights"}, sort_keys=True)
    return ROOT / f"{model}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"
