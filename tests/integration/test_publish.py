"""Publishes from two ZeRO-3 learner ranks to two engines: equal logprobs after each; a corruption is caught."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
import torch
from support import EVENT_TIMEOUT_S, SMALL, wait_until

from configs.loading import load_config
from orchestration.cluster import Cluster, start_cluster
from orchestration.parts import Parts, join_learner, learner_spec
from orchestration.recovery.faults import Faults
from orchestration.rollout_parts import RolloutSide, open_rollout_side
from orchestration.stream.batches import to_train_batch
from orchestration.weight_channel import PublishError
from rollout.contract import SamplingSpec
from rollout.engines.scratch import PREFIX
from rollout.tasks import build_task
from transfer.transport import Transfer

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # ranks cannot import the tests

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

TWO_AND_TWO = ("rollout.num_engines=2", "learner.num_workers=2", "learner.zero_stage=3", "learner.lr=1e-2")
TIED_INLINE, UNTIED_ASYNC = ("tied", "inline"), ("untied", "async")
WHOLE, LORA = (), ("learner.lora.rank=8", "learner.lora.target_modules=[q_proj,up_proj]")


def with_parts(*cases: tuple[tuple[str, str], tuple[str, ...]]) -> pytest.MarkDecorator:
    """Runs a test on each of these: the rollout side by the model's weights and the frontend, the learner's settings.

    Learners follow each other on one rollout side: its engines start once.
    """
    names = ["-".join((*side, *["lora"] * (learner == LORA))) for side, learner in cases]
    return pytest.mark.parametrize(("rollout_side", "parts"), cases, ids=names, indirect=True, scope="module")


with_every_part = with_parts((TIED_INLINE, WHOLE), (TIED_INLINE, LORA), (UNTIED_ASYNC, WHOLE))


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A cluster with two engines and graders, beside which one learner after another starts."""

    settings: tuple[str, ...]
    model: Path
    cluster: Cluster
    rollout: RolloutSide
    temporary: list[Path]  # folders of engines that must be gone at the end


@pytest.fixture(scope="module")
def rollout_side(request: pytest.FixtureRequest, no_shared_ray: None) -> Iterator[Stage]:
    weights, frontend = request.param
    model: Path = request.getfixturevalue(f"{weights}_model")
    settings = (*SMALL, *TWO_AND_TWO, f"model.path={model}", f"rollout.frontend={frontend}")
    config = load_config(settings)
    temporary: list[Path] = []
    with (
        start_cluster(config.cluster, config.rollout, config.learner) as cluster,
        open_rollout_side(config, cluster, model, Faults(print, max_restarts=9)) as rollout,
    ):
        yield Stage(settings=settings, model=model, cluster=cluster, rollout=rollout, temporary=temporary)
    assert not any(folder.exists() for folder in temporary), "what vLLM left there goes with its engine"


def temporary_folder(engine: int) -> Path:
    """The temporary folder of an engine, by its process id: it keeps it open."""
    opened = [link.readlink() for link in Path(f"/proc/{engine}/fd").iterdir() if link.is_symlink()]
    (folder,) = {path for path in opened if path.name.startswith(PREFIX)}
    return folder


@pytest.fixture(scope="module")
def parts(request: pytest.FixtureRequest, rollout_side: Stage) -> Iterator[Parts]:
    config = load_config([*rollout_side.settings, *request.param])
    spec = learner_spec(config, rollout_side.cluster, rollout_side.model)
    with join_learner(
        config, rollout_side.cluster, spec, rollout_side.rollout, task=build_task(config.task), start_iteration=0
    ) as built:
        yield built


def largest_difference(parts: Parts, token_ids: np.ndarray, prompt_length: int) -> float:
    expected = parts.learner.score(token_ids, prompt_length)
    answers = parts.fleet.call("score", token_ids, prompt_length, timeout_s=240.0)
    return max(float(np.abs(answer - expected).max()) for answer in answers.values())


def break_off_at(worker: Any, label: str) -> None:
    """On a learner rank: next time, the connection breaks where group `label` would go out."""
    sender = worker._sender
    if sender._transport is None:
        return
    labels = iter([group.label for group in sender.changing_groups])

    def start(buffer: torch.Tensor) -> Transfer:
        if next(labels) == label:
            raise RuntimeError("connection closed by peer")
        return type(sender._transport).start(sender._transport, buffer)

    sender._transport.start = start


def flip_bit_after_digest(worker: Any, label: str) -> None:
    """On a learner rank: next time, what goes out of group `label` differs in one bit from what was digested."""
    sender = worker._sender
    if sender._transport is None:
        return
    labels = iter([group.label for group in sender.changing_groups])

    def start(buffer: torch.Tensor) -> Transfer:
        if next(labels, None) == label:
            buffer = buffer.clone()
            buffer[7] ^= 1
        return type(sender._transport).start(sender._transport, buffer)

    sender._transport.start = start


@with_every_part
def test_engines_compute_the_learners_logprobs_after_every_publish(parts: Parts) -> None:
    for version in range(3):
        report = parts.channel.publish(version)
        sent = parts.learner.changing_groups() if version else parts.learner.parameter_groups()
        assert report.num_bytes == sum(group.num_bytes for group in sent)
        parts.groups.admit(version)
        groups = parts.groups.take(version)
        completion = groups[0].group.completions[0]
        prompt = groups[0].group.prompt.token_ids
        assert completion.tokens.min_policy_version == completion.tokens.max_policy_version == version
        tokens = completion.tokens.token_ids
        np.testing.assert_array_equal(tokens[: len(prompt)], prompt)
        own = parts.learner.score(tokens, len(prompt))
        np.testing.assert_allclose(completion.tokens.rollout_logprobs, own, atol=1e-4)
        assert largest_difference(parts, tokens, len(prompt)) < 1e-4
        before = own
        config = parts.config
        batch = to_train_batch(
            groups,
            policy_version=version,
            objective=config.objective,
            max_new_tokens=config.rollout.max_new_tokens,
        )
        parts.learner.load(batch, version)
        assert [report.num_tokens > 0 for report in parts.learner.steps()] == [True, True]
        moved = parts.learner.score(tokens, len(prompt))
        assert np.abs(moved - before).max() > 1e-3, "the weights must have moved for the next publish to prove anything"


@with_every_part
def test_completions_in_flight_go_on_under_the_next_version(parts: Parts) -> None:
    parts.channel.publish(3)
    # Long enough for the publish to meet some of them under way, on a busy machine too.
    sampling = SamplingSpec(num_completions=64, max_new_tokens=100, temperature=1.0, seed=0)
    fleet = parts.fleet.sibling()
    for prompt in parts.eval_sets["arithmetic"]:
        fleet.submit(prompt, sampling)
    parts.fleet.call("ready", timeout_s=240.0)  # behind the prompts in each engine's mailbox
    parts.channel.publish(4)
    finished = []
    while fleet.num_in_flight:
        finished += fleet.await_finished()
    completions = [c for group in ray.get([group.group_ref for group in finished]) for c in group.completions]
    versions = {(each.tokens.min_policy_version, each.tokens.max_policy_version) for each in completions}
    assert (3, 4) in versions, "some began before the publish and ended after it"
    assert len(completions) == 64 * len(parts.eval_sets["arithmetic"])
    assert all(np.isfinite(completion.tokens.rollout_logprobs).all() for completion in completions)


@with_every_part
def test_a_corrupted_weight_stops_the_publish_and_is_named(parts: Parts) -> None:
    label = "model.layers.1"
    parts.channel.publish(5)
    parts.learner.apply(flip_bit_after_digest, label)
    with pytest.raises(PublishError, match=r"engine 0 .* parameter group model\.layers\.1: digest"):
        parts.channel.publish(6)
    parts.channel.publish(7)


@with_every_part
def test_stale_weights_fail_the_logprob_probe(parts: Parts) -> None:
    parts.channel.publish(8)
    parts.learner.apply(nudge_weights)
    assert parts.channel._channel._probe.tolerance < 0.01
    with pytest.raises(PublishError, match="engine 0 computes other logprobs than the learner"):
        parts.channel._channel._compare_logprobs(9)


@with_parts((UNTIED_ASYNC, WHOLE))
def test_an_engine_that_is_killed_takes_its_children_along(rollout_side: RolloutSide, parts: Parts) -> None:
    survivor, actor = parts.fleet.call("ready", timeout_s=240.0).values()
    for engine in (survivor, actor):
        assert list(temporary_folder(engine).glob("vllm_dist_*")), "vLLM's rendezvous, which it would leave in /tmp"
    rollout_side.temporary.append(temporary_folder(survivor))
    children = psutil.Process(actor).children(recursive=True)
    assert any("VLLM" in " ".join(child.cmdline()) for child in children)
    os.kill(actor, signal.SIGKILL)
    _, alive = psutil.wait_procs(children, timeout=EVENT_TIMEOUT_S)
    assert not alive

    parts.channel.publish(10)
    assert parts.fleet.numbers == {0}, "the other one goes on, while a new one loads"
    assert largest_difference(parts, parts.eval_sets["arithmetic"][0].token_ids, 1) < 1e-4


@with_parts((UNTIED_ASYNC, WHOLE))
def test_a_member_that_dies_in_the_rendezvous_keeps_nobody_waiting(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert wait_until(lambda: bool(parts.channel.publish(11)) and parts.fleet.numbers == {0, 1})
    *_, engine = parts.fleet.call("ready", timeout_s=240.0).values()
    submit = parts.learner.submit

    def kill_and_submit(method: str, *arguments: Any) -> list[Any]:
        if method == "connect":  # the others come, and wait for the engine
            os.kill(engine, signal.SIGKILL)
            monkeypatch.undo()
        return submit(method, *arguments)

    monkeypatch.setattr(parts.learner, "submit", kill_and_submit)
    parts.channel._channel._receivers = []  # all meet anew
    started = time.monotonic()
    parts.channel.publish(12)
    assert time.monotonic() - started < parts.config.publish.timeout_s / 2
    assert parts.fleet.numbers == {0}
    assert largest_difference(parts, parts.eval_sets["arithmetic"][0].token_ids, 1) < 1e-4


@with_parts((TIED_INLINE, LORA))
def test_a_part_of_what_vllm_keeps_as_one_is_refused(parts: Parts) -> None:
    parts.learner.apply(send_adapted_only)
    parts.channel._channel._changing_groups = parts.learner.changing_groups()
    with pytest.raises(PublishError, match=r"qkv_proj, .*gate_up_proj: the update has only a part"):
        parts.channel.publish(9)


def send_adapted_only(worker: Any) -> None:
    """On a learner rank: leave the neighbours of adapted weights at home."""
    groups = worker._sender.changing_groups
    adapted = [
        replace(group, parameters=tuple(m for m in group.parameters if m.name.split(".")[-2] in ("q_proj", "up_proj")))
        for group in groups
    ]
    groups[:] = adapted


def nudge_weights(worker: Any) -> None:
    """On a learner rank: every weight of its shard grows by a tenth, as if an update had not been published."""
    from learner.model.policy import checkpoint_parameters

    with torch.no_grad():
        for _, parameter in checkpoint_parameters(worker.policy):
            parameter.ds_tensor.mul_(1.1)  # type: ignore[attr-defined]


@with_parts((UNTIED_ASYNC, WHOLE))
def test_engines_with_a_part_of_the_weights_are_replaced_before_the_next_publish(parts: Parts) -> None:
    parts.learner.apply(break_off_at, "model.layers.1")
    with pytest.raises(PublishError, match=r"failed during the publish: RuntimeError: .*onnection closed"):
        parts.channel.publish(8)  # rank 0 or an engine, whichever is heard first
    before = set(parts.fleet.engines)
    parts.learner.apply(nudge_weights)
    assert parts.channel.publish(8).num_bytes == sum(group.num_bytes for group in parts.learner.parameter_groups())
    assert wait_until(lambda: bool(parts.channel.publish(8)) and parts.fleet.numbers == {0, 1}), "nothing is left out"
    assert before.isdisjoint(parts.fleet.engines)
    prompt = parts.eval_sets["arithmetic"][0].token_ids
    assert largest_difference(parts, prompt, 1) < 1e-4
