"""The text of `dry_run=true`: what a run would do.

In: a RunConfig and the checks before its start. Out: text with every setting, the optimization, the batch arithmetic,
the evaluation, the placement and the checks. Where the cluster determines the device, the text has both cases.
"""

from collections.abc import Sequence
from math import ceil, inf

from configs.loading import dump_yaml
from configs.schema import RunConfig
from orchestration.placement import Placement, plan_placement
from orchestration.startup.checks.result import Check
from orchestration.terminal.exit_status import print_answer

ROUNDING = 1e-6  # tolerance with which 0.4 + 0.6 GPUs count as one
DEVICES = {"cpu": {"CPU": inf}, "gpu": {"CPU": inf, "GPU": inf}}  # resources of a cluster with room for any run


def describe(config: RunConfig, checks: Sequence[Check] = ()) -> str:
    """All blocks of the text, and the warnings where there are any; checks: those that the run has before its start."""
    blocks = {
        "Configuration": dump_yaml(config).splitlines(),
        "Optimization": _optimization_lines(config),
        "Batch arithmetic": _batch_lines(config),
        "Evaluation": _evaluation_lines(config),
        "Placement": _placement_lines(config),
        "Checks": [f"{check.name:<27} {check.found}" for check in checks],
    }
    texts = ["\n  ".join([title, *lines]) for title, lines in blocks.items() if lines]
    notices = [f"warning: {notice}" for check in checks for notice in check.notices]
    return "\n\n".join(filter(None, [*texts, ratio_warning(config), *notices]))


def print_dry_runs(configs: Sequence[RunConfig], checks: Sequence[Sequence[Check]]) -> None:
    """Prints the text of each run that has dry_run=true."""
    for config, of_run in zip(configs, checks, strict=True):
        if config.dry_run:
            print_answer(describe(config, of_run))


def ratio_warning(config: RunConfig) -> str | None:
    """One line where every ratio stays 1, so that all gates train alike; None elsewhere."""
    learner = config.learner
    if learner.num_minibatches > 1 or learner.num_epochs > 1:
        return None
    if learner.old_logprobs == "recompute" or (learner.old_logprobs == "auto" and config.cluster.device == "gpu"):
        return (
            f"warning: every ratio stays 1, at any max_staleness, with one minibatch, one epoch and "
            f"learner.old_logprobs={learner.old_logprobs}, which recomputes the ratio's denominator; at ratio 1 all "
            f"gates have slope 1 and train alike; raise learner.num_minibatches or learner.num_epochs"
        )
    if config.max_staleness > 0 or not config.rollout.has_engines:
        return None
    return (
        "warning: every ratio stays 1 with one minibatch, one epoch and max_staleness=0; at ratio 1 all gates have "
        "slope 1 and train alike; raise learner.num_minibatches, learner.num_epochs or max_staleness"
    )


def _optimization_lines(config: RunConfig) -> list[str]:
    learner, objective, lora = config.learner, config.objective, config.learner.lora
    beta_1, beta_2 = learner.betas
    schedule = "falling linearly to 0" if learner.lr_schedule == "linear" else "constant"
    numbers = ("tau_pos", "tau_neg", "p", "epsilon_low", "epsilon_high")
    given = (f", {name}={value:g}" for name, value in config.gate.model_dump().items() if name in numbers)
    trained = "all"
    if lora.is_on:
        names = ", ".join(lora.target_modules)
        trained = f"adapters of rank {lora.rank} on {names}, scaled by {lora.alpha / lora.rank:g}"
    return [
        f"gate                      {config.gate.name}{''.join(given)}",
        f"objective                 ratio by {objective.ratio}, advantage {objective.advantage}, loss "
        f"{learner.loss_aggregation}, KL coefficient {objective.kl_coef:g}, entropy coefficient "
        f"{objective.entropy_coef:g}",
        f"optimizer                 AdamW, betas {beta_1:g} and {beta_2:g}, eps {learner.eps:g}, weight decay "
        f"{learner.weight_decay:g}, gradient norm clipped at {learner.max_grad_norm:g}",
        f"learning rate             {learner.lr:g}, {schedule}, no warm-up",
        f"trained weights           {trained}",
        f"precision                 engines {_dtype(config.rollout.dtype)}, learner {_dtype(learner.dtype)}",
    ]


def _dtype(name: str) -> str:
    return "float32 on CPUs, bfloat16 on GPUs" if name == "auto" else name


def _batch_lines(config: RunConfig) -> list[str]:
    rollout, learner = config.rollout, config.learner
    sequences = rollout.completions_per_iteration
    steps = learner.num_minibatches * learner.num_epochs
    share = sequences / learner.num_minibatches
    minibatch = f"{share:g}" if share == int(share) else f"{int(share)} or {ceil(share)}"
    return [
        f"sequences per iteration   {sequences} = {rollout.prompts_per_iteration} prompts x "
        f"{rollout.completions_per_prompt} completions",
        f"sequences per minibatch   {minibatch} ({_counted(learner.num_minibatches, 'minibatch', 'es')})",
        f"sequences per rank        about {share / learner.num_workers:.4g} a minibatch, dealt by tokens",
        *_per_gpu_lines(config),
        f"tokens per micro-batch    at most {learner.max_tokens_per_micro_batch}",
        f"tokens per prompt         at most {config.max_prompt_tokens}",
        f"tokens per completion     at most {rollout.max_new_tokens}; prompt and completion at most "
        f"{config.model.max_model_len}",
        f"steps per iteration       {steps} = {_counted(learner.num_minibatches, 'minibatch', 'es')} x "
        f"{_counted(learner.num_epochs, 'epoch')}",
        f"steps in all              {steps * config.num_iterations} in {_counted(config.num_iterations, 'iteration')}",
        f"completions in all        {sequences * config.num_iterations}",
    ]


def _evaluation_lines(config: RunConfig) -> list[str]:
    if not config.rollout.has_engines:
        return ["evaluation                none: a replay has no engines; evaluate the final model afterwards"]
    sets, evaluation = config.task.eval_set_names, config.eval
    if not sets:
        return [f"evaluation                none: task={config.task.name} has no evaluation sets"]
    number = "all" if evaluation.num_prompts == "all" else f"at most {evaluation.num_prompts}"
    drawn = f"{_counted(evaluation.samples, 'sample')} at temperature {evaluation.temperature:g}"
    every = f", every {_counted(evaluation.every, 'iteration')}" if evaluation.every else ""
    return [
        f"evaluation                {', '.join(sets)}: {number} problems, {drawn}",
        f"when                      before and after training{every}",
    ]


def _per_gpu_lines(config: RunConfig) -> list[str]:
    """The batch as trainers count it that use every GPU for training; only where cluster.device=gpu."""
    if config.cluster.device != "gpu":
        return []
    sequences = config.rollout.completions_per_iteration
    num_gpus = ceil(_placement(config, "gpu").demand()["GPU"] - ROUNDING)
    share = sequences / config.learner.num_minibatches / num_gpus
    return [
        f"sequences per GPU         {share:.4g} a step over {_counted(num_gpus, 'GPU')}: "
        f"per-device batch 1 x accumulation {share:.4g} elsewhere"
    ]


def _placement(config: RunConfig, device: str) -> Placement:
    return plan_placement(config.cluster, config.rollout, config.learner, resources=DEVICES[device])


def _placement_lines(config: RunConfig) -> list[str]:
    learner, cluster = config.learner, config.cluster
    needed = []
    for device in DEVICES if cluster.device == "auto" else (cluster.device,):
        placement = _placement(config, device)
        total = ", ".join(f"{amount:g} {name}" for name, amount in sorted(placement.demand().items()))
        needed.append(f"{f'needed on {device.upper()}s':<25} {total}: {placement.describe()}")
    return [
        f"cluster                   {cluster.address}",
        *_rollout_lines(config),
        f"learner ranks             {learner.num_workers}, ZeRO stage {learner.zero_stage}",
        *([] if config.objective.kl_coef == 0.0 else [f"reference model           {_reference(config)}"]),
        *needed,
    ]


def _rollout_lines(config: RunConfig) -> list[str]:
    """The source of the groups: engines and graders, or a recording."""
    rollout = config.rollout
    if not rollout.has_engines:
        return [f"groups                    recorded ones of {rollout.replay}: no engines, no graders"]
    fewest = f"{rollout.min_engines} to " if rollout.min_engines not in (None, rollout.num_engines) else ""
    lines = [
        f"engines                   {fewest}{rollout.num_engines} x tensor parallel {rollout.tensor_parallel_size}",
        f"graders                   {_counted(config.graders.num_workers, 'process', 'es')}",
        f"order                     {_order(config)}",
    ]
    return [*lines, f"groups recorded to        {rollout.record}"] if rollout.record is not None else lines


def _reference(config: RunConfig) -> str:
    if config.learner.lora.is_on:
        return "the policy without its adapters"
    held = "sharded over the ranks" if config.learner.zero_stage == 3 else "in full on every rank"
    return f"{config.model.path}, frozen, {held}"


def _order(config: RunConfig) -> str:
    if config.max_staleness == 0:
        return "synchronous: generation waits for the newest weights"
    versions = _counted(config.max_staleness, "policy version")
    if config.rollout.batch_order == "finished":
        return f"asynchronous: a batch has the groups that finish first, at most {versions} stale"
    return f"asynchronous: generation runs at most {versions} ahead"


def _counted(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{'' if number == 1 else plural}"
