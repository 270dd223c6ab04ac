"""What of Ray answers, and what its silence means: Ray itself ends the driver without a word, or blames an engine.

In: the addresses of the GCS (Ray's control process) and of every node's raylet, and what the probes found there. Out:
errors and lines that name the process, its node and the remedy. Asks nobody; watching.py does.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from orchestration.network.probes import host_of

LOST_AFTER_S = 8.0  # silence of a process that answers within milliseconds while it lives
GCS_GRACE_S = 30.0  # more silence of a cluster's GCS, which may be restarted; Ray ends the driver after 60 s in all
SILENT = "does not answer any more"


class RayLostError(RuntimeError):
    """A process of Ray without which the driver cannot work is gone; the message names it, its node and the remedy."""


class NodeLostError(RuntimeError):
    """The run failed because a node is gone; the message names the node."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """A machine of the cluster."""

    address: str  # host:port of its raylet
    is_own: bool  # whether the driver runs there
    residents: tuple[str, ...]  # engines and learner ranks there

    @property
    def title(self) -> str:
        return f"node {host_of(self.address)} ({', '.join(self.residents) or 'no engine and no learner rank'} there)"


@dataclass(kw_only=True, slots=True)
class RayWatch:
    """The processes that are watched, and for how long each has been silent."""

    gcs_address: str  # host:port
    is_local: bool  # whether the run has started this Ray, which nobody else restarts
    logs: str  # folder of Ray's logs on this machine
    fail: Callable[[Exception], None]  # interrupts the main thread because of an error
    notice: Callable[[str], None]  # prints a line
    nodes: dict[str, Node] = field(default_factory=dict)  # by address
    error: RayLostError | None = None
    _silent_s: dict[str, float] = field(default_factory=dict)  # by address
    _told: set[str] = field(default_factory=set)  # silent addresses that the person knows of

    def addresses(self) -> set[str]:
        return {self.gcs_address, *self.nodes}

    def lost_nodes(self) -> tuple[Node, ...]:
        """Other nodes that do not answer any more, with what ran there."""
        return tuple(node for address, node in self.nodes.items() if address in self._told)

    def update(self, listed: Iterable[Node]) -> None:
        """Takes the nodes that Ray lists; one that it has dropped stays if a part of the run was there."""
        kept = {address: node for address, node in self.nodes.items() if node.residents}
        self.nodes = kept | {node.address: node for node in listed}

    def note(self, answers: Mapping[str, bool], *, passed_s: float) -> None:
        """Takes what the probes found, passed_s after those before; fails the run, or tells what has changed."""
        for address, has_answered in answers.items():
            self._silent_s[address] = 0.0 if has_answered else self._silent_s.get(address, 0.0) + passed_s
        silent = {address for address in answers if self._silent_s[address] >= LOST_AFTER_S}
        if not self.is_local:
            title = f"Ray's GCS on node {host_of(self.gcs_address)}"
            self._tell(self.gcs_address, title, silent, remedy=f"restart it, or the run ends in {GCS_GRACE_S:g} s")
            if self._silent_s[self.gcs_address] < LOST_AFTER_S + GCS_GRACE_S:
                silent -= {self.gcs_address}
        self.error = self._lost(silent)
        if self.error is not None:
            self.fail(self.error)
        for address in answers.keys() & self.nodes.keys():
            if self.nodes[address].residents:
                self._tell(
                    address, self.nodes[address].title, silent, remedy="start Ray there again, or on another node"
                )

    def explain(self, error: Exception, silent: Collection[str]) -> Exception | None:
        """The error to report in place of one that ended the run while these addresses were silent; None to keep it."""
        if isinstance(error, RayLostError | NodeLostError):
            return None
        self.error = self._lost(silent)
        titles = [node.title for address, node in self.nodes.items() if address in silent and node.residents]
        if self.error is None and titles:
            return NodeLostError(f"{' and '.join(titles)} {SILENT}; {' '.join(str(error).split())}")
        return self.error

    def _lost(self, silent: Collection[str]) -> RayLostError | None:
        """The error for the GCS or the driver's own raylet, if one of them is among the silent."""
        raylets = [address for address, node in self.nodes.items() if node.is_own and address in silent]
        if not raylets and self.gcs_address not in silent:
            return None
        title, log, address = "GCS", "gcs_server.out", self.gcs_address
        if raylets:
            title, log, address = "raylet", "raylet.out", raylets[0]
        remedy = "run the command again" if self.is_local else "restart Ray there, then run the command again"
        return RayLostError(
            f"Ray's {title} on node {host_of(address)} {SILENT}: it was killed or has crashed, for "
            f"which see {self.logs}/{log}; {remedy}, a training run with resume=true"
        )

    def _tell(self, address: str, title: str, silent: Collection[str], *, remedy: str) -> None:
        """Prints that the address has fallen silent or answers again, once each time."""
        if (address in silent) == (address in self._told):
            return
        self._told ^= {address}
        self.notice(f"{title} {SILENT}; {remedy}" if address in silent else f"{title} answers again")
