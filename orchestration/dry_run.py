"""What a run would do, told without doing it.

In: a RunConfig. Out: text with every setting, the batch arithmetic and the placement. Starts nothing and asks no
cluster: where the cluster decides on the device, both cases are told.
"""

from math import ceil, inf

from configs.loading import dump_yaml
from configs.schema import RunConfig
from orchestration.placement import plan_placement

DEVICES = {"cpu": {"CPU": inf}, "gpu": {"CPU": inf, "GPU": inf}}  # clusters that hold any run


def describe(config: RunConfig) -> str:
    """The text of `dry_run=true`."""
    warning = ratio_warning(config)
    blocks = [
        f"Configuration\n{_indented(dump_yaml(config).splitlines())}",
        f"Batch arithmetic\n{_indented(_batch_lines(config))}",
        f"Placement\n{_indented(_placement_lines(config))}",
    ]
    return "\n\n".join([*blocks, warning] if warning else blocks)


def ratio_warning(config: RunConfig) -> str | None:
    """One line where no ratio can leave 1, so that every gate trains alike; None elsewhere."""
    learner = config.learner
    if learner.num_minibatches > 1 or learner.num_epochs > 1:
        return None
    if learner.old_logprobs == "recompute" or (learner.old_logprobs == "auto" and config.cluster.device == "gpu"):
        return (
            f"warning: one minibatch, one epoch and learner.old_logprobs={learner.old_logprobs}, which recomputes the "
            "ratio's denominator, keep every ratio at 1 whatever max_staleness, where all gates have slope 1 and "
            "cannot differ; raise learner.num_minibatches or learner.num_epochs"
        )
    if config.max_staleness > 0:
        return None
    return (
        "warning: one minibatch, one epoch and max_staleness=0 keep every ratio at 1, where all gates have slope 1 and "
        "cannot differ; raise learner.num_minibatches, learner.num_epochs or max_staleness"
    )


def _batch_lines(config: RunConfig) -> list[str]:
    rollout, learner = config.rollout, config.learner
    sequences = rollout.prompts_per_iteration * rollout.completions_per_prompt
    steps = learner.num_minibatches * learner.num_epochs
    minibatch = _between(sequences / learner.num_minibatches)
    return [
        f"sequences per iteration   {sequences} = {rollout.prompts_per_iteration} prompts x "
        f"{rollout.completions_per_prompt} completions",
        f"sequences per minibatch   {minibatch} ({_counted(learner.num_minibatches, 'minibatch', 'es')})",
        f"sequences per rank        about {sequences / learner.num_minibatches / learner.num_workers:.4g} a minibatch, "
        f"dealt by tokens",
        f"tokens per micro-batch    at most {learner.max_tokens_per_micro_batch}",
        f"tokens per completion     at most {rollout.max_new_tokens}; prompt and completion at most "
        f"{config.model.max_model_len}",
        f"steps per iteration       {steps} = {_counted(learner.num_minibatches, 'minibatch', 'es')} x "
        f"{_counted(learner.num_epochs, 'epoch')}",
        f"steps in all              {steps * config.num_iterations} in {_counted(config.num_iterations, 'iteration')}",
        f"completions in all        {sequences * config.num_iterations}",
    ]


def _placement_lines(config: RunConfig) -> list[str]:
    rollout, learner, cluster = config.rollout, config.learner, config.cluster
    devices = DEVICES if cluster.device == "auto" else {cluster.device: DEVICES[cluster.device]}
    needed = []
    for device, resources in devices.items():
        placement = plan_placement(cluster, rollout, learner, resources=resources)
        total = ", ".join(f"{amount:g} {name}" for name, amount in sorted(placement.demand().items()))
        needed.append(f"{f'needed on {device.upper()}s':<25} {total}: {placement.describe()}")
    return [
        f"cluster                   {cluster.address}",
        f"engines                   {rollout.num_engines} x tensor parallel {rollout.tensor_parallel_size}",
        f"learner ranks             {learner.num_workers}, ZeRO stage {learner.zero_stage}",
        *_reference_lines(config),
        f"graders                   {_counted(config.graders.num_workers, 'process', 'es')}",
        *needed,
        f"order                     {_order(config.max_staleness)}",
    ]


def _reference_lines(config: RunConfig) -> list[str]:
    if config.objective.kl_coef == 0.0:
        return []
    held = "sharded over the ranks" if config.learner.zero_stage == 3 else "whole on every rank"
    return [f"reference model           {config.model.path}, frozen, {held}"]


def _order(max_staleness: int) -> str:
    if max_staleness == 0:
        return "synchronous: generation waits for the newest weights"
    return f"asynchronous: generation runs at most {_counted(max_staleness, 'policy version')} ahead"


def _between(number: float) -> str:
    return f"{number:g}" if number == int(number) else f"{int(number)} or {ceil(number)}"


def _counted(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{'' if number == 1 else plural}"


def _indented(lines: list[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)
