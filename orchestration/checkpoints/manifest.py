"""The manifest of a checkpoint: which files it has, their fingerprints, and how the run was evaluated there.

In: fingerprints, or a folder. Out: a file with a hash of itself, or the first thing that is wrong with the folder. A
manifest of another format is an error and no damage: its checkpoint is neither skipped nor deleted.
"""

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from configs.files import write_atomically
from orchestration.checkpoints.state import ResumeError
from transfer.fingerprints import Fingerprint, fingerprint_of, size_of

MANIFEST_FILE = "manifest.json"
FORMAT_VERSION = 2
MAX_READERS = 8  # files hashed at a time; a fast disk serves more than one reader
REMEDY = "resume with the version of the program that wrote it"


class DamageError(Exception):
    """A checkpoint that is not as it was written; the message names the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """The files of one checkpoint."""

    files: Mapping[str, Fingerprint]  # by path below the checkpoint's folder
    evaluation: Mapping[str, float] = field(default_factory=dict)  # metrics of these weights, where they were evaluated

    @property
    def num_bytes(self) -> int:
        return sum(file.num_bytes for file in self.files.values())

    def write(self, folder: Path) -> None:
        body = {
            "format_version": FORMAT_VERSION,
            "files": {name: file.to_json() for name, file in sorted(self.files.items())},
            "evaluation": dict(self.evaluation),
        }
        text = json.dumps(body | {"xxh3_128": _digest(body)}, indent=1) + "\n"
        write_atomically(folder / MANIFEST_FILE, text)

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Raises DamageError where it is missing or damaged, ResumeError where it has another format."""
        try:
            body: dict[str, Any] = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
            version, found, digest = body["format_version"], body.pop("xxh3_128", None), _digest(body)
            is_intact = found == digest or (found is None and version == 1)  # the first format had no hash
            if is_intact and version != FORMAT_VERSION:
                raise ResumeError(
                    f"{folder}: has format version {version}, this program reads {FORMAT_VERSION}; {REMEDY}"
                )
            if not is_intact:
                raise DamageError(f"{MANIFEST_FILE} differs from what was written")
            files = {name: Fingerprint.from_json(file) for name, file in body["files"].items()}
            return cls(files=files, evaluation=body["evaluation"])
        except FileNotFoundError:
            raise DamageError(f"{MANIFEST_FILE} is missing") from None
        except OSError as error:
            raise DamageError(f"{MANIFEST_FILE} cannot be read: {error.strerror}") from error
        except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise DamageError(f"{MANIFEST_FILE} is not readable ({type(error).__name__}: {error})") from error

    def check_sizes(self, folder: Path) -> None:
        """Raises DamageError where a file is missing or longer or shorter than it was written. Reads none."""
        for name, written in self.files.items():
            size = size_of(folder / name)
            if size is None:
                raise DamageError(f"{name} is missing")
            if size != written.num_bytes:
                raise DamageError(f"{name} has {size} bytes, {written.num_bytes} were written")

    def check(self, folder: Path) -> None:
        """Raises DamageError where a file differs from what was written. Reads all of them."""
        self.check_sizes(folder)
        with ThreadPoolExecutor(max_workers=min(MAX_READERS, os.cpu_count() or 1)) as readers:
            found = {name: readers.submit(fingerprint_of, folder / name) for name in self.files}
            for name, written in self.files.items():
                try:
                    if found[name].result() != written:
                        raise DamageError(f"{name} differs from what was written")
                except OSError as error:
                    raise DamageError(f"{name} cannot be read: {error.strerror}") from error


def _digest(body: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128(json.dumps(body, sort_keys=True).encode()).hexdigest()
