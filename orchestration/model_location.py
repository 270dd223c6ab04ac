"""Location of a run's model: the configured folder or hub name, or the embedded model, built on first use."""

from pathlib import Path

from rich.console import Console

from configs.schema import ModelConfig
from orchestration.terminal.console import progress_of
from rollout.tasks.embedded_model import ensure_embedded_model


def locate_model(model: ModelConfig, console: Console) -> Path | str:
    """The folder or hub name to load; "embedded" is built on first use, with a progress bar, and cached."""
    if model.path != "embedded":
        return model.path
    with progress_of(console, "building the embedded model (once)") as progress:
        return ensure_embedded_model(progress=progress)
