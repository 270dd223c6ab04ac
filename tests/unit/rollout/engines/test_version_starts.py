"""From vLLM's answer to completions: their tokens, and the versions that sampled them, from vLLM's labels."""

from types import SimpleNamespace

import numpy as np
import pytest
from sampled import versions

from rollout.contract import Prompt
from rollout.engines.sampling import completions_of, version_starts

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
    assert version_starts(output, 3) == versions(*expected)


def test_without_labels_all_tokens_count_as_the_oldest() -> None:
    assert version_starts(SimpleNamespace(token_ids=[0] * 9), 3) == versions((3, 0))
    assert version_starts(SimpleNamespace(weight_versions=None, token_ids=[0] * 9), 3) == versions((3, 0))


def test_completions_hold_the_whole_sequence_in_sample_order() -> None:
    def output(index: int, token_ids: list[int], reason: str) -> SimpleNamespace:
        logprobs = [{token: SimpleNamespace(logprob=-token / 4), 99: None} for token in token_ids]
        return SimpleNamespace(index=index, token_ids=token_ids, logprobs=logprobs, finish_reason=reason)

    tokenizer = SimpleNamespace(batch_decode=lambda ids, skip_special_tokens: [f"{each}" for each in ids])
    prompt = Prompt(
        position=4, token_ids=np.array([7, 8], dtype=np.int32), text="", reference_answer="", source="arithmetic"
    )
    final = SimpleNamespace(outputs=[output(1, [5], "length"), output(0, [3, 2], "stop")])
    first, second = completions_of(prompt, final, tokenizer, first_version=6)
    assert (first.text, first.finished, second.text, second.finished) == ("[3, 2]", True, "[5]", False)
    assert first.tokens.token_ids.tolist() == [7, 8, 3, 2]
    assert first.tokens.token_ids.dtype == np.int32
    assert first.tokens.completion_mask.tolist() == [False, False, True, True]
    assert first.tokens.rollout_logprobs.tolist() == [-0.75, -0.5]
    assert second.tokens.token_ids[second.tokens.completion_mask].tolist() == [5]
    assert second.tokens.version_starts == versions((6, 0))
