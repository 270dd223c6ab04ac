"""When a run's end is drawn: after a failure as after success, not after a signal."""

import io
import json
import signal
from pathlib import Path

import pytest
from rich.console import Console

from configs.loading import load_config
from orchestration.report.pictures import pictures_at_end
from orchestration.terminal.leaving import Terminated
from orchestration.terminal.stopping import Stopping

ROWS = [{"iteration": index, "reward/mean": 0.5} for index in range(2)]
CURVES = "orchestration.report.pictures.draw_curves"


def printed(folder: Path, error: BaseException | None) -> list[str]:
    """What is printed at the end of a run that the error ends."""
    out = io.StringIO()

    def run() -> None:
        with pictures_at_end(load_config([]), folder, Console(file=out, width=300)):
            (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
            if error is not None:
                raise error

    if error is None:
        run()
    else:
        with pytest.raises(type(error)):
            run()
    return out.getvalue().splitlines()


@pytest.mark.parametrize("error", [None, OSError("engine gone")], ids=str)
def test_curves_are_drawn_after_a_failure_too(error: Exception | None, tmp_path: Path) -> None:
    assert printed(tmp_path, error) == [
        f"curves: {tmp_path}/curves.png",
        f"no report: {tmp_path}: holds no run (config.yaml is missing); name a run's folder",
    ]
    assert (tmp_path / "curves.png").stat().st_size > 0


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Terminated(signal.SIGTERM)], ids=["SIGINT", "SIGTERM"])
def test_nothing_is_drawn_after_a_signal(error: BaseException, tmp_path: Path) -> None:
    assert printed(tmp_path, error) == []
    assert not (tmp_path / "curves.png").exists()


def test_ctrl_c_ends_the_drawing_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def draw(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)
        drawn.append("curves")

    monkeypatch.setattr(CURVES, draw)
    error = OSError("engine gone")
    stopping = Stopping()
    stopping.settle(error)
    with pytest.raises(OSError, match="engine gone"), stopping:
        printed(tmp_path, error)
    assert drawn == []
