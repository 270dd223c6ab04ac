"""The parts of a run, built from its configuration and taken down in reverse order.

A RunConfig, a cluster and a model folder come in; started actors and the objects that speak for them come out. Here and
only here sub-configurations are handed to the parts; the loop then only calls them.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from configs.schema import RunConfig
from learner.group import LearnerGroup
from learner.spec import LearnerSpec
from orchestration.cluster import Cluster
from orchestration.evaluate.drawing import evaluate_sets
from orchestration.evaluate.prompts import eval_prompts
from orchestration.interfaces import Standing
from orchestration.journal.eval_rows import Evaluation
from orchestration.placement import PlacementError
from orchestration.rollout_parts import engine_dtype, start_rollout
from orchestration.stream.batches import has_gradient
from orchestration.stream.group_stream import GroupStream, Resampling
from orchestration.stream.order import admission_for, buffer_for
from orchestration.stream.positions import FRESH, StreamPositions
from orchestration.stream.recorded_groups import RecordingStream
from orchestration.stream.recordings import manifest_of
from orchestration.stream.score_dispatch import dispatcher_for
from orchestration.stream.source import GroupSource
from orchestration.weight_channel import Probe, WeightChannel
from rollout.contract import Prompt, SamplingSpec
from rollout.fleets.fleet import RolloutFleet
from rollout.prompts import PromptStream, load_tokenizer, prompt_encoder, prompt_renderer
from rollout.recording import vocabulary_digest
from rollout.rewards.graders import GraderPool
from rollout.tasks import Task
from transfer.answers import await_answers
from transfer.spans import Span

# Mean over the probe's tokens, nats: two float32 implementations agree to 1e-6, bfloat16 kernels to a hundredth.
FLOAT32_PROBE_TOLERANCE = 1e-3
LOW_PRECISION_PROBE_TOLERANCE = 0.1
LAST_SPANS_TIMEOUT_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """Everything that runs."""

    learner: LearnerGroup
    fleet: RolloutFleet
    graders: GraderPool
    channel: WeightChannel
    groups: GroupSource
    eval_sets: Mapping[str, tuple[Prompt, ...]]  # by the set's name
    config: RunConfig

    def evaluate(self) -> Evaluation:
        """Every evaluation set with the weights published last."""
        config = self.config
        return evaluate_sets(self.fleet, self.graders, self.eval_sets, config.eval, config.rollout)

    def standing(self) -> Standing:
        """Waits for the learner ranks only: engines told of themselves with the publish, graders tell when they can."""
        standing = standing_of_learner(self.learner)
        return replace(
            standing, spans=(*standing.spans, *self.channel.drain_engine_spans(), *self.graders.drain_spans())
        )

    def last_spans(self) -> tuple[Span, ...]:
        """Of engines and graders, as far as they answer at once: a run that has ended well must not fail for them."""
        actors = [*self.fleet.engines, *self.graders.workers]
        calls = {place: actor.drain_spans.remote() for place, actor in enumerate(actors)}
        answers = await_answers(calls, timeout_s=LAST_SPANS_TIMEOUT_S)
        asked_before = self.graders.drain_spans()  # a grader answers in order, so it is there by now
        return (*asked_before, *(span for spans in answers.results.values() for span in spans))


def standing_of_learner(learner: LearnerGroup) -> Standing:
    """Peak memory, what was scored ahead, and spans of the ranks, from one call."""
    ranks = learner.status()
    metrics = {"memory/peak_bytes": max(rank.peak_memory_bytes for rank in ranks)}
    if ranks[0].scored_ahead_share:
        metrics["learner/scored_ahead_share"] = ranks[0].scored_ahead_share  # all ranks have scored the same
    return Standing(
        metrics=metrics,
        spans=tuple(span for rank in ranks for span in rank.spans),
    )


@contextmanager
def build_parts(
    config: RunConfig,
    cluster: Cluster,
    model_path: Path | str,
    *,
    task: Task,
    start_iteration: int,
    start_positions: StreamPositions = FRESH,
) -> Iterator[Parts]:
    """Starts engines, graders and learner side by side; on the way out ends every process they started."""
    spec = learner_spec(config, cluster, model_path)  # refuses what does not fit this device: before any actor starts
    with ExitStack() as undo:
        fleet, graders = start_rollout(config, cluster, model_path, undo)
        if config.cluster.shares_gpus:
            # vLLM measures the free memory of its GPU while it starts; a learner that loads beside it would change that
            fleet.await_ready(timeout_s=config.cluster.start_timeout_s)
        learner = start_learner(spec, cluster, timeout_s=config.cluster.start_timeout_s)
        undo.callback(learner.shutdown)
        tokenizer = load_tokenizer(str(model_path), trust_remote_code=config.model.trust_remote_code)
        encode, render = prompt_encoder(tokenizer), prompt_renderer(config.task, tokenizer)
        prompts = PromptStream(task.train_problems(), encode, seed=config.seed, weights=task.weights(), render=render)
        fleet.await_ready(timeout_s=config.cluster.start_timeout_s)

        groups = GroupStream(
            fleet.sibling(grade=graders.grade),
            prompts,
            _training_sampling(config),
            admission=admission_for(
                config.rollout.batch_order,
                prompts_per_iteration=config.rollout.prompts_per_iteration,
                max_staleness=config.max_staleness,
            ),
            buffer=buffer_for(
                config.rollout.batch_order,
                prompts_per_iteration=config.rollout.prompts_per_iteration,
                max_staleness=config.max_staleness,
                start_iteration=start_iteration,
            ),
            resampling=_resampling(config),
            scoring=dispatcher_for(learner, max_staleness=config.max_staleness),
            start_iteration=start_iteration,
            start_positions=start_positions,
            num_iterations=config.num_iterations,
            grading_timeout_s=config.graders.timeout_s * config.rollout.completions_per_iteration,
            counts_failures=config.reward.counts_failures,
        )
        yield Parts(
            learner=learner,
            fleet=fleet,
            graders=graders,
            channel=_channel(config, cluster, learner, fleet, prompts),
            groups=_recorded(groups, config, tokenizer, start_iteration=start_iteration),
            eval_sets={
                name: eval_prompts(problems, config.eval, encode, render) for name, problems in task.eval_sets().items()
            },
            config=config,
        )


def _resampling(config: RunConfig) -> Resampling | None:
    rollout = config.rollout
    if not rollout.dynamic_sampling:
        return None
    teaches = partial(has_gradient, objective=config.objective, max_new_tokens=rollout.max_new_tokens)
    return Resampling(has_gradient=teaches, max_attempts=rollout.max_sampling_attempts)


def start_learner(spec: LearnerSpec, cluster: Cluster, *, timeout_s: float) -> LearnerGroup:
    """All ranks in their bundles, with the model loaded."""
    return LearnerGroup(spec, start_timeout_s=timeout_s, **cluster.learner_options())


def _recorded(groups: GroupSource, config: RunConfig, tokenizer: Any, *, start_iteration: int) -> GroupSource:
    """The source itself, or one that records what it gives out."""
    if config.rollout.record is None:
        return groups
    manifest = manifest_of(config, vocabulary=vocabulary_digest(tokenizer.get_vocab()))
    return RecordingStream(groups, Path(config.rollout.record), manifest, start_iteration=start_iteration)


def learner_spec(config: RunConfig, cluster: Cluster, model_path: Path | str) -> LearnerSpec:
    """What every rank is told; LearnerSpecError where settings do not fit this cluster's device."""
    return LearnerSpec(
        learner=config.learner,
        gate=config.gate,
        objective=config.objective,
        model_path=str(model_path),
        trust_remote_code=config.model.trust_remote_code,
        temperature=config.rollout.temperature,
        max_new_tokens=config.rollout.max_new_tokens,
        num_iterations=config.num_iterations,
        wire_dtype_name=engine_dtype(config, cluster),
        seed=config.seed,
        device="cpu" if cluster.device == "cpu" else "cuda",
    )


def _training_sampling(config: RunConfig) -> SamplingSpec:
    rollout = config.rollout
    return SamplingSpec(
        num_completions=rollout.completions_per_prompt,
        max_new_tokens=rollout.max_new_tokens,
        temperature=rollout.temperature,
        seed=config.seed,
    )


def _channel(
    config: RunConfig, cluster: Cluster, learner: LearnerGroup, fleet: RolloutFleet, prompts: PromptStream
) -> WeightChannel:
    exact = engine_dtype(config, cluster) == learner.spec.dtype_name == "float32"
    tolerance = FLOAT32_PROBE_TOLERANCE if exact else LOW_PRECISION_PROBE_TOLERANCE
    backend = config.publish.backend
    if backend == "auto":
        backend = "gloo" if cluster.device == "cpu" or config.cluster.shares_gpus else "nccl"
    if backend == "nccl" and cluster.device == "cpu":
        raise PlacementError("publish.backend=nccl: this cluster has no GPUs in use; set publish.backend=gloo")
    probe = Probe(token_ids=prompts.prompt_at(0).token_ids, tolerance=tolerance)
    return WeightChannel(learner, fleet, config.publish, backend=backend, probe=probe)
