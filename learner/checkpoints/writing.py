"""The writing of one rank's share of a checkpoint while training goes on.

In: copies in host memory. Out: files, and their fingerprints once all are on the disk. One share at a time.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from configs.files import sync
from learner.checkpoints.pretrained import ModelCopy, save_tokenizer, write_model
from learner.checkpoints.training_state import StateCopy, write_state
from learner.model.policy import Policy
from learner.spec import LearnerSpec
from transfer.fingerprints import Fingerprint, fingerprint_of

PRETRAINED_FOLDER = "pretrained"


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """What one rank writes of a checkpoint."""

    state: StateCopy
    model: ModelCopy | None  # on rank 0 where the weights are wanted as a Hugging Face folder too


class ShareWriter:
    """A thread that writes shares."""

    def __init__(self, policy: Policy, spec: LearnerSpec) -> None:
        self._policy = policy
        self._spec = spec
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._written: Future[dict[str, Fingerprint]] | None = None

    def start(self, share: Share, folder: Path) -> None:
        """Begins to write into the folder. The share before must have been awaited."""
        assert self._written is None, "start() before the share before was awaited"
        self._written = self._thread.submit(partial(self._write, share, folder))

    @property
    def is_busy(self) -> bool:
        """Whether await_written() would wait."""
        return self._written is not None and not self._written.done()

    def await_written(self) -> dict[str, Fingerprint]:
        """Fingerprints by path below the folder, once all is on the disk. Raises what the writing raised."""
        assert self._written is not None, "await_written() before start()"
        written, self._written = self._written, None
        return written.result()

    def _write(self, share: Share, folder: Path) -> dict[str, Fingerprint]:
        files = write_state(share.state, folder)
        if share.model is not None:
            target = folder / PRETRAINED_FOLDER
            write_model(share.model, self._policy, target)
            save_tokenizer(self._spec, target)
            files |= {f"{PRETRAINED_FOLDER}/{name}": written for name, written in seal(target).items()}
        return files


def seal(folder: Path) -> dict[str, Fingerprint]:
    """Puts files that others wrote on the disk; their fingerprints by path below the folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in (*paths, *(each for each in folder.rglob("*") if each.is_dir()), folder):
        sync(path)
    return {path.relative_to(folder).as_posix(): fingerprint_of(path) for path in paths}
