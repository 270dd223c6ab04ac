"""What is so when a mistaken command is given: files, folders, variables and versions that are not as usual."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mistakes.rows import Given
from safetensors.numpy import save_file

from configs.loading import dump_yaml, load_config
from orchestration.journal.run_files import CONFIG_FILE, METRICS_FILE
from orchestration.startup.checks import folders, versions
from orchestration.stream.recordings import manifest_of
from rollout.recording import write_manifest

SIZES = {"model_type": "qwen2", "vocab_size": 8, "max_position_embeddings": 4096}
TOKENIZER = {
    "version": "1.0",
    "added_tokens": [],
    "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "[UNK]": 2}, "unk_token": "[UNK]"},
}
WHOLE_MODEL: dict[str, object] = {
    "config.json": SIZES,
    "tokenizer.json": TOKENIZER,
    "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"},
}


def write(name: str, content: object = "") -> None:
    """Writes text as it stands and anything else as JSON."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def file(name: str, content: object = "", *, words: str = "") -> Given:
    return Given(words=words or f"{name} is a file", prepare=lambda patch: write(name, content))


def module(name: str, text: str) -> Given:
    """A module of the user's own beside the command."""

    def prepare(patch: pytest.MonkeyPatch) -> None:
        write(name, text)
        patch.syspath_prepend(str(Path.cwd()))
        patch.delitem(sys.modules, Path(name).stem, raising=False)  # another test's module of that name

    return Given(words=f"{name} holds `{text.strip()}`", prepare=prepare)


def variable(name: str, value: str, *, blocked_by: str = "") -> Given:
    """A variable of the environment; blocked_by: a file in the current folder, below which the value lies."""

    def prepare(patch: pytest.MonkeyPatch) -> None:
        if blocked_by:
            write(blocked_by)
        patch.setenv(name, str(Path.cwd() / value) if blocked_by else value)

    return Given(words=f"{name}={value}" + (f", and {blocked_by} is a file" if blocked_by else ""), prepare=prepare)


def model(words: str, files: dict[str, object], *, without: tuple[str, ...] = ()) -> Given:
    """The folder my-model with a whole model, but for these files and without those."""

    def prepare(patch: pytest.MonkeyPatch) -> None:
        write("my-model/config.json")
        save_file({"model.embed_tokens.weight": np.zeros((8, 4), np.float32)}, Path("my-model/model.safetensors"))
        for name, content in (WHOLE_MODEL | files).items():
            write(f"my-model/{name}", content)
        for name in without:
            Path("my-model", name).unlink()

    return Given(words=words, prepare=prepare)


def together(*givens: Given) -> Given:
    def prepare(patch: pytest.MonkeyPatch) -> None:
        for given in givens:
            given.prepare(patch)

    return Given(words=", ".join(given.words for given in givens), prepare=prepare)


def cut_short(patch: pytest.MonkeyPatch) -> None:
    """A whole model whose weights ended early, as a download does."""
    model("", {}).prepare(patch)
    path = Path("my-model/model.safetensors")
    path.write_bytes(path.read_bytes()[:-10])


def run_folder(name: str, *settings: str) -> Given:
    """A folder with a run of these settings."""

    def prepare(patch: pytest.MonkeyPatch) -> None:
        write(f"{name}/{METRICS_FILE}")
        write(f"{name}/{CONFIG_FILE}", dump_yaml(load_config(settings)))

    return Given(words=f"{name} holds a run" + (f" with {' '.join(settings)}" if settings else ""), prepare=prepare)


def recording(name: str, *settings: str) -> Given:
    """A folder with the beginning of a recording, of these settings."""

    def prepare(patch: pytest.MonkeyPatch) -> None:
        write_manifest(Path(name), manifest_of(load_config(settings), vocabulary="v"))

    return Given(words=f"{name} holds an empty recording", prepare=prepare)


def little_room(free: int) -> Given:
    def prepare(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(folders, "disk_usage", lambda path: SimpleNamespace(free=free))

    return Given(words=f"the disk has {free // 10**6} MB left", prepare=prepare)


def installed(name: str, version: str | None) -> Given:
    real: Callable[[str], str | None] = versions.installed

    def prepare(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(versions, "installed", lambda asked: version if asked == name else real(asked))

    return Given(words=f"{name} {version} is installed", prepare=prepare)


LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n"
INDEX = {"weight_map": {"model.embed_tokens.weight": "model-00001-of-00002.safetensors"}}
TOO_MANY_TOKENS = TOKENIZER | {"added_tokens": [{"id": 8, "content": "<think>", "special": False}]}
NO_SYSTEM = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "chat_template": "{% if messages[0].role == 'system' %}{{ raise_exception('no system prompt here') }}{% endif %}",
}
LONG_FOLDER = "/tmp/a-folder-whose-name-leaves-no-room-for-the-names-of-rays-sockets-in-it"
QUESTIONS = file("mine.jsonl", {"question": "1 + 1", "answer": 2}, words="mine.jsonl holds a question")
