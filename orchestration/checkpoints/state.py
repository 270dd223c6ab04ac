"""The driver's state in a checkpoint.

In: counts of what a run has trained. Out: JSON and back. Knows nothing of files, nor of the settings of the run.
"""

import json
from dataclasses import asdict, dataclass, fields, replace

from configs.loading import ConfigError
from orchestration.stream.positions import FRESH, StreamPositions


class ResumeError(ConfigError):
    """A run that cannot go on from what is in its folder; one line says what is there and what to do."""

    def __init__(self, line: str) -> None:
        super().__init__([line])


@dataclass(frozen=True, kw_only=True, slots=True)
class RunState:
    """The driver's state after an iteration, which a resume needs beside the files of the learner ranks.

    Of groups in flight it has the positions of their prompts only: a restart generates the groups again.
    """

    iteration: int  # number of completed iterations, and so the next iteration
    policy_version: int  # version of the learner's weights
    positions: StreamPositions  # positions of the next prompts

    @classmethod
    def fresh(cls) -> "RunState":
        return cls(iteration=0, policy_version=0, positions=FRESH)

    def advance(self, positions: StreamPositions) -> "RunState":
        """The state after one more iteration; positions: those after it."""
        return replace(
            self,
            iteration=self.iteration + 1,
            policy_version=self.policy_version + 1,
            positions=positions,
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "RunState":
        """The state in the text; ValueError if a field is missing, unknown or of another type."""
        content = json.loads(text)
        types = {item.name: item.type for item in fields(cls)} | {"positions": dict}
        if not isinstance(content, dict) or {name: type(value) for name, value in content.items()} != types:
            raise ValueError(f"a run state has the fields {', '.join(types)}; found {' '.join(text.split())}")
        positions = content.pop("positions")
        if positions.keys() != {"unused", "open"} or not isinstance(positions["open"], list):
            raise ValueError(f"positions of a run state are unused and open; found {positions}")
        return cls(**content, positions=StreamPositions(unused=positions["unused"], open=tuple(positions["open"])))
