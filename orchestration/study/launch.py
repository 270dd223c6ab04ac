"""Starts one run of a study and polls it: as a child process here, or as a job on a Ray cluster.

In: the arguments of `python orchestration/run.py`. Out: a run that can be polled and stopped. Both launchers
use the public command, so that an arm equals a run that a person starts.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestration.terminal.processes import end_processes
from orchestration.terminal.stopping import is_hurried

ROOT = Path(__file__).resolve().parents[2]
RUN_SCRIPT = "orchestration/run.py"
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
POLL_S = 0.5
STOP_TIMEOUT_S = 60.0  # limit for an interrupted run, which ends its actors and Ray in a few seconds


class LaunchError(RuntimeError):
    """A run could not be started; the message says what to check."""


class LocalLauncher:
    """Starts runs as child processes of this one."""

    def __init__(self, *, script: Path = ROOT / RUN_SCRIPT) -> None:
        self._script = script

    def start(self, name: str, arguments: Sequence[str], *, log_path: Path) -> "LocalRun":
        """Starts the run `name`; its output is appended to log_path."""
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with log_path.open("ab") as log:
            return LocalRun(
                [sys.executable, str(self._script), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A terminal sends Ctrl-C to its whole process group; the study forwards it to each run's driver only.
                start_new_session=True,
            )


class LocalRun(subprocess.Popen[bytes]):
    """A run as a child process."""

    def exit_status(self) -> int | None:
        """None while the run goes on, 0 where it ended well."""
        return self.poll()

    def interrupt(self) -> None:
        """Interrupts the run as Ctrl-C would; returns at once."""
        self.send_signal(signal.SIGINT)  # does nothing where the process has ended

    def await_end(self) -> None:
        """Waits for the end after interrupt(), and kills the run where that takes too long."""
        try:
            self.wait(timeout=0.0 if is_hurried() else STOP_TIMEOUT_S)
        except (subprocess.TimeoutExpired, KeyboardInterrupt) as error:  # a second Ctrl-C: kill at once
            end_processes(below=self.pid, sessions=[self.pid])  # Ray's are in sessions of their own
            self.wait()
            if isinstance(error, KeyboardInterrupt):
                raise


class JobLauncher:
    """Starts runs as jobs of a Ray cluster, each in a copy of this project's folder; all nodes must share study_dir.

    address: the job server, such as http://head:8265, or "auto" for the one that Ray's environment variables name.
    Where the cluster uses token authentication, Ray's default, the environment must have RAY_AUTH_MODE=token.
    """

    def __init__(self, *, address: str) -> None:
        from ray.exceptions import RayError  # takes a second to import; the local launcher needs none of it
        from ray.job_submission import JobSubmissionClient

        named = [f"{name}={os.environ[name]}" for name in ADDRESS_VARIABLES if name in os.environ]
        if address != "auto" and named:  # Ray would silently prefer the variable
            raise LaunchError(f"jobs_address={address}: Ray uses {named[0]} instead; unset it or leave out the setting")
        self._errors = (OSError, RuntimeError, ValueError, RayError)
        try:
            self._client: Any = JobSubmissionClient(None if address == "auto" else address)
        except self._errors as error:
            raise LaunchError(f"jobs_address={address}: no Ray job server answers ({error})") from error

    def start(self, name: str, arguments: Sequence[str], *, log_path: Path) -> "JobRun":
        variables = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": f"{STOP_TIMEOUT_S:.0f}"}
        try:
            job_id = self._client.submit_job(
                entrypoint=shlex.join(["python", RUN_SCRIPT, *arguments]),
                runtime_env={"working_dir": str(ROOT), "env_vars": variables},  # Ray leaves out what .gitignore names
                metadata={"softgate_arm": name},
            )
        except self._errors as error:
            raise LaunchError(f"{name}: the job server refused it ({error})") from error
        return JobRun(self._client, job_id, log_path=log_path)


class JobRun:
    """A run as a submitted job, with the methods of LocalRun. Its log is fetched once it has ended."""

    def __init__(self, client: Any, job_id: str, *, log_path: Path) -> None:
        self._client = client
        self._job_id = job_id
        self._log_path = log_path

    def exit_status(self) -> int | None:
        status = self._client.get_job_status(self._job_id)
        if not status.is_terminal():
            return None
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        self._log_path.write_text(self._client.get_job_logs(self._job_id), encoding="utf-8")
        return 0 if status.value == "SUCCEEDED" else 1

    def interrupt(self) -> None:
        self._client.stop_job(self._job_id)

    def await_end(self) -> None:
        deadline = time.monotonic() + 2 * STOP_TIMEOUT_S  # Ray itself kills a job that has not stopped after half of it
        while not self._client.get_job_status(self._job_id).is_terminal():
            if time.monotonic() > deadline:
                raise LaunchError(f"Ray job {self._job_id} does not stop; see `ray job stop {self._job_id}`")
            time.sleep(POLL_S)


Launcher = LocalLauncher | JobLauncher
Launched = LocalRun | JobRun
