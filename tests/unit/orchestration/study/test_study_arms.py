"""The arms of a study: what their folders hold, in which order they run, and that failures and stops are survived.

Runs are played by a small script that writes rows as a run does, told what to do by the name of the gate.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from study_folders import write_run

from configs.loading import ConfigError
from orchestration.checkpoints.state import RunState
from orchestration.checkpoints.store import CheckpointStore
from orchestration.journal.run_files import last_lines
from orchestration.startup.ownership import own
from orchestration.stream.positions import FRESH
from orchestration.study.arms import arm_status, clear_the_way, refuse_other_settings, run_arguments
from orchestration.study.launch import LaunchError, LocalLauncher
from orchestration.study.schedule import Failure, RowCounter, run_arms
from orchestration.study.settings import Arm, help_text, plan_arms, split_settings

ROOT = Path(__file__).resolve().parents[4]
SHORT = ("experiment=separate_gates", "num_iterations=12")
# Writes its folder by the helper of the report tests; erf fails, arctan sleeps until it is interrupted.
PLAYED = """
import sys, time
from pathlib import Path
sys.path[:0] = [{tests!r}, {root!r}]
settings = [word for word in sys.argv[1:] if not word.startswith(("run_dir=", "resume="))]
folder = Path(next(word for word in sys.argv if word.startswith("run_dir=")).partition("=")[2].strip("'"))
with (folder.parent / "events").open("a") as events:
    events.write(f"{{folder.name}} {{'resume=true' in sys.argv}}\\n")
if "gate=erf" in settings:
    print("loading", flush=True)
    sys.exit("softgate: no such model")
if "gate=arctan" in settings:
    try:
        (folder.parent / f"{{folder.name}}.asleep").touch()
        time.sleep(600)
    except KeyboardInterrupt:
        (folder.parent / "interrupted").touch()
        sys.exit(130)
from study_folders import write_run
write_run(folder, *settings)
if any(word.startswith("rollout.record=") for word in settings):
    Path(next(w for w in settings if w.startswith("rollout.record=")).partition("=")[2].strip("'")).mkdir(parents=True)
"""


class Told:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def started(self, status: object, *, moved_aside: Path | None) -> None:
        self.events.append(f"started {status.arm.name}{' aside' if moved_aside else ''}")  # type: ignore[attr-defined]

    def progressed(self, name: str, num_iterations: int) -> None:
        pass

    def ended(self, status: object, failure: Failure | None, *, elapsed_s: float) -> None:
        self.events.append(f"{'failed' if failure else 'done'} {status.arm.name}")  # type: ignore[attr-defined]


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalLauncher:
    monkeypatch.setattr("orchestration.study.schedule.POLL_S", 0.02)
    script = tmp_path / "played.py"
    script.write_text(PLAYED.format(tests=str(ROOT / "tests"), root=str(ROOT)))
    return LocalLauncher(script=script)


def arms_of(study_dir: Path, *arguments: str) -> tuple[Arm, ...]:
    study, settings = split_settings([*SHORT, *arguments])
    return plan_arms(study, settings, study_dir=study_dir)


def schedule(study_dir: Path, launcher: LocalLauncher, *arguments: str) -> tuple[list[Failure], list[str]]:
    study_dir.mkdir(exist_ok=True)
    told = Told()
    statuses = [arm_status(arm, study_dir) for arm in arms_of(study_dir, *arguments)]
    return run_arms(statuses, study_dir, launcher=launcher, parallel=2, observer=told), told.events


def checkpoint(folder: Path, iteration: int) -> None:
    store = CheckpointStore(folder / "checkpoints", keep_last=1)
    state = RunState(iteration=iteration, policy_version=iteration, positions=FRESH)
    store.commit(store.begin(iteration), state, {})


def test_what_a_folder_holds(tmp_path: Path) -> None:
    (arm,) = arms_of(tmp_path, "gates=[clip]", "seeds=[0]")
    folder = tmp_path / arm.name
    assert arm_status(arm, tmp_path).state == "new"
    write_run(folder, *arm.overrides, rows=5, evaluated=False)
    assert arm_status(arm, tmp_path).state == "broken"
    checkpoint(folder, 4)
    status = arm_status(arm, tmp_path)
    assert (status.state, status.num_iterations) == ("stopped", 5)
    assert run_arguments(status) == [*arm.overrides, f"run_dir='{folder}'", "resume=true"]
    assert clear_the_way(status) is None


def test_all_rows_without_the_last_evaluation_are_not_finished(tmp_path: Path) -> None:
    (arm,) = arms_of(tmp_path, "gates=[clip]", "seeds=[0]")
    write_run(tmp_path / arm.name, *arm.overrides, evaluated=False)
    assert arm_status(arm, tmp_path).state == "broken"


def test_a_broken_folder_is_moved_to_a_free_name(tmp_path: Path) -> None:
    (arm,) = arms_of(tmp_path, "gates=[clip]", "seeds=[0]")
    for number in (1, 2):
        write_run(tmp_path / arm.name, *arm.overrides, rows=2, evaluated=False)
        status = arm_status(arm, tmp_path)
        assert clear_the_way(status) == tmp_path / f"clip-seed0.broken-{number}"
        assert arm_status(arm, tmp_path).state == "new"


def test_a_folder_with_other_settings_is_refused_with_the_setting_named(tmp_path: Path) -> None:
    (arm,) = arms_of(tmp_path, "gates=[clip]", "seeds=[0]")
    write_run(tmp_path / arm.name, *arm.overrides, "learner.lr=1.0")
    with pytest.raises(ConfigError, match=r"clip-seed0: .*learner\.lr=1\.0, now learner\.lr=0\.0003.*study_dir"):
        refuse_other_settings([arm_status(arm, tmp_path)])


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("num_iterations=9", "holds 12 iterations, num_iterations=9 asks for fewer"),
        ("eval.num_prompts=7", "evaluated"),
    ],
)
def test_a_finished_folder_must_fit_the_report(tmp_path: Path, setting: str, told: str) -> None:
    write_run(tmp_path / "clip-seed0", "gate=clip", "seed=0")
    (arm,) = arms_of(tmp_path, "gates=[clip]", "seeds=[0]", setting)
    with pytest.raises(ConfigError, match=told):
        refuse_other_settings([arm_status(arm, tmp_path)])


def test_a_longer_study_does_not_stretch_the_schedule_of_a_trained_arm(tmp_path: Path) -> None:
    falling = "learner.lr_schedule=linear"
    write_run(tmp_path / "clip-seed0", "gate=clip", "seed=0", falling)
    checkpoint(tmp_path / "clip-seed0", 12)
    (arm,) = arms_of(tmp_path, "gates=[clip]", "seeds=[0]", "num_iterations=15", falling)
    with pytest.raises(ConfigError, match=r"num_iterations=12, now num_iterations=15, which moves its learning rate"):
        refuse_other_settings([arm_status(arm, tmp_path)])


def test_a_failing_arm_is_told_with_its_log_and_the_others_go_on(tmp_path: Path, launcher: LocalLauncher) -> None:
    failures, events = schedule(tmp_path / "study", launcher, "gates=[erf,clip,softsign]", "seeds=[0]")
    (failure,) = failures
    assert (failure.name, failure.reason) == ("erf-seed0", "ended with status 1")
    assert failure.lines == ("loading", "softgate: no such model")
    assert events[:2] == ["started erf-seed0", "started clip-seed0"], "two at once, in order"
    assert sorted(events[2:]) == [
        "done clip-seed0",
        "done softsign-seed0",
        "failed erf-seed0",
        "started softsign-seed0",
    ]


def test_a_second_run_keeps_what_is_finished(tmp_path: Path, launcher: LocalLauncher) -> None:
    study_dir = tmp_path / "study"
    assert schedule(study_dir, launcher, "gates=[clip]", "seeds=[0]")[0] == []
    failures, events = schedule(study_dir, launcher, "gates=[clip,softsign]", "seeds=[0]")
    assert (failures, events) == ([], ["started softsign-seed0", "done softsign-seed0"])
    assert (study_dir / "events").read_text() == "clip-seed0 False\nsoftsign-seed0 False\n"


def test_replayed_arms_wait_for_their_recording(tmp_path: Path, launcher: LocalLauncher) -> None:
    failures, events = schedule(tmp_path / "study", launcher, "gates=[clip,softsign]", "seeds=[0]", "arms=replayed")
    assert failures == []
    assert events[:2] == ["started clip-seed0", "done clip-seed0"]
    assert sorted(events[2:4]) == ["started clip-seed0-replayed", "started softsign-seed0-replayed"]


def test_arms_that_replay_a_failed_recording_are_not_started(tmp_path: Path, launcher: LocalLauncher) -> None:
    failures, events = schedule(tmp_path / "study", launcher, "gates=[erf,clip]", "seeds=[0]", "arms=replayed")
    assert events.count("started erf-seed0") == 1
    assert len([event for event in events if event.startswith("started")]) == 1
    assert [failure.reason for failure in failures[1:]] == ["erf-seed0 failed, which it replays"] * 2


def test_whatever_ends_the_study_interrupts_its_runs_and_waits(tmp_path: Path, launcher: LocalLauncher) -> None:
    study_dir = tmp_path / "study"
    study_dir.mkdir()

    class Interrupting(Told):
        def progressed(self, name: str, num_iterations: int) -> None:
            if len(list(study_dir.glob("*.asleep"))) == 2:
                raise KeyboardInterrupt

    statuses = [arm_status(arm, study_dir) for arm in arms_of(study_dir, "gates=[arctan]", "seeds=[0,1]")]
    with pytest.raises(KeyboardInterrupt):
        run_arms(statuses, study_dir, launcher=launcher, parallel=2, observer=Interrupting())
    assert (study_dir / "interrupted").exists(), "as Ctrl-C would, not killed"
    assert not any(str(study_dir) in " ".join(process.cmdline()) for process in psutil.Process().children())


def test_a_run_that_does_not_answer_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "deaf.py"
    script.write_text(
        "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('deaf', flush=True)\n"
        "time.sleep(600)\n"
    )
    monkeypatch.setattr("orchestration.study.launch.STOP_TIMEOUT_S", 0.2)
    run = LocalLauncher(script=script).start("x", [], log_path=tmp_path / "log")
    while (tmp_path / "log").read_text() != "deaf\n":
        time.sleep(0.01)
    assert run.exit_status() is None
    run.interrupt()
    run.await_end()
    assert run.exit_status() == -signal.SIGKILL


@pytest.mark.parametrize(("owned", "setting"), [("", "study_dir"), ("clip-seed0", "clip-seed0")])
def test_a_second_study_is_refused_while_the_first_or_an_arm_that_it_left_lives(
    tmp_path: Path, owned: str, setting: str
) -> None:
    folder = tmp_path / owned
    write_run(tmp_path / "clip-seed0", "gate=clip", *SHORT, rows=5, evaluated=False)  # the arm would be moved aside
    with own(folder, setting="run_dir"):
        ended = command(f"study_dir={tmp_path}", "gates=[clip]", "seeds=[0]", *SHORT)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"{setting}={folder}: is in use by process {os.getpid()} on ")
    assert len(ended.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["clip-seed0"]


def test_mistakes_end_with_status_2_and_nothing_written(tmp_path: Path) -> None:
    ended = command(f"study_dir={tmp_path / 'new'}", "gates=[clip]", "learner.lr=-1", "seeds=[0,1]")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "learner.lr=-1: must be greater than 0\n"
    assert not (tmp_path / "new").exists()


def test_a_data_set_that_cannot_be_read_is_refused_once_and_before_any_arm(tmp_path: Path) -> None:
    missing = f"task.train.mine.path={tmp_path}/mine.jsonl"
    words = ("task=custom", missing, "task.max_prompt_tokens=32", "gates=[clip,erf]", "seeds=[0,1]")
    ended = command(f"study_dir={tmp_path / 'new'}", *words)
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"{missing}: no such file")
    assert list(tmp_path.iterdir()) == []


def test_dry_run_prints_the_command_of_every_arm_and_writes_nothing(tmp_path: Path) -> None:
    ended = command(f"study_dir={tmp_path / 'new'}", "gates=[clip,erf]", "seeds=[0,1]", "dry_run=true", *SHORT)
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert "4 arms, 48 iterations in all" in lines[0]
    assert f"run_dir={tmp_path / 'new' / 'erf-seed1'}" in lines[-1]
    assert not (tmp_path / "new").exists()


def test_jobs_need_a_cluster_to_join_and_a_server_that_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = command(f"study_dir={tmp_path}", "gates=[clip]", "launcher=jobs", "cluster.address=local")
    assert (ended.returncode, ended.stderr.partition(":")[0]) == (2, "cluster.address=local")
    from orchestration.study.launch import JobLauncher

    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    with pytest.raises(LaunchError, match="Ray uses RAY_ADDRESS"):
        JobLauncher(address="http://127.0.0.1:2")


def test_help_names_every_setting_and_exit_status() -> None:
    text = help_text()
    for name in ("gates=[sigmoid,erf,arctan,softsign,clip]", "seeds=[0,1,2]", "study_dir=auto", "arms=live"):
        assert f"  {name}\n" in text
    assert max(map(len, text.splitlines())) <= 120


def test_rows_are_counted_as_they_come_and_when_a_resume_takes_some_back(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    counter = RowCounter(path)
    assert counter.count() == 0
    path.write_text("{}\n{}\n{")
    assert counter.count() == 2
    path.write_text("{}\n{}\n{}\n")
    assert counter.count() == 3
    path.write_text("{}\n")
    assert counter.count() == 1


def test_last_lines_of_a_long_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert last_lines(path, 3) == []
    path.write_text("".join(f"line {number}\n" for number in range(10_000)))
    assert last_lines(path, 2) == ["line 9998", "line 9999"]


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    words = [sys.executable, "-m", "orchestration.study", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False, env=environment)
