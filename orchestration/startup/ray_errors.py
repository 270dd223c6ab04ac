"""Failures of Ray's start, as mistakes of one line: what a person can do about them lies outside the run."""

from configs.loading import ConfigError
from orchestration.startup.checks.folders import ray_temp_root


def not_started(error: Exception, *, attempts: int) -> ConfigError:
    """The error of a Ray that does not start on this machine."""
    logs = ray_temp_root()[1] / "ray" / "session_latest" / "logs"
    return ConfigError(
        [
            f"Ray did not start on this machine in {attempts} attempts ({_one_line(error)}); is it busy or out of "
            f"memory? Ray's logs are in {logs}"
        ]
    )


def not_joined(configured: str, error: Exception) -> ConfigError:
    """The error of a cluster that answers and cannot be joined, as one with another version of Ray or Python."""
    return ConfigError([f"cluster.address={configured}: cannot be joined ({_one_line(error)})"])


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
