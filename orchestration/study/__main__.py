"""`python -m orchestration.study`: trains every gate with every seed and reports which gates differ.

In: the arguments. Out: one run folder an arm, the report, and an exit status (listed by --help). Every arm is checked
before the first starts. A study that stopped continues when its folder is named again.
"""

import sys

from orchestration.terminal.leaving import leave_at_once

if __name__ == "__main__":
    leave_at_once()  # the imports below take most of a second

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from configs.command import wants_help
from configs.loading import ConfigError
from orchestration.startup.folders import next_free, refusing_unwritable
from orchestration.startup.ownership import own
from orchestration.startup.preflight import preflight_into, refuse
from orchestration.study.arms import arm_status, refuse_living_runs, refuse_other_settings
from orchestration.study.launch import JobLauncher, Launcher, LocalLauncher
from orchestration.study.progress import StudyProgress
from orchestration.study.schedule import run_arms
from orchestration.study.settings import Arm, StudyConfig, help_text, plan_arms, split_settings
from orchestration.terminal.console import print_line
from orchestration.terminal.exit_status import FAILED, command, leave, print_answer
from orchestration.terminal.stopping import Stopping
from orchestration.user_code import refuse_unusable_code

ROOT_FOLDER, STEM = Path("runs"), "study"


@command
def main(arguments: Sequence[str]) -> int:
    if wants_help(arguments):
        print_answer(help_text())
        return 0
    study, settings = split_settings(arguments)
    auto = study.study_dir == "auto"
    # Arms are checked with a provisional folder name, because nothing is written before all are accepted.
    named = ROOT_FOLDER / f"{STEM}-NNN" if auto else Path(study.study_dir)
    arms = plan_arms(study, settings, study_dir=named.resolve())
    refuse_unusable_code([arm.config for arm in arms])
    if study.launcher == "jobs" and any(arm.config.cluster.address == "local" for arm in arms):
        raise ConfigError(["cluster.address=local: would start a Ray of its own in each job; leave it out"])
    if study.dry_run:
        print_answer(_described(study, arms, named))
    unfinished = [arm for arm in arms if arm_status(arm, named).state != "finished"]
    if study.launcher == "local":  # a cluster's nodes may see other files
        refuse(preflight_into(named, [arm.config for arm in unfinished], key="study_dir"))
    if study.dry_run:
        return 0
    if study.launcher == "local":
        _refuse_unreadable_data(unfinished)
    with refusing_unwritable(f"study_dir={named}"):
        study_dir = next_free(ROOT_FOLDER, STEM)[0] if auto else named.resolve()
    with Stopping():
        return run_study(study, plan_arms(study, settings, study_dir=study_dir), study_dir, arguments=arguments)


def run_study(study: StudyConfig, arms: Sequence[Arm], study_dir: Path, *, arguments: Sequence[str]) -> int:
    """Runs the arms that are not finished, then writes the report; exit status 1 where an arm failed."""
    console = Console()
    with own(study_dir, setting="study_dir") as notices:
        statuses = [arm_status(arm, study_dir) for arm in arms]
        refuse_other_settings(statuses)
        refuse_living_runs(statuses)
        for line in (f"study folder {study_dir}: {len(arms)} arms", *notices):
            print_line(console, line)
        jobs = study.launcher == "jobs"
        launcher: Launcher = JobLauncher(address=study.jobs_address) if jobs else LocalLauncher()
        try:
            with StudyProgress(statuses, console) as progress:
                failures = run_arms(statuses, study_dir, launcher=launcher, parallel=study.parallel, observer=progress)
        except KeyboardInterrupt:
            print_line(console, f"stopped; to continue: {_command(arguments, study_dir)}")
            raise
        from orchestration.study.report import write_study_report  # imports matplotlib, which takes a second

        for path in write_study_report(study_dir):
            print_line(console, f"report: {path}")
    for failure in failures:
        print_line(console, f"{failure.name} failed: {failure.reason}; see {failure.log_path}")
    if failures:
        print_line(console, f"to try again: {_command(arguments, study_dir)}")
    return FAILED if failures else 0


def _refuse_unreadable_data(arms: Sequence[Arm]) -> None:
    """Reads the data sets that all arms share, so that a mistake in them is reported once, before any arm starts."""
    live = [arm for arm in arms if arm.kind == "live"]  # a replay takes its prompts from the recording
    if live and (task := live[0].config.task).reads_data:
        from rollout.tasks import build_task
        from rollout.tasks.data_sets import DataSetError

        try:
            build_task(task)
        except DataSetError as error:
            raise ConfigError(str(error).splitlines()) from error


def _command(arguments: Sequence[str], study_dir: Path) -> str:
    kept = [text for text in arguments if not text.startswith("study_dir=")]
    return shlex.join(["python", "-m", "orchestration.study", *kept, f"study_dir={study_dir}"])


def _described(study: StudyConfig, arms: Sequence[Arm], folder: Path) -> str:
    """The text of `dry_run=true`: the commands of the arms, and how much there is to train."""
    iterations = sum(arm.config.num_iterations for arm in arms)
    total = f"{len(arms)} arms, {iterations} iterations in all, {study.parallel} arm(s) at once; their commands:"
    run = ["python", "orchestration/run.py"]
    commands = [shlex.join([*run, *arm.overrides, f"run_dir={folder / arm.name}"]) for arm in arms]
    return "\n".join([f"Study in {folder}: {total}", *(f"  {command}" for command in commands)])


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
