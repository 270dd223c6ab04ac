"""The result of one check, and the words in which errors of the operating system are reported."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that was looked at before a run."""

    name: str  # two or three words
    found: str  # one line of what was found, for a dry run
    mistakes: tuple[str, ...] = ()  # one line for each thing that makes the run impossible
    notices: tuple[str, ...] = ()  # one line for each doubt


def reason_of(error: BaseException) -> str:
    """The error in a few words on one line: `Read-only file system`."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    words = " ".join(str(text).split()).removesuffix(".")
    return words if len(words) <= 160 else f"{words[:157]}..."
