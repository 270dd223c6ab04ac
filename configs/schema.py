"""The whole configuration of a run as one frozen pydantic tree.

In: a plain nested dict (Hydra's result). Out: RunConfig, or a pydantic ValidationError that names each wrong field.
Defaults live here only; the YAML groups override them by name. This module knows nothing of torch, Ray, vLLM or Hydra.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from configs.checkpoint import CheckpointConfig
from configs.evaluation import EvalConfig
from configs.gates import GateConfig
from configs.graders import GradersConfig
from configs.lora import LoraConfig
from configs.objective import ObjectiveConfig, correction_mistake
from configs.recovery import RecoveryConfig
from configs.rewards import RewardConfig
from configs.section import Section
from configs.tasks import TaskConfig


class ModelConfig(Section):
    """path: a Hugging Face model folder or hub name, or "embedded" for the tiny model the project builds itself."""

    path: str = Field(default="embedded", min_length=1)
    max_model_len: int = Field(default=64, ge=8)  # tokens of prompt + completion an engine accepts
    trust_remote_code: bool = False


Frontend = Literal["auto", "async", "inline"]
Beta = Annotated[float, Field(ge=0.0, lt=1.0)]


class RolloutConfig(Section):
    """Generation: engines, sampling, and how much of it one iteration takes."""

    num_engines: int = Field(default=1, ge=1)  # most engines at a time
    # fewest engines with which a run starts and goes on; null: starts with num_engines and goes on with one
    min_engines: int | None = Field(default=None, ge=1)
    # async: vLLM's AsyncLLM, engine in a child process; inline: engine in the actor's process; auto: inline on CPU
    frontend: Frontend = "auto"
    tensor_parallel_size: int = Field(default=1, ge=1)
    prompts_per_iteration: int = Field(default=16, ge=1)
    completions_per_prompt: int = Field(default=8, ge=2)  # a group of one has no advantage
    max_new_tokens: int = Field(default=32, ge=1)
    temperature: float = Field(default=1.0, ge=0.01)  # vLLM raises a smaller one, the learner would not
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # auto: float32 on CPU, bfloat16 on a GPU
    gpu_memory_utilization: float = Field(default=0.85, gt=0.0, le=1.0)
    kv_cache_gib: float = Field(default=0.25, gt=0.0)  # key/value cache of one engine, CPU only
    max_num_seqs: int = Field(default=256, ge=1)
    enforce_eager: bool = False
    attention_backend: str = Field(default="auto", min_length=1)  # vLLM's name of one; auto: vLLM's choice
    timeout_s: float = Field(default=600.0, gt=0.0)  # longest wait for one group
    # prompt: a batch has the groups in the order of their prompts; finished: those that finish first, the others later
    batch_order: Literal["prompt", "finished"] = "prompt"
    dynamic_sampling: bool = False  # replace groups whose rewards are all equal by those of other prompts
    max_sampling_attempts: int = Field(default=3, ge=1)  # rounds of replacement an iteration
    record: str | None = Field(default=None, min_length=1)  # folder for every graded group; null: not recorded
    # folder whose recorded groups are trained on instead of new ones, without engines and graders; null: generate
    replay: str | None = Field(default=None, min_length=1)

    @property
    def completions_per_iteration(self) -> int:
        """Completions of all prompts of one iteration."""
        return self.prompts_per_iteration * self.completions_per_prompt

    @property
    def has_engines(self) -> bool:
        """Whether the run generates; a replay starts neither engines nor graders."""
        return self.replay is None

    @property
    def engines_at_start(self) -> int:
        """Engines that a run waits for at its start."""
        return self.min_engines or self.num_engines

    @property
    def engines_to_go_on(self) -> int:
        """Engines without which a run waits for others."""
        return self.min_engines or 1

    def mistakes(self) -> Iterator[str]:
        if self.min_engines is not None and self.min_engines > self.num_engines:
            yield (
                f"rollout.min_engines={self.min_engines}: must be at most rollout.num_engines={self.num_engines}, the "
                f"most engines"
            )
        if self.record is not None and self.replay is not None:
            yield (
                f"rollout.record={self.record}: cannot be combined with rollout.replay={self.replay}, which has these "
                f"groups already; set one of them to null"
            )


class LearnerConfig(Section):
    """The DeepSpeed learner group and its optimizer."""

    num_workers: int = Field(default=1, ge=1)
    zero_stage: Literal[0, 1, 2, 3] = 2
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: float32 on CPU, bfloat16 on a GPU
    lr: float = Field(default=1e-6, gt=0.0)
    lr_schedule: Literal["linear", "constant"] = "linear"
    betas: tuple[Beta, Beta] = Field(default=(0.9, 0.999), strict=False)  # YAML has lists only
    eps: float = Field(default=1e-8, gt=0.0)
    weight_decay: float = Field(default=0.0, ge=0.0)
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    num_minibatches: int = Field(default=2, ge=1)  # optimizer steps an iteration and epoch
    num_epochs: int = Field(default=1, ge=1)
    max_tokens_per_micro_batch: int = Field(default=2048, ge=8)
    max_logits: int = Field(default=4_194_304, ge=1)  # positions x vocabulary that exist at a time, in float32
    old_logprobs: Literal["auto", "recompute", "rollout"] = "auto"  # auto: rollout on CPU, recompute on a GPU
    loss_aggregation: Literal["sequence_mean", "token_mean", "constant_length"] = "sequence_mean"
    gradient_checkpointing: bool = False
    lora: LoraConfig = LoraConfig()
    audit: bool = True  # measure what every built-in gate would have done with the same tokens: audit/* in the metrics
    timeout_s: float = Field(default=1800.0, gt=0.0)  # longest wait for one call on all ranks


class PublishConfig(Section):
    """The broadcast of weights from learner rank 0 to every engine."""

    backend: Literal["auto", "nccl", "gloo"] = "auto"  # auto: nccl between GPUs, gloo on CPU and on shared GPUs
    # true: completions in flight are frozen and go on under the new weights; false: engines finish them before
    inflight: bool = True
    timeout_s: float = Field(default=300.0, gt=0.0)  # limit of a publish; with inflight=false it includes a completion
    verify_every: int = Field(default=1, ge=1)  # compare digests at every n-th version
    probe_every: int = Field(default=10, ge=1)  # compare logprobs of a fixed prompt at every n-th version


class ClusterConfig(Section):
    """Which Ray cluster, and what each actor takes of it."""

    # auto: join what RAY_ADDRESS names (a submitted job), else as local; local: start one and stop it; or host:port
    address: str = Field(default="auto", min_length=1)
    device: Literal["auto", "cpu", "gpu"] = "auto"  # auto: gpu if the cluster reports GPUs
    cpus_per_engine: float = Field(default=1.0, gt=0.0)
    cpus_per_learner: float = Field(default=1.0, gt=0.0)
    # below 1 engines and learner ranks share GPUs; above 0.5 a rank, because two ranks on one GPU cannot meet over NCCL
    gpus_per_engine: float = Field(default=1.0, gt=0.0, le=1.0)  # share of a GPU for each tensor parallel worker
    gpus_per_learner: float = Field(default=1.0, gt=0.5, le=1.0)
    placement_timeout_s: float = Field(default=8.0, gt=0.0)
    start_timeout_s: float = Field(default=600.0, gt=0.0)  # limit for engines and learner to load

    @property
    def shares_gpus(self) -> bool:
        """Whether an engine and a learner rank may lie on one GPU, where the cluster's GPUs are used."""
        return self.gpus_per_engine < 1.0 or self.gpus_per_learner < 1.0


class JournalConfig(Section):
    """What a run leaves behind beside metrics.jsonl."""

    rollouts_per_iteration: int = Field(default=2, ge=0)  # groups written in full to rollouts.jsonl
    tensorboard: bool = True
    trace: bool = True  # timeline of every actor in trace.json
    progress: bool = True


class RunConfig(Section):
    """Everything one run needs. `python orchestration/run.py key=value ...` sets any field."""

    gate: GateConfig
    task: TaskConfig
    model: ModelConfig = ModelConfig()
    rollout: RolloutConfig = RolloutConfig()
    reward: RewardConfig = RewardConfig()
    graders: GradersConfig = GradersConfig()
    learner: LearnerConfig = LearnerConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    publish: PublishConfig = PublishConfig()
    recovery: RecoveryConfig = RecoveryConfig()
    cluster: ClusterConfig = ClusterConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: EvalConfig = EvalConfig()
    journal: JournalConfig = JournalConfig()
    num_iterations: int = Field(default=60, ge=1)
    max_staleness: int = Field(default=0, ge=0)  # policy versions; 0 is synchronous
    seed: int = Field(default=0, ge=0, lt=2**31)
    run_dir: str = Field(default="auto", min_length=1)  # auto: runs/<task>-<gate>-seed<seed>, next free number
    resume: bool = False
    resume_force: bool = False  # with resume=true: go on although settings say that it is another experiment
    dry_run: bool = False

    @property
    def max_prompt_tokens(self) -> int:
        """Tokens of the longest prompt: the task's limit, or what the longest completion leaves of the model's."""
        return self.task.max_prompt_tokens or self.model.max_model_len - self.rollout.max_new_tokens

    @property
    def evaluates(self) -> bool:
        """Whether the run evaluates before and after training: it has engines, and its task evaluation sets."""
        return self.rollout.has_engines and bool(self.task.eval_set_names)

    def mistakes(self) -> Iterator[str]:
        rollout, learner, max_model_len = self.rollout, self.learner, self.model.max_model_len
        available = rollout.completions_per_iteration
        needed = learner.num_minibatches * learner.num_workers
        if available < needed:
            yield (
                f"learner.num_minibatches={learner.num_minibatches}: needs {needed} completions an iteration on "
                f"learner.num_workers={learner.num_workers}, there are {available}; "
                f"lower it or raise rollout.prompts_per_iteration"
            )
        if rollout.max_new_tokens >= max_model_len:
            yield (
                f"rollout.max_new_tokens={rollout.max_new_tokens}: must be less than "
                f"model.max_model_len={max_model_len}, which counts the prompt too"
            )
        if learner.max_tokens_per_micro_batch < max_model_len:
            yield (
                f"learner.max_tokens_per_micro_batch={learner.max_tokens_per_micro_batch}: must be at least "
                f"model.max_model_len={max_model_len}, the longest sequence"
            )
        if self.resume_force and not self.resume:
            yield "resume_force=true: has an effect with resume=true only; add that or leave it out"
        yield from self._misfits_of_task()
        yield from self._misfits_of_gpus()
        yield from self._misfits_of_order()
        if not rollout.has_engines and self.eval.every > 0:
            yield (
                f"eval.every={self.eval.every}: must be 0 with rollout.replay={rollout.replay}, which starts no engine "
                f"that could evaluate; evaluate the final model afterwards"
            )
        yield from self._misfits_of_evaluation()
        set_names = self.task.eval_set_names if rollout.has_engines else ()
        if unkept := self.checkpoint.misfit(self.eval, set_names=set_names):
            yield unkept
        if self.objective.overlong_buffer > rollout.max_new_tokens:
            yield (
                f"objective.overlong_buffer={self.objective.overlong_buffer}: must be at most "
                f"rollout.max_new_tokens={rollout.max_new_tokens}, the longest completion"
            )
        correction = correction_mistake(self.objective, old_logprobs=learner.old_logprobs, device=self.cluster.device)
        if correction:
            yield correction

    def _misfits_of_gpus(self) -> Iterator[str]:
        rollout, cluster = self.rollout, self.cluster
        if self.publish.backend == "nccl" and cluster.device == "cpu":
            yield "publish.backend=nccl: needs GPUs, and cluster.device=cpu; must be auto or gloo"
        if self.publish.backend == "nccl" and cluster.shares_gpus:
            yield (
                f"publish.backend=nccl: needs a GPU of its own for each engine and rank, and there is "
                f"cluster.gpus_per_engine={cluster.gpus_per_engine:g} and "
                f"cluster.gpus_per_learner={cluster.gpus_per_learner:g}; must be auto or gloo"
            )
        if cluster.gpus_per_engine < 1.0 and rollout.tensor_parallel_size > 1:
            yield (
                f"cluster.gpus_per_engine={cluster.gpus_per_engine:g}: must be 1 with rollout.tensor_parallel_size="
                f"{rollout.tensor_parallel_size}, whose workers take whole GPUs"
            )
        if rollout.gpu_memory_utilization > cluster.gpus_per_engine:
            yield (
                f"rollout.gpu_memory_utilization={rollout.gpu_memory_utilization:g}: must be at most "
                f"cluster.gpus_per_engine={cluster.gpus_per_engine:g}; the rest of the GPU is for who shares it"
            )

    def _misfits_of_order(self) -> Iterator[str]:
        if self.rollout.batch_order != "finished":
            return
        if self.max_staleness < 2:
            yield (
                f"max_staleness={self.max_staleness}: must be at least 2 with rollout.batch_order=finished, where "
                f"generation is one version ahead and a group may be overtaken; raise it or set "
                f"rollout.batch_order=prompt"
            )
        if not self.publish.inflight:
            yield (
                "publish.inflight=false: waits at each publish for the groups that rollout.batch_order=finished lets "
                "go on; must be true, or set rollout.batch_order=prompt"
            )

    def _misfits_of_task(self) -> Iterator[str]:
        task, num_prompts = self.task, self.eval.num_prompts
        if task.held_out is not None and num_prompts != "all" and num_prompts > task.held_out:
            yield (
                f"eval.num_prompts={num_prompts}: must be at most task.held_out={task.held_out}, "
                f"the prompts kept for evaluation"
            )
        max_new_tokens, max_model_len = self.rollout.max_new_tokens, self.model.max_model_len
        if task.max_prompt_tokens is not None and task.max_prompt_tokens + max_new_tokens > max_model_len:
            yield (
                f"task.max_prompt_tokens={task.max_prompt_tokens}: with rollout.max_new_tokens={max_new_tokens} it "
                f"must fit into model.max_model_len={max_model_len}; lower it or raise that to at least "
                f"{task.max_prompt_tokens + max_new_tokens}"
            )

    def _misfits_of_evaluation(self) -> Iterator[str]:
        max_new_tokens, max_model_len = self.eval.max_new_tokens, self.model.max_model_len
        if max_new_tokens == "auto":  # rollout.max_new_tokens has the same rules
            return
        longest_prompt = self.task.max_prompt_tokens or 1
        if (needed := longest_prompt + max_new_tokens) > max_model_len:
            yield (
                f"eval.max_new_tokens={max_new_tokens}: with a prompt of {longest_prompt} token(s) it must fit into "
                f"model.max_model_len={max_model_len}; lower it or raise that to at least {needed}"
            )
