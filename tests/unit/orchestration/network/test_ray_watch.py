"""What the watch makes of answers and of silence, told as a person would read it; no Ray."""

import pytest

from orchestration.network.watch import GCS_GRACE_S, LOST_AFTER_S, Node, NodeLostError, RayLostError, RayWatch

GCS, OWN, OTHER, IDLE = "10.0.0.1:6379", "10.0.0.1:4001", "10.0.0.2:4001", "10.0.0.3:4001"
NODES = {
    OWN: Node(address=OWN, is_own=True, residents=("learner rank 0",)),
    OTHER: Node(address=OTHER, is_own=False, residents=("engine 0", "learner rank 1")),
    IDLE: Node(address=IDLE, is_own=False, residents=()),
}


class Told:
    """A watch, what it has told so far, and time that passes for it."""

    def __init__(self, *, is_local: bool = False) -> None:
        self.errors: list[Exception] = []
        self.lines: list[str] = []
        self.watch = RayWatch(
            gcs_address=GCS, is_local=is_local, logs="/tmp/logs", fail=self.errors.append, notice=self.lines.append
        )
        self.watch.update(NODES.values())

    def pass_s(self, seconds: float, *, silent: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        for _ in range(round(seconds)):
            self.watch.note({address: address not in silent for address in self.watch.addresses()}, passed_s=1.0)


@pytest.mark.parametrize(("address", "process"), [(GCS, "GCS"), (OWN, "raylet")])
def test_a_local_ray_is_lost_with_its_gcs_or_raylet(address: str, process: str) -> None:
    told = Told(is_local=True)
    told.pass_s(LOST_AFTER_S - 1.0, silent={address})
    assert told.errors == []
    told.pass_s(1.0, silent={address})
    (error,) = told.errors
    assert isinstance(error, RayLostError)
    assert str(error).startswith(f"Ray's {process} on node 10.0.0.1 does not answer any more")
    assert "/tmp/logs/" in str(error)
    assert str(error).endswith("resume=true")


def test_a_pause_is_no_loss() -> None:
    told = Told(is_local=True)
    for _ in range(3):
        told.pass_s(LOST_AFTER_S - 1.0, silent={GCS, OWN})
        told.pass_s(1.0)
    assert (told.errors, told.lines) == ([], [])


def test_the_gcs_of_a_cluster_may_be_restarted() -> None:
    told = Told()
    told.pass_s(LOST_AFTER_S, silent={GCS})
    assert told.lines == ["Ray's GCS on node 10.0.0.1 does not answer any more; restart it, or the run ends in 30 s"]
    told.pass_s(GCS_GRACE_S - 1.0, silent={GCS})
    told.pass_s(1.0)
    assert told.lines[1:] == ["Ray's GCS on node 10.0.0.1 answers again"]
    assert told.errors == []
    told.pass_s(LOST_AFTER_S + GCS_GRACE_S, silent={GCS})
    assert [type(error) for error in told.errors] == [RayLostError]


def test_another_node_is_told_with_what_ran_there_and_ends_nothing() -> None:
    told = Told()
    told.pass_s(2 * LOST_AFTER_S, silent={OTHER, IDLE})
    title = "node 10.0.0.2 (engine 0, learner rank 1 there)"
    assert told.lines == [f"{title} does not answer any more; start Ray there again, or on another node"]
    assert told.watch.lost_nodes() == (NODES[OTHER],)
    told.watch.update([NODES[OWN]])  # Ray has noticed too
    assert told.watch.lost_nodes() == (NODES[OTHER],)
    told.pass_s(1.0)
    assert told.lines[1:] == [f"{title} answers again"]
    assert told.watch.lost_nodes() == ()
    assert told.errors == []


def test_a_failure_is_blamed_on_what_does_not_answer() -> None:
    failure = RuntimeError("engine 0: its actor\n died")
    watch = Told(is_local=True).watch
    assert watch.explain(failure, set()) is None
    assert watch.error is None
    explained = watch.explain(failure, {GCS, OWN})
    assert isinstance(explained, RayLostError)
    assert "raylet" in str(explained)
    assert watch.error is explained
    assert watch.explain(explained, {OWN}) is None, "it is told as it stands"

    explained = Told().watch.explain(failure, {OTHER})
    assert isinstance(explained, NodeLostError)
    assert str(explained) == (
        "node 10.0.0.2 (engine 0, learner rank 1 there) does not answer any more; engine 0: its actor died"
    )
    assert Told().watch.explain(failure, {IDLE}) is None
