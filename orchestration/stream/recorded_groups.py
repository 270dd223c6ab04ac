"""Group sources on a folder of recorded groups: one records the groups of another source, one replays them.

In: the folder, and the source to record. Out: the batches of iterations, as source.py asks for them. The format
of the folder is rollout/recording.py's business, whether a run fits it recordings.py's.
"""

from dataclasses import replace
from pathlib import Path

from orchestration.stream.positions import FRESH, StreamPositions
from orchestration.stream.source import GroupSource
from rollout.contract import GradedGroup
from rollout.recording import (
    Manifest,
    RecordingError,
    discard_from,
    read_iteration,
    write_iteration,
    write_manifest,
)


class RecordingStream:
    """Another group source whose batches it writes to a folder before it hands them on.

    Iterations from start_iteration on that an interrupted run had recorded are deleted: they are generated again.
    """

    def __init__(self, source: GroupSource, folder: Path, manifest: Manifest, *, start_iteration: int) -> None:
        self._source = source
        self._folder = folder
        discard_from(folder, start_iteration)
        write_manifest(folder, manifest)

    def admit(self, published_version: int) -> None:
        self._source.admit(published_version)

    def take(self, iteration: int) -> list[GradedGroup]:
        groups = self._source.take(iteration)
        write_iteration(self._folder, iteration, groups)
        return groups

    def positions(self) -> StreamPositions:
        return self._source.positions()

    def summary(self) -> dict[str, float]:
        return self._source.summary()


class ReplayStream:
    """The batches of a recording, each under the iteration that consumed it; nothing is generated."""

    def __init__(self, folder: Path, *, prompts_per_iteration: int, completions_per_prompt: int) -> None:
        self._folder = folder
        self._shape = (completions_per_prompt,) * prompts_per_iteration

    def admit(self, published_version: int) -> None:
        """Nothing waits for a version."""

    def take(self, iteration: int) -> list[GradedGroup]:
        """Raises RecordingError where the iteration does not hold the groups that the manifest describes."""
        recorded = read_iteration(self._folder, iteration)
        shape = tuple(len(graded.group.completions) for graded in recorded)
        if shape != self._shape:
            raise RecordingError(
                f"{self._folder}: iteration {iteration} has groups of {shape} completions, the manifest describes "
                f"{self._shape}; record the run again"
            )
        return [replace(graded, is_replayed=True) for graded in recorded]

    def positions(self) -> StreamPositions:
        """The start of the stream: a replay gives out no positions."""
        return FRESH

    def summary(self) -> dict[str, float]:
        return {}
