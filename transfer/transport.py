"""Transport: how the bytes of a publish travel, as sender and receivers ask for it.

Learner rank 0 is rank 0, the workers of the engines follow; each holds one Transport. communicator.py implements gloo
and nccl and joins members by the name in a Rendezvous. A further transport is a class, a line in its table TRANSPORTS
and a name in Backend here.
"""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

Backend = Literal["gloo", "nccl"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendezvous:
    """The address of the store at which the members meet (communicator.serve_store)."""

    backend: Backend
    host: str
    port: int
    world_size: int
    timeout_s: float


class Transfer(Protocol):
    """A buffer under way."""

    @property
    def buffer(self) -> torch.Tensor: ...

    def wait(self) -> None:
        """Returns when the buffer holds rank 0's bytes and may be read and reused; RuntimeError after the time-out."""


class Transport(Protocol):
    """One member's end; it exists once all members are there."""

    @abstractmethod
    def start(self, buffer: torch.Tensor) -> Transfer:
        """Begins to copy rank 0's buffer ([B] uint8) into every member's. All start the same transfers in one order."""

    @abstractmethod
    def close(self) -> None:
        """Leaves the other members; all may then meet again."""

    @contextmanager
    def closed_on_failure(self) -> Iterator[None]:
        """Leaves the other members when the block raises: those that wait for this one fail at once, too."""
        try:
            yield
        except BaseException:
            self.close()
            raise
