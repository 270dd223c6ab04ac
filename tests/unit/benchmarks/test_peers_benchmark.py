"""Figures of bench-peers, and that TRL gets the prompts of our own run."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.peers import (
    COOL_DOWN,
    PEER_THREADS,
    WARMUP_ITERATIONS,
    Contest,
    Iteration,
    peer_job,
    rate,
    run_settings,
)
from configs.loading import load_config
from rollout.prompts import PromptStream, load_tokenizer, prompt_encoder
from rollout.tasks import build_task
from rollout.tasks.embedded_model import EmbeddedRecipe, new_model, new_tokenizer


def test_a_rate_is_samples_over_time_and_leaves_out_begin_and_end() -> None:
    slow = Iteration(seconds=100.0, samples=8, reward=0.0)
    counted = [Iteration(seconds=seconds, samples=8, reward=0.0) for seconds in (3.0, 1.0)]  # in turn, as when ahead
    assert rate([slow] * WARMUP_ITERATIONS + counted + [slow] * COOL_DOWN) == 4.0, "no mean of 8 / 3 and 8 / 1"


@pytest.fixture
def contest(tmp_path: Path) -> Contest:
    recipe = EmbeddedRecipe()
    new_model(recipe).save_pretrained(tmp_path)
    new_tokenizer(recipe).save_pretrained(tmp_path)
    return Contest(
        name="arithmetic",
        model=tmp_path,
        settings=("rollout.prompts_per_iteration=4",),
        num_iterations=9,
        peer_iterations=3,
        micro_batch=16,
        target=1.2,
    )


def test_trl_is_given_the_prompts_and_settings_of_our_run(contest: Contest) -> None:
    config = load_config(run_settings(contest))
    job = peer_job(contest, config, folder="somewhere", out=Path("rows.jsonl"))
    encode = prompt_encoder(load_tokenizer(str(contest.model), trust_remote_code=False))
    stream = PromptStream(build_task(config.task).train_problems(), encode, seed=config.seed)
    assert [row["prompt"] for row in job["prompts"]] == [stream.prompt_at(index).text for index in range(12)]
    assert (job["num_iterations"], job["prompts_per_iteration"], job["lr"]) == (3, 4, config.learner.lr)
    assert job["num_threads"] == PEER_THREADS
    assert config.num_iterations == 9
    longer = replace(contest, peer_iterations=4)
    assert len(peer_job(longer, config, folder="", out=Path("x"))["prompts"]) == 16
