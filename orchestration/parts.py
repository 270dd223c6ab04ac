"""The parts of a run, built from its configuration and taken down in reverse order.

A RunConfig, a cluster and a model folder come in; started actors and the objects that speak for them come out. Here and
only here sub-configurations are handed to the parts; the loop then only calls them.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray

from configs.schema import RunConfig
from learner.group import LearnerGroup
from learner.spec import LearnerSpec
from orchestration.buffer import Admission
from orchestration.cluster import Cluster
from orchestration.evaluate import evaluate
from orchestration.group_stream import GroupStream
from orchestration.placement import PlacementError
from orchestration.recorded_groups import RecordingStream
from orchestration.recordings import manifest_of
from orchestration.stages import GroupSource
from orchestration.weight_channel import Probe, WeightChannel
from rollout.contract import Prompt, SamplingSpec
from rollout.engine import RolloutEngine
from rollout.fleet import RolloutFleet
from rollout.graders import GraderPool
from rollout.prompts import PromptStream, load_tokenizer, make_prompt, prompt_encoder, prompt_renderer
from rollout.recording import vocabulary_digest
from rollout.tasks import Task

# Mean over the probe's tokens, nats: two float32 implementations agree to 1e-6, bfloat16 kernels to a hundredth.
FLOAT32_PROBE_TOLERANCE = 1e-3
LOW_PRECISION_PROBE_TOLERANCE = 0.1


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

    def evaluate(self) -> dict[str, float]:
        """Greedy accuracy on each evaluation set with the weights published last; nothing where there is none."""
        config = self.config
        metrics: dict[str, float] = {}
        for name, prompts in self.eval_sets.items():
            metrics |= evaluate(
                self.fleet,
                self.graders,
                prompts,
                name=name,
                max_new_tokens=config.rollout.max_new_tokens,
                timeout_s=config.rollout.timeout_s,
            )
        return metrics

    def standing_metrics(self) -> dict[str, float]:
        """What holds at the end of an iteration: the peak memory."""
        return {"memory/peak_bytes": self.learner.peak_memory_bytes()}


@contextmanager
def build_parts(
    config: RunConfig, cluster: Cluster, model_path: Path | str, *, task: Task, start_iteration: int
) -> Iterator[Parts]:
    """Starts engines, graders and learner side by side; on the way out ends every process they started."""
    spec = learner_spec(config, cluster, model_path)  # refuses what does not fit this device: before any actor starts
    with ExitStack() as undo:
        engines = [_start_engine(index, config, cluster, model_path) for index in range(config.rollout.num_engines)]
        fleet = RolloutFleet(
            engines,
            workers_per_engine=config.rollout.tensor_parallel_size,
            timeout_s=config.rollout.timeout_s,
        )
        undo.callback(fleet.shutdown)
        graders = GraderPool(config.graders.num_workers, config.graders.timeout_s)
        undo.callback(graders.close)
        if config.cluster.shares_gpus:
            # vLLM measures the free memory of its GPU while it starts; a learner that loads beside it would change that
            fleet.await_ready(timeout_s=config.cluster.start_timeout_s)
        learner = start_learner(spec, cluster, timeout_s=config.cluster.start_timeout_s)
        undo.callback(learner.shutdown)
        fleet.await_ready(timeout_s=config.cluster.start_timeout_s)

        tokenizer = load_tokenizer(str(model_path), trust_remote_code=config.model.trust_remote_code)
        encode, render = prompt_encoder(tokenizer), prompt_renderer(config.task, tokenizer)
        prompts = PromptStream(task.train_problems(), encode, seed=config.seed, weights=task.weights(), render=render)
        groups = GroupStream(
            fleet,
            graders,
            prompts,
            _training_sampling(config),
            admission=Admission(
                prompts_per_iteration=config.rollout.prompts_per_iteration, max_staleness=config.max_staleness
            ),
            start_iteration=start_iteration,
            num_iterations=config.num_iterations,
            grading_timeout_s=config.graders.timeout_s * config.rollout.prompts_per_iteration,
        )
        yield Parts(
            learner=learner,
            fleet=fleet,
            graders=graders,
            channel=_channel(config, cluster, learner, fleet, prompts),
            groups=_recorded(groups, config, tokenizer, start_iteration=start_iteration),
            eval_sets={
                name: tuple(
                    make_prompt(problem, encode, index=index, render=render)
                    for index, problem in enumerate(problems[: config.eval.num_prompts])
                )
                for name, problems in task.eval_sets().items()
            },
            config=config,
        )


def start_learner(spec: LearnerSpec, cluster: Cluster, *, timeout_s: float) -> LearnerGroup:
    """All ranks in their bundles, with the model loaded."""
    return LearnerGroup(spec, start_timeout_s=timeout_s, **cluster.learner_options())


def _recorded(groups: GroupSource, config: RunConfig, tokenizer: Any, *, start_iteration: int) -> GroupSource:
    """The source itself, or one that records what it gives out."""
    if config.rollout.record is None:
        return groups
    manifest = manifest_of(config, vocabulary=vocabulary_digest(tokenizer.get_vocab()))
    return RecordingStream(groups, Path(config.rollout.record), manifest, start_iteration=start_iteration)


def _start_engine(index: int, config: RunConfig, cluster: Cluster, model_path: Path | str) -> Any:
    actor = ray.remote(RolloutEngine).options(**cluster.engine_options(index), max_concurrency=10_000)
    return actor.remote(
        index,
        model=config.model,
        model_path=str(model_path),
        rollout=config.rollout,
        device=cluster.device,
        dtype=_engine_dtype(config, cluster),
    )


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
        wire_dtype_name=_engine_dtype(config, cluster),
        seed=config.seed,
        device="cpu" if cluster.device == "cpu" else "cuda",
    )


def _engine_dtype(config: RunConfig, cluster: Cluster) -> Literal["float32", "bfloat16", "float16"]:
    if config.rollout.dtype != "auto":
        return config.rollout.dtype
    return "float32" if cluster.device == "cpu" else "bfloat16"


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
    exact = _engine_dtype(config, cluster) == learner.spec.dtype_name == "float32"
    tolerance = FLOAT32_PROBE_TOLERANCE if exact else LOW_PRECISION_PROBE_TOLERANCE
    backend = config.publish.backend
    if backend == "auto":
        backend = "gloo" if cluster.device == "cpu" or config.cluster.shares_gpus else "nccl"
    if backend == "nccl" and cluster.device == "cpu":
        raise PlacementError("publish.backend=nccl: this cluster has no GPUs in use; set publish.backend=gloo")
    probe = Probe(token_ids=prompts.prompt_at(0).token_ids, tolerance=tolerance)
    return WeightChannel(learner, fleet, config.publish, backend=backend, probe=probe)
