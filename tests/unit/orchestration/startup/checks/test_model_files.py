"""Models by folder, by a name that is downloaded, and by a name on a hub that answers in every way."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import huggingface_hub.constants
import numpy as np
import pytest
from safetensors.numpy import save_file

from configs.schema import ModelConfig
from orchestration.startup.checks import hub
from orchestration.startup.checks.model_files import FoundModel, find_model

NAME = "someone/some-model"


def write_model(folder: Path, *, tokenizer: dict[str, Any] | None = None, **config: Any) -> Path:
    """A model with an embedding of 8 rows and a tokenizer of two words."""
    folder.mkdir(parents=True, exist_ok=True)
    tree = {"model_type": "unheard-of", "max_position_embeddings": 64} | config
    (folder / "config.json").write_text(json.dumps(tree))
    words = {"model": {"vocab": {"a": 0, "b": 7}}} | (tokenizer or {})
    (folder / "tokenizer.json").write_text(json.dumps(words))
    save_file({"embed_tokens.weight": np.zeros((8, 4), np.float32)}, folder / "model.safetensors")
    return folder


def model(path: Path | str, length: int = 64) -> FoundModel:
    return find_model(ModelConfig(path=str(path), max_model_len=length))


def test_a_whole_model_of_any_family_is_counted(tmp_path: Path) -> None:
    found = model(write_model(tmp_path / "m"))
    assert (found.folder, found.num_parameters, found.mistakes) == (tmp_path / "m", 32, ())


def test_the_embedded_model_is_known_before_it_is_built() -> None:
    found = model("embedded")
    assert (found.folder, found.num_parameters, found.mistakes) == (None, 298_880, ())


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        ({}, 64),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, 128),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, 64),
        ({"rope_scaling": {"type": "dynamic", "factor": 4}}, 256),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, 64),
        ({"rope_parameters": {"full": {"rope_type": "linear", "factor": 2}, "sliding": {"rope_type": "default"}}}, 128),
        ({"text_config": {"max_position_embeddings": 100}}, 100),
    ],
)
def test_the_longest_sequence_is_the_one_that_engines_accept(
    tmp_path: Path, config: dict[str, Any], longest: int
) -> None:
    folder = write_model(tmp_path / "m", **config)
    assert model(folder, longest).mistakes == ()
    (line,) = model(folder, longest + 1).mistakes
    assert line.startswith(f"model.max_model_len={longest + 1}: must be at most {longest}, ")


def test_what_the_engine_is_allowed_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "1")
    assert model(write_model(tmp_path / "m"), 4096).mistakes == ()


@pytest.mark.parametrize(
    ("tokenizer", "fits"),
    [
        ({"added_tokens": [{"id": 7, "content": "<t>", "special": False}]}, True),
        ({"added_tokens": [{"id": 8, "content": "<t>", "special": False}]}, False),
        ({"added_tokens": [{"id": 8, "content": "<image>", "special": True}]}, True),  # no prompt has it
        ({"added_tokens": [{"id": 8, "content": "<|user|>", "special": True}]}, False),  # the template has it
        ({"model": {"vocab": [["a", -1.0]] * 8}}, True),
        ({"model": {"vocab": [["a", -1.0]] * 9}}, False),
    ],
)
def test_every_token_of_a_prompt_needs_a_row(tmp_path: Path, tokenizer: dict[str, Any], fits: bool) -> None:
    folder = write_model(tmp_path / "m", tokenizer=tokenizer)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": "<|user|>{{ messages }}", "x": "<image>"})
    )
    assert (model(folder).mistakes == ()) == fits


def test_all_defects_of_a_folder_are_told(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    (folder / "tokenizer.json").unlink()
    (folder / "model.safetensors").write_bytes(b"")
    first, second, third = model(folder, 65).mistakes
    assert "model.safetensors: is no safetensors file or cut short" in first
    assert "has no tokenizer" in second
    assert third.startswith("model.max_model_len=65")


class Hub(BaseHTTPRequestHandler):
    """Answers with the status that the model's name ends in."""

    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_HEAD(self) -> None:
        self.asked.append((self.path, self.headers["Authorization"]))
        status = int(self.path.split("/")[2].removeprefix("gives-"))
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Hub]]:
    """A hub on this machine, and an empty cache."""
    with HTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("HF_TOKEN", "hf_marked")
        Hub.asked = []
        yield Hub
        server.shutdown()


@pytest.mark.parametrize("status", [200, 307])
def test_a_model_on_the_hub_is_downloaded_later(online: type[Hub], status: int) -> None:
    found = model(f"someone/gives-{status}")
    assert (found.mistakes, found.is_downloaded_later, found.num_parameters) == ((), True, None)
    assert online.asked == [(f"/someone/gives-{status}/resolve/main/config.json", "Bearer hf_marked")]


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, "the hub has no such model, or it is private; set HF_TOKEN to a token that may"),
        (403, "the hub does not let you read it; set HF_TOKEN to a token that may"),
        (404, "the hub has no config.json of this name"),
        (503, "the hub answers 503 Service Unavailable"),
    ],
)
def test_a_refusal_of_the_hub_is_one_line(online: type[Hub], status: int, reason: str) -> None:
    (line,) = model(f"someone/gives-{status}").mistakes
    name = f"model.path=someone/gives-{status}: no such folder, and "
    assert line == f"{name}{reason}; correct it, or name a folder that holds the model"
    assert "hf_marked" not in line


def test_a_hub_that_cannot_be_reached_is_given_up(online: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:1")
    (line,) = model(NAME).mistakes
    assert "and the hub cannot be reached: Connection refused; correct it" in line
    released = threading.Event()

    def never_answers(*_: object, **__: object) -> None:
        released.wait(60)
        raise OSError("too late")

    monkeypatch.setattr(hub, "ANSWER_TIMEOUT_S", 0.2)
    monkeypatch.setattr(hub.OPENER, "open", never_answers)
    (line,) = model(NAME).mistakes
    released.set()
    assert "and the hub cannot be reached: no answer within 0.2 s" in line


def cached(tmp_path: Path) -> Path:
    """A model in the hub's cache."""
    place = tmp_path / "cache" / "models--someone--some-model"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("abc")
    return write_model(place / "snapshots" / "abc")


def test_a_downloaded_model_needs_no_hub(online: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cached(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    found = model(NAME)
    assert (found.folder, found.mistakes, online.asked) == (folder, (), [])
    (folder / "model.safetensors").unlink()
    line, misfit = model(NAME, 65).mistakes
    assert line.startswith(f"model.path={NAME}: {folder}: has no weights")
    assert line.endswith(", and HF_HUB_OFFLINE is set")
    assert misfit.startswith("model.max_model_len=65: must be at most 64")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    place = folder.parents[1]
    place.rename(place.with_name("models--someone--gives-200"))
    found = model("someone/gives-200", 65)
    assert (found.is_downloaded_later, found.mistakes) == (True, (misfit.replace(NAME, "someone/gives-200"),))
