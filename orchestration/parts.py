"""The parts of a run: built from its configuration, shut down in reverse order.

In: a RunConfig, a cluster and a model folder. Out: started actors and the objects through which the loop calls them.
Only this module reads sub-configurations for the parts.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from configs.schema import RunConfig
from learner.group import LearnerGroup
from learner.spec import LearnerSpec
from orchestration.cluster import Cluster
from orchestration.evaluate.drawing import evaluate_sets
from orchestration.evaluate.prompts import eval_prompts
from orchestration.interfaces import ActorStatus
from orchestration.journal.eval_rows import Evaluation
from orchestration.placement import PlacementError
from orchestration.recovery.faults import Faults
from orchestration.recovery.publishing import LastingPublisher
from orchestration.rollout_parts import RolloutSide, engine_dtype, open_rollout_side
from orchestration.stream.batches import has_gradient
from orchestration.stream.group_stream import GroupStream, Resampling
from orchestration.stream.order import admission_for, buffer_for
from orchestration.stream.positions import FRESH, StreamPositions
from orchestration.stream.recorded_groups import RecordingStream
from orchestration.stream.recordings import manifest_of
from orchestration.stream.score_dispatch import dispatcher_for
from orchestration.stream.source import GroupSource
from orchestration.task_loading import model_tokenizer
from orchestration.weight_channel import Probe, WeightChannel
from rollout.contract import Prompt, SamplingSpec
from rollout.fleets.fleet import RolloutFleet
from rollout.prompts import PromptStream, prompt_encoder, prompt_renderer
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
    """The parts of a run with engines."""

    learner: LearnerGroup
    fleet: RolloutFleet
    graders: GraderPool
    channel: LastingPublisher
    groups: GroupSource
    eval_sets: Mapping[str, tuple[Prompt, ...]]  # prompts by the set's name
    faults: Faults
    config: RunConfig

    def evaluate(self) -> Evaluation:
        """Evaluates every set with the weights published last."""
        config = self.config
        return evaluate_sets(self.fleet, self.graders, self.eval_sets, config.eval, config.rollout)

    def status(self) -> ActorStatus:
        """Waits for learner ranks only: engines reported with the publish, spans of graders follow when they arrive."""
        status = learner_status(self.learner, self.faults)
        spans = (*status.spans, *self.channel.drain_engine_spans(), *self.graders.drain_spans())
        return replace(status, spans=spans)

    def last_spans(self) -> tuple[Span, ...]:
        """Spans of engines and graders that answer at once: missing ones must not fail a run that has ended well."""
        actors = [*self.fleet.engines, *self.graders.workers]
        calls = {place: actor.drain_spans.remote() for place, actor in enumerate(actors)}
        answers = await_answers(calls, timeout_s=LAST_SPANS_TIMEOUT_S)
        earlier = self.graders.drain_spans()  # graders answer in order, so earlier requests are answered by now
        return (*earlier, *(span for spans in answers.results.values() for span in spans))


def learner_status(learner: LearnerGroup, faults: Faults) -> ActorStatus:
    """Peak memory, share of completions scored ahead, and spans of the ranks, from one call; the faults until now."""
    ranks = learner.status()
    metrics = {"memory/peak_bytes": max(rank.peak_memory_bytes for rank in ranks), **faults.drain()}
    if ranks[0].scored_ahead_share:
        metrics["learner/scored_ahead_share"] = ranks[0].scored_ahead_share  # all ranks have scored the same
    return ActorStatus(metrics=metrics, spans=tuple(span for rank in ranks for span in rank.spans))


@contextmanager
def build_parts(
    config: RunConfig, cluster: Cluster, model_path: Path | str, *, task: Task, start_iteration: int
) -> Iterator[Parts]:
    """All parts for one learner, started side by side; on the way out ends every process that they started."""
    faults = Faults(lambda line: None, max_restarts=config.recovery.max_restarts)
    spec = learner_spec(config, cluster, model_path)  # before any actor starts: refuses what does not fit this device
    with (
        open_rollout_side(config, cluster, model_path, faults) as rollout,
        join_learner(config, cluster, spec, rollout, task=task, start_iteration=start_iteration) as parts,
    ):
        yield parts


@contextmanager
def join_learner(
    config: RunConfig,
    cluster: Cluster,
    spec: LearnerSpec,
    rollout: RolloutSide,
    *,
    task: Task,
    start_iteration: int,
    start_positions: StreamPositions = FRESH,
) -> Iterator[Parts]:
    """Starts a learner beside engines and graders, which may still load; on the way out ends it, and it alone."""
    fleet, keeper = rollout.fleet, rollout.keeper
    with ExitStack() as undo:
        if config.cluster.shares_gpus:
            # vLLM measures the free memory of its GPU while it starts; a learner that loads meanwhile would change it
            rollout.await_ready()
        learner = start_learner(config, spec, cluster, while_waiting=keeper.tend)
        undo.callback(learner.shutdown)
        tokenizer = model_tokenizer(config.model, spec.model_path)
        encode, render = prompt_encoder(tokenizer), prompt_renderer(config.task, tokenizer)
        prompts = PromptStream(task.train_problems(), encode, seed=config.seed, weights=task.weights(), render=render)
        rollout.await_ready()

        publisher = LastingPublisher(_channel(config, cluster, learner, fleet, prompts), keeper)
        undo.enter_context(_tended(rollout, learner, publisher))
        groups: GroupSource = _group_stream(
            config, fleet.sibling(grade=rollout.graders.grade), prompts, learner, start_iteration, start_positions
        )
        if config.rollout.record is not None:
            manifest = manifest_of(config, vocabulary=vocabulary_digest(tokenizer.get_vocab()))
            folder = Path(config.rollout.record)
            groups = RecordingStream(groups, folder, manifest, start_iteration=start_iteration)
        yield Parts(
            learner=learner,
            fleet=fleet,
            graders=rollout.graders,
            channel=publisher,
            groups=groups,
            eval_sets={
                name: eval_prompts(problems, config.eval, encode, render) for name, problems in task.eval_sets().items()
            },
            faults=rollout.faults,
            config=config,
        )


@contextmanager
def _tended(rollout: RolloutSide, learner: LearnerGroup, publisher: LastingPublisher) -> Iterator[None]:
    """Inside, waits for groups look after learner and engines; afterwards nothing of what was asked for counts."""

    def tend() -> None:
        learner.check()
        rollout.keeper.serve(publisher.publish_again)

    rollout.fleet.tend_with(tend)
    try:
        yield
    finally:
        rollout.fleet.tend_with(rollout.keeper.tend)
        rollout.fleet.forget_submitted()


def _group_stream(
    config: RunConfig,
    fleet: RolloutFleet,
    prompts: PromptStream,
    learner: LearnerGroup,
    start_iteration: int,
    start_positions: StreamPositions,
) -> GroupStream:
    """The live source of groups, as the section rollout describes it."""
    rollout, resampling = config.rollout, None
    bounds = {"prompts_per_iteration": rollout.prompts_per_iteration, "max_staleness": config.max_staleness}
    if rollout.dynamic_sampling:
        teaches = partial(has_gradient, objective=config.objective, max_new_tokens=rollout.max_new_tokens)
        resampling = Resampling(has_gradient=teaches, max_attempts=rollout.max_sampling_attempts)
    return GroupStream(
        fleet,
        prompts,
        training_sampling(config),
        admission=admission_for(rollout.batch_order, **bounds),
        buffer=buffer_for(rollout.batch_order, **bounds, start_iteration=start_iteration),
        resampling=resampling,
        scoring=dispatcher_for(learner, max_staleness=config.max_staleness),
        start_iteration=start_iteration,
        start_positions=start_positions,
        num_iterations=config.num_iterations,
        counts_failures=config.reward.counts_failures,
    )


def start_learner(
    config: RunConfig, spec: LearnerSpec, cluster: Cluster, *, while_waiting: Callable[[], object] = lambda: None
) -> LearnerGroup:
    """Starts all ranks in their bundles, with the model loaded."""
    cluster.await_learner()
    return LearnerGroup(
        spec,
        start_timeout_s=config.cluster.start_timeout_s,
        recovery=config.recovery,
        while_waiting=while_waiting,
        **cluster.learner_options(),
    )


def learner_spec(config: RunConfig, cluster: Cluster, model_path: Path | str) -> LearnerSpec:
    """The specification of every rank; LearnerSpecError where settings do not fit this cluster's device."""
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


def training_sampling(config: RunConfig) -> SamplingSpec:
    """Sampling of a run's training prompts."""
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
