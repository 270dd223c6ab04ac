"""What is told of a gate at the start of a run, and which gates are refused."""

import math
import sys
from types import ModuleType

import pytest
import torch

from configs.loading import ConfigError, load_config
from orchestration.gate_notices import gate_notices, refuse_inadmissible


class Cut:
    """relu-like: no slope below ratio 1."""

    name = "cut"

    def value(self, ratio: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
        return torch.relu(ratio - 1.0)


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> str:
    module = ModuleType("notice_gates")
    module.make = Cut  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "notice_gates", module)
    return "notice_gates:make"


def test_matched_taus_are_told_with_those_they_come_from() -> None:
    config = load_config(["gate=erf", "gate.match=half_width", "gate.match_to=softsign"])
    (line,) = gate_notices(config.gate, device="cpu")
    assert "half_width of softsign at tau_pos=10, tau_neg=12" in line
    wider = math.sqrt(2 * math.log(2)) / math.sqrt(2 ** (2 / 3) - 1)  # half-widths of exp(-y^2/2) and (1 + y^2)^-3/2
    assert line.endswith(f"its own are tau_pos={10 * wider:.6g}, tau_neg={12 * wider:.6g}")


@pytest.mark.parametrize("gate", ["softsign", "clip", "power"])
def test_a_built_in_gate_as_configured_needs_no_words(gate: str) -> None:
    config = load_config([f"gate={gate}"])
    assert gate_notices(config.gate, device="cpu") == []
    refuse_inadmissible([config])


def test_every_broken_condition_of_every_run_is_told(cut: str) -> None:
    configs = [load_config(["gate=custom", f"gate.factory={cut}", f"seed={seed}"]) for seed in (0, 1)]
    with pytest.raises(ConfigError) as caught:
        refuse_inadmissible(configs)
    assert all(line.startswith(f"gate.factory={cut}: (") for line in caught.value.lines)
    assert any(": (i) " in line for line in caught.value.lines)


def test_a_factory_that_is_not_there_is_told_in_one_line() -> None:
    config = load_config(["gate=custom", "gate.factory=no_such_module:make"])
    with pytest.raises(ConfigError, match=r"gate\.factory=") as caught:
        refuse_inadmissible([config])
    assert len(caught.value.lines) == 1


def test_an_inadmissible_gate_that_was_allowed_is_stated(cut: str) -> None:
    config = load_config(["gate=custom", f"gate.factory={cut}", "gate.allow_inadmissible=true"])
    refuse_inadmissible([config])
    *lines, kernel = gate_notices(config.gate, device="cpu")
    assert kernel == "gate cut has no fused kernel on a cpu: its loss is computed by the reference formulas"
    assert lines
    assert all(line.startswith("gate.allow_inadmissible=true: cut violates condition (") for line in lines)
