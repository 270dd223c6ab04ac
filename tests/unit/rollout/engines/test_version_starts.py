"""What a completion tells of the versions that made it, from vLLM's labels."""

from types import SimpleNamespace

import pytest

from rollout.engines.engine import version_starts

Spans = list[tuple[str, int]]


@pytest.mark.parametrize(
    ("spans", "num_tokens", "expected"),
    [
        ([("3", 0)], 9, ((3, 0),)),
        ([("3", 0), ("4", 2), ("6", 7)], 9, ((3, 0), (4, 2), (6, 7))),
        ([("5", 0)], 9, ((3, 0), (5, 1))),  # it waited for its turn through two publishes
        ([("4", 0), ("5", 1)], 9, ((3, 0), (5, 1))),
        ([("4", 0)], 1, ((3, 0),)),
    ],
)
def test_labels(spans: Spans, num_tokens: int, expected: tuple[tuple[int, int], ...]) -> None:
    labelled = [SimpleNamespace(version=version, start=start) for version, start in spans]
    output = SimpleNamespace(weight_versions=labelled, token_ids=[0] * num_tokens)
    assert version_starts(output, 3) == expected


def test_without_labels_all_tokens_count_as_the_oldest() -> None:
    assert version_starts(SimpleNamespace(token_ids=[0] * 9), 3) == ((3, 0),)
    assert version_starts(SimpleNamespace(weight_versions=None, token_ids=[0] * 9), 3) == ((3, 0),)
