"""What the user's own rewards may do to their process: it costs the reward, and nothing outlives the grader."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from configs.graders import GradersConfig
from configs.rewards import RewardConfig
from rollout.rewards.child import GraderChild, GradingError
from rollout.rewards.output import HOURLY_BYTES

RIGHT = "<think>a</think><answer>42</answer>"
CONFIG = GradersConfig(memory_gib=0.75, max_processes=12, timeout_s=60.0)
FAILURES = {
    "exit": "ended its process with exit status 3; it",
    "sys.exit": "raised SystemExit: 4; it",
    "interrupt": "raised KeyboardInterrupt: from within; it",
    "segfault": "was ended by SIGSEGV; it",
    "killed": "was ended by SIGKILL; it",
    "stopped": "was ended by SIGSTOP; it",
    "group": "was ended by SIGKILL; it",
    "processes": "met its limit of graders.max_processes=12 processes; it",
    "bomb": "met its limit of graders.max_processes=12 processes; it",
    "memory": "met its limit of graders.memory_gib=0.75 GiB; it",
    "memories": "met its limit of graders.memory_gib=0.75 GiB; it",
    "huge": "raised OverflowError: int too large to convert to float; it",
    "long": f"raised ValueError: {'x' * 300}; it",
}
HARMLESS = {"fork": 1.0, "input": 0.0, "output": 1.0}


def wait_until(is_true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60.0
    while not is_true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def is_gone(process_id: int) -> bool:
    try:
        return psutil.Process(process_id).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def read_id(path: Path) -> int:
    assert wait_until(lambda: path.exists() and path.read_text() != "")
    return int(path.read_text())


@pytest.fixture(autouse=True)
def _traps_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def reward(on_error: str) -> RewardConfig:
    extra = {"own": {"function": "reward_traps:own"}}
    return RewardConfig.model_validate({"extra": extra, "on_error": on_error})


@pytest.fixture
def child() -> Iterator[GraderChild]:
    grader = GraderChild(CONFIG, reward=reward("zero"))
    yield grader
    grader.close()


def own_values(grader: GraderChild, *texts: str) -> list[float]:
    """Values of the user's own reward; the built-in ones must be right."""
    verdicts = grader.grade([*texts, RIGHT], reference_answer="42")
    assert all(verdict is not None for verdict in verdicts)
    *found, right = (verdict for verdict in verdicts if verdict is not None)
    assert right.values == {"format": 1.0, "answer": 1.0, "own": 1.0}, "the next completion is graded as usual"
    return [verdict.value("own") for verdict in found]


def test_a_failing_reward_costs_its_own_component_and_is_named(
    child: GraderChild, capfd: pytest.CaptureFixture[str]
) -> None:
    assert own_values(child, *FAILURES) == [0.0] * len(FAILURES)
    written = capfd.readouterr().err
    for words in FAILURES.values():
        assert f"reward.extra.own {words} counts as 0\n" in written
    child.close()


@pytest.mark.parametrize("failure", ["exit", "killed", "bomb"])
def test_a_failing_reward_is_an_error_where_asked(failure: str) -> None:
    grader = GraderChild(CONFIG, reward=reward("raise"))
    with pytest.raises(GradingError, match="^" + re.escape(f"reward.extra.own {FAILURES[failure].removesuffix('it')}")):
        grader.grade([RIGHT, failure], reference_answer="42")
    grader.close()


def test_what_a_reward_prints_reads_and_forks_does_no_harm(
    child: GraderChild, capfd: pytest.CaptureFixture[str]
) -> None:
    assert own_values(child, *HARMLESS) == list(HARMLESS.values())
    child.close()
    assert HOURLY_BYTES < len(capfd.readouterr().err) < HOURLY_BYTES + 200


def test_a_child_that_is_killed_once_costs_nothing(child: GraderChild, tmp_path: Path) -> None:
    assert own_values(child, f"killed-once {tmp_path / 'killed'}") == [1.0]


def supervised(grader: GraderChild) -> psutil.Process:
    """The process that grades; its parent is its supervisor."""
    (found,) = (process for process in psutil.Process(grader._process.pid).children() if "sleep" not in process.name())
    return found


@pytest.mark.parametrize(
    ("sent", "to_supervisor", "to_grading"),
    [(signal.SIGKILL, True, False), (signal.SIGSTOP, False, True), (signal.SIGSTOP, True, True)],
    ids=["supervisor killed", "stopped", "both stopped"],
)
def test_a_child_that_is_killed_or_stopped_at_rest_costs_nothing(
    child: GraderChild, sent: signal.Signals, to_supervisor: bool, to_grading: bool
) -> None:
    own_values(child)
    grading = supervised(child)
    if to_supervisor:
        os.kill(child._process.pid, sent)
    if to_grading:
        grading.send_signal(sent)
    assert own_values(child, RIGHT) == [1.0]
    assert wait_until(lambda: is_gone(grading.pid))


@pytest.mark.parametrize("how", ["closed", "replaced"])
def test_a_daemon_of_a_reward_ends_with_the_child(child: GraderChild, tmp_path: Path, how: str) -> None:
    assert own_values(child, f"daemon {tmp_path / 'id'}") == [1.0]
    daemon = read_id(tmp_path / "id")
    assert not is_gone(daemon)
    if how == "closed":
        child.close()
    else:
        own_values(child, "exit")
    assert wait_until(lambda: is_gone(daemon))


HOST = """
import sys, time
from configs.graders import GradersConfig
from configs.rewards import RewardConfig
from rollout.rewards.child import GraderChild
reward = RewardConfig.model_validate({"extra": {"own": {"function": "reward_traps:own"}}})
grader = GraderChild(GradersConfig(), reward=reward)
grader.grade(["daemon " + sys.argv[1]], reference_answer="42")
print(grader._process.pid, flush=True)
time.sleep(3600)
"""


@pytest.mark.parametrize("is_stopped", [False, True])
def test_a_daemon_of_a_reward_ends_with_an_actor_that_is_killed(tmp_path: Path, is_stopped: bool) -> None:
    paths = os.pathsep.join(filter(None, sys.path))
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, str(tmp_path / "id")],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": paths},
    )
    assert host.stdout is not None
    supervisor, daemon = int(host.stdout.readline()), read_id(tmp_path / "id")
    if is_stopped:
        os.kill(supervisor, signal.SIGSTOP)
    host.kill()
    host.communicate()
    assert wait_until(lambda: is_gone(daemon))
    assert wait_until(lambda: is_gone(supervisor))


def test_a_reward_that_cannot_be_loaded_in_the_child_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    config = RewardConfig.model_validate({"extra": {"own": {"function": "reward_traps:missing"}}})
    grader = GraderChild(CONFIG, reward=config)
    with pytest.raises(GradingError, match=r"^reward\.extra\.own\.function=reward_traps:missing: missing is not in"):
        grader.grade([RIGHT], reference_answer="42")
    grader.close()
