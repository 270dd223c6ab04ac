"""The files of model.path: found, complete, and fitting each other and the run's longest sequence.

In: the model's section. Out: a FoundModel with its size, and one line for each mistake. Reads texts and headers, not
weights, and imports neither torch nor transformers.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from configs.loading import ConfigError
from configs.schema import ModelConfig
from orchestration.plan.scenario import embedded_config, model_shape
from orchestration.startup.checks.hub import HubError, downloaded_folder, require_on_hub
from orchestration.startup.checks.result import reason_of
from orchestration.startup.checks.weights import read_weights

HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "tekken.json",
    "vocab.json",
    "vocab.txt",
)
LONGER_ALLOWED = "VLLM_ALLOW_LONG_MAX_MODEL_LEN"  # vLLM's own permission to exceed the model's length
# kinds of stretched positions whose factor is in max_position_embeddings already, as vLLM sees them
COUNTED_IN = ("su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling")


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundModel:
    """What is known of a model before anything loads it."""

    found: str  # one line: where it is
    folder: Path | None = None  # folder of its files; None for a model that is built or downloaded later
    is_downloaded_later: bool = False
    num_parameters: int | None = None  # None where it is not known yet
    defects: tuple[str, ...] = ()  # one line for each thing that is wrong with its files
    misfits: tuple[str, ...] = ()  # one line for each setting that it does not fit

    @property
    def mistakes(self) -> tuple[str, ...]:
        return (*self.defects, *self.misfits)


def find_model(model: ModelConfig) -> FoundModel:
    """Looks the model up: a folder, a name in the hub's cache, or a name on the hub."""
    path = Path(model.path)
    if model.path == "embedded":
        misfits = tuple(_lengths(model, embedded_config()))
        return FoundModel(found="the embedded model", num_parameters=_counted(model.path), misfits=misfits)
    if path.is_dir():
        return _in_folder(model, path, key=f"model.path={model.path}")
    if path.exists():
        return _unusable(model, "is a file; name the folder of a Hugging Face model")
    if not HUB_NAME.fullmatch(model.path):
        return _unusable(model, "no such folder; correct the path")
    return _on_hub(model)


def _on_hub(model: ModelConfig) -> FoundModel:
    """A model that was downloaded whole is judged by its files, any other by what the hub answers."""
    here: FoundModel | None = None
    try:
        if (folder := downloaded_folder(model.path)) is not None:
            here = _in_folder(model, folder, key=f"model.path={model.path}: {folder}")
            if not here.defects:
                return here
        require_on_hub(model.path)
    except HubError as error:
        if here is not None:
            return replace(here, defects=tuple(f"{line}, and {error}" for line in here.defects))
        return _unusable(model, f"no such folder, and {error}; correct it, or name a folder that holds the model")
    found = f"{model.path} on the hub, to be downloaded"
    misfits = here.misfits if here is not None else ()
    return FoundModel(found=found, is_downloaded_later=True, num_parameters=_counted(model.path), misfits=misfits)


def _unusable(model: ModelConfig, reason: str) -> FoundModel:
    return FoundModel(found="none", defects=(f"model.path={model.path}: {reason}",))


def _in_folder(model: ModelConfig, folder: Path, *, key: str) -> FoundModel:
    try:
        config = _tree(folder / "config.json")
    except FileNotFoundError:
        return FoundModel(found="none", defects=(f"{key}: has no config.json; name the folder of a model",))
    except (OSError, ValueError) as error:
        return FoundModel(
            found="none", defects=(f"{key}: its config.json is not readable ({reason_of(error)}); correct it",)
        )
    weights = read_weights(folder)
    rows = weights.embedding_rows or _size(config, "vocab_size")
    defects = (*weights.mistakes, *_tokenizer_mistakes(folder, rows=rows))
    return FoundModel(
        found=f"{folder}: {weights.num_parameters:,} parameters" if weights.num_parameters else f"{folder}",
        folder=folder,
        num_parameters=weights.num_parameters or _counted(str(folder)),
        defects=tuple(f"{key}: {defect}" for defect in defects),
        misfits=tuple(_lengths(model, config)),
    )


def _counted(path: str) -> int | None:
    """Parameters as the planner counts them by the sizes in a config.json; None for a family that it does not know."""
    try:
        return model_shape(path).num_parameters
    except ConfigError:
        return None


def _lengths(model: ModelConfig, config: Mapping[str, Any]) -> Iterator[str]:
    longest = _size(config, "max_position_embeddings")
    if longest is None or os.environ.get(LONGER_ALLOWED) == "1":
        return
    longest = int(longest * max(_stretches(_inner(config)), default=1.0))
    if model.max_model_len > longest:
        yield (
            f"model.max_model_len={model.max_model_len}: must be at most {longest}, the positions that "
            f"model.path={model.path} knows (max_position_embeddings)"
        )


def _stretches(config: Mapping[str, Any]) -> Iterator[float]:
    """Factors by which positions are stretched, for all layers or for each kind of layer."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    for kind in (rope, *rope.values()) if isinstance(rope, dict) else ():
        if isinstance(kind, dict) and (kind.get("rope_type") or kind.get("type")) not in COUNTED_IN:
            factor = kind.get("factor")
            yield float(factor) if isinstance(factor, int | float) else 1.0


def _tokenizer_mistakes(folder: Path, *, rows: int | None) -> Iterator[str]:
    """A missing tokenizer, or one with tokens that the embedding has no row for."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        yield "has no tokenizer (tokenizer.json); copy it from the model that it was trained from"
        return
    path = folder / "tokenizer.json"
    if not path.is_file() or rows is None:
        return
    try:
        largest = max(_token_ids(_tree(path), template=_template(folder)), default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        yield f"its tokenizer.json is not readable ({reason_of(error)}); download it again"
        return
    if largest >= rows:
        yield f"its tokenizer has token ids up to {largest}, its embedding {rows} rows; name a tokenizer of this model"


def _token_ids(tree: Mapping[str, Any], *, template: str) -> Iterator[int]:
    """Ids that a prompt may have: of special tokens only those in the chat template, as others never occur."""
    vocabulary = tree["model"]["vocab"]
    yield from vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
    for token in tree.get("added_tokens", ()):
        if not token["special"] or token["content"] in template:
            yield token["id"]


def _template(folder: Path) -> str:
    """The text of the chat template, or of several; empty where there is none."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    path = folder / "tokenizer_config.json"
    return json.dumps(_tree(path).get("chat_template", ""), ensure_ascii=False) if path.is_file() else ""


def _tree(path: Path) -> dict[str, Any]:
    tree = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(tree, dict):
        raise ValueError("is no mapping")
    return tree


def _inner(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of the language model, which a model of several inputs keeps in a section of its own."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def _size(config: Mapping[str, Any], name: str) -> int | None:
    value = _inner(config).get(name)
    return value if isinstance(value, int) else None
