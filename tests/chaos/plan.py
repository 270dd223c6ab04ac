"""The plan of a round: what is struck, at which iteration and how; a function of the seed and the round's number alone.

In: a seed, a round, the run's length. Out: events in the order of their iterations. Knows neither processes nor files.
"""

import random
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["kill", "stop", "hang", "damage"]
Target = Literal["driver", "engine", "rank", "grader", "grader_child"]
Damage = Literal["flip", "truncate", "remove"]
TARGETS: tuple[Target, ...] = get_args(Target)
MODES = (0, 2)  # max_staleness of the rounds, in turn
SHORT_S = (0.5, 3.0)  # a stop that no time-out notices
MOST_DELAY_S = 0.6  # of an event after the iteration that it waits for: it may fall into any stage of the next one
MOST_GAP = 3  # iterations from one event to the next


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One strike. `hang` stops the target until it has been replaced, `stop` for a while."""

    iteration: int  # finished iterations at which it is due, the first time that the run reaches them
    delay_s: float  # time from then to the strike
    kind: Kind
    target: Target  # of damage: who is killed then, so that the checkpoint is read
    index: int  # which of its kind, modulo their number
    stopped_s: float = 0.0  # length of a stop
    damage: Damage | None = None
    place: float = 0.0  # which of the checkpoint's files, and where in it, as shares

    def describe(self) -> str:
        who = self.target if self.target == "driver" else f"{self.target.replace('_', ' ')} {self.index}"
        match self.kind:
            case "kill":
                return f"kill -9 {who}"
            case "stop":
                return f"stop {who} for {self.stopped_s:.1f} s"
            case "hang":
                return f"stop {who} for good"
            case "damage":
                return f"{self.damage} a file of the newest checkpoint, then kill -9 {who}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The events of one round."""

    round: int
    max_staleness: int
    events: tuple[Event, ...]


def plan_of(
    seed: int, round_: int, *, num_iterations: int, checkpoint_every: int, targets: Collection[Target] = TARGETS
) -> Plan:
    """The plan of a round; targets: who may be struck.

    A checkpoint is damaged only where an older one will be there to go on with: two are written before, and two more
    after each damage.
    """
    choose = random.Random(f"chaos:{seed}:{round_}")
    events: list[Event] = []
    iteration, sound_from = choose.randint(1, MOST_GAP), 2 * checkpoint_every + 1
    while iteration < num_iterations:
        can_damage = iteration >= sound_from and bool({"driver", "rank"} & set(targets))
        events.append(_event(choose, iteration, can_damage=can_damage, targets=targets))
        if events[-1].kind == "damage":
            sound_from = iteration + 2 * checkpoint_every
        iteration += choose.randint(1, MOST_GAP)
    return Plan(round=round_, max_staleness=MODES[round_ % len(MODES)], events=tuple(events))


def _event(choose: random.Random, iteration: int, *, can_damage: bool, targets: Collection[Target]) -> Event:
    kinds: list[Kind] = ["kill", "kill", "stop"]
    if set(targets) - {"driver"}:
        kinds.append("hang")
    if can_damage:
        kinds += ["damage", "damage"]
    kind = choose.choice(kinds)
    able = {"hang": set(targets) - {"driver", "grader_child"}, "damage": {"driver", "rank"} & set(targets)}
    target = choose.choice([name for name in TARGETS if name in able.get(kind, set(targets))])
    return Event(
        iteration=iteration,
        delay_s=round(choose.uniform(0.0, MOST_DELAY_S), 2),
        kind=kind,
        target=target,
        index=choose.randrange(2),
        stopped_s=round(choose.uniform(*SHORT_S), 1) if kind == "stop" else 0.0,
        damage=choose.choice(get_args(Damage)) if kind == "damage" else None,
        place=choose.random(),
    )
