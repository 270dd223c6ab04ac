"""The memory that a run certainly takes, against what this machine has.

In: the configuration and the number of the model's parameters. Out: a Check, with a mistake where the run cannot fit
and a notice where it is doubtful. Counted are weights, gradients, optimizer and key/value caches; activations and
libraries come on top.
"""

import os
from math import inf

from rich.filesize import decimal

from configs.loading import ConfigError
from configs.schema import RunConfig
from orchestration.placement import plan_placement
from orchestration.plan.scenario import DTYPE_BYTES, Scenario, model_shape, resolved_dtype, state_bytes
from orchestration.startup.checks.machine import memory_bytes, smallest_gpu_bytes
from orchestration.startup.checks.result import Check

NAME = "memory"


def check_memory(config: RunConfig, num_parameters: int | None, *, trains: bool) -> Check:
    """The check of this machine; trains: learner ranks run beside the engines."""
    if num_parameters is None:
        return Check(name=NAME, found="not estimated: the number of the model's parameters is not known yet")
    gpu = smallest_gpu_bytes() if config.cluster.device != "cpu" else None
    if gpu is not None:
        return _on_gpus(config, num_parameters, gpu, trains=trains)
    if config.cluster.device == "gpu":
        return Check(name=NAME, found="not estimated: no GPU is found on this machine")
    return _on_cpus(config, num_parameters, trains=trains)


def _on_cpus(config: RunConfig, num_parameters: int, *, trains: bool) -> Check:
    rollout, learner = config.rollout, config.learner
    demand = plan_placement(config.cluster, rollout, learner if trains else None, resources={"CPU": inf}).demand()
    if demand["CPU"] > (os.cpu_count() or 1):
        return Check(name=NAME, found="not estimated: the run needs more CPUs than this machine has")
    engine = num_parameters * DTYPE_BYTES[resolved_dtype(rollout.dtype, "cpu")] + rollout.kv_cache_gib * 2**30
    engines = rollout.num_engines * engine if rollout.has_engines else 0.0
    ranks = learner.num_workers * _rank_bytes(config, num_parameters, device="cpu") if trains else 0.0
    total, free = memory_bytes()
    needed = f"at least {decimal(int(engines + ranks))} of memory: engines {decimal(int(engines))}"
    needed += f", learner ranks {decimal(int(ranks))}" if trains else ""
    line = f"model.path={config.model.path}: with {num_parameters:,} parameters the run needs {needed}"
    if engines + ranks > total:
        remedy = "name a smaller model or lower rollout.num_engines, rollout.kv_cache_gib or learner.num_workers"
        return Check(name=NAME, found="too little", mistakes=(f"{line}; this machine has {decimal(total)}; {remedy}",))
    doubt = (f"{line}; {decimal(free)} are free on this machine",) if engines + ranks > free else ()
    return Check(name=NAME, found=f"{needed}; {decimal(free)} free of {decimal(total)}", notices=doubt)


def _on_gpus(config: RunConfig, num_parameters: int, gpu: int, *, trains: bool) -> Check:
    """Judges one rank and one engine's worker by the smallest GPU; who lies on which is known later."""
    rollout, cluster = config.rollout, config.cluster
    rank = _rank_bytes(config, num_parameters, device="gpu") if trains else 0.0
    worker = num_parameters * DTYPE_BYTES[resolved_dtype(rollout.dtype, "gpu")] / rollout.tensor_parallel_size
    mistakes, named = [], f"model.path={config.model.path}: with {num_parameters:,} parameters"
    if rank > (share := gpu * cluster.gpus_per_learner):
        mistakes.append(
            f"{named} a learner rank needs at least {decimal(int(rank))}, its share of a GPU is {decimal(int(share))}; "
            f"set learner.zero_stage=3, raise learner.num_workers or name a smaller model"
        )
    if rollout.has_engines and worker > (share := gpu * rollout.gpu_memory_utilization):
        mistakes.append(
            f"{named} an engine's worker holds weights of {decimal(int(worker))}, its share of a GPU is "
            f"{decimal(int(share))}; raise rollout.tensor_parallel_size or rollout.gpu_memory_utilization"
        )
    found = f"at least {decimal(int(rank))} a rank, {decimal(int(worker))} a worker; GPUs of {decimal(gpu)}"
    doubt = _doubt(config, gpu) if trains and not mistakes else None
    return Check(name=NAME, found=found, mistakes=tuple(mistakes), notices=(doubt,) if doubt else ())


def _rank_bytes(config: RunConfig, num_parameters: int, *, device: str) -> float:
    """Bytes of a rank's weights, gradients and optimizer; adapters are too small to count."""
    learner = config.learner
    dtype = resolved_dtype(learner.dtype, device)
    state = state_bytes(num_parameters, learner, dtype=dtype, num_ranks=learner.num_workers)
    return state["weights"] if learner.lora.is_on else sum(state.values())


def _doubt(config: RunConfig, gpu: int) -> str | None:
    """The planner's objection, which counts activations too; None for a model that it does not know."""
    try:
        shape = model_shape(config.model.path)
    except ConfigError:
        return None
    scenario = Scenario(config=config, shape=shape, device="gpu", device_bytes=gpu, prompt_length=1, lengths=(1,))
    misfit = scenario.misfit(config.learner.num_workers)
    return f"memory is doubtful: {misfit} (python -m orchestration.plan has the figures)" if misfit else None
