"""What a run says while it lives: what must not be lost is in run.log too, for a terminal that is gone."""

import io
import logging
from pathlib import Path
from unittest.mock import Mock

import pytest
from rich.console import Console

from configs.loading import load_config
from orchestration.session import Session


def test_a_warning_goes_to_the_terminal_and_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    terminal = io.StringIO()
    session = Session(
        config=load_config([]),
        run_dir=Path("run"),
        store=Mock(),
        console=Console(file=terminal),
        boundary=Mock(),
        ending=Mock(),
    )
    with caplog.at_level(logging.WARNING):
        session.warn("node 10.0.0.2 (engine 1 there) does not answer any more")
    assert terminal.getvalue() == "node 10.0.0.2 (engine 1 there) does not answer any more\n"
    assert caplog.messages == ["node 10.0.0.2 (engine 1 there) does not answer any more"]
