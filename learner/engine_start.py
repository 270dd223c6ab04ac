"""The start of a rank: it joins the other ranks and builds its DeepSpeed engines. The only file that builds one.

In: the LearnerSpec and this rank's number. Out: a device, the engine that trains, and the frozen reference of a KL
term. Knows nothing of batches, steps or objectives.
"""

import os
from datetime import timedelta

import deepspeed
import torch
from torch import nn

from configs.lora import LoraConfig
from learner.deepspeed_config import deepspeed_config, reference_config
from learner.model.policy import Policy, load_policy
from learner.optimizer import build_adamw
from learner.spec import LearnerSpec
from transfer.communicator import open_store


def join_process_group(
    spec: LearnerSpec, *, rank: int, world_size: int, master_address: str, master_port: int
) -> torch.device:
    """Joins the other ranks over nccl or gloo and returns this rank's device.

    Ray shows a rank one GPU only, hence LOCAL_RANK 0.
    """
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK="0")
    timeout = timedelta(seconds=spec.learner.timeout_s)
    device = torch.device(spec.device, 0) if spec.device == "cuda" else torch.device("cpu")
    if spec.device == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if spec.device == "cuda" else "gloo"
    if not torch.distributed.is_initialized():  # before DeepSpeed does it, with a store that listens on every address
        torch.distributed.init_process_group(
            backend,
            store=open_store(master_address, master_port, rank=rank, world_size=world_size, timeout=timeout),
            rank=rank,
            world_size=world_size,
            timeout=timeout,
            device_id=device if spec.device == "cuda" and world_size > 1 else None,  # as DeepSpeed does
        )
    # otherwise DeepSpeed compiles a shared-memory all-reduce (a minute, g++, ninja) that only its inference engine uses
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False, timeout=timeout)
    return device


def load_initial_model(spec: LearnerSpec, device: torch.device, *, is_trained: bool = True) -> Policy:
    """The model at model.path in the learner's dtype, whole on this rank.

    is_trained: with adapters and gradient checkpointing, where they are configured.
    """
    return load_policy(
        spec.model_path,
        dtype=torch.float32 if spec.dtype_name == "float32" else torch.bfloat16,
        device=device,
        trust_remote_code=spec.trust_remote_code,
        gradient_checkpointing=is_trained and spec.learner.gradient_checkpointing,
        max_logits=spec.learner.max_logits,
        lora=spec.learner.lora if is_trained else LoraConfig(),
    )


def build_engine(policy: Policy, spec: LearnerSpec) -> deepspeed.DeepSpeedEngine:
    """The engine that trains the policy with AdamW."""
    learner = spec.learner
    optimizer = build_adamw(
        policy.parameters(), lr=learner.lr, betas=learner.betas, eps=learner.eps, weight_decay=learner.weight_decay
    )
    config = deepspeed_config(
        spec,
        num_parameters=sum(parameter.numel() for parameter in policy.parameters() if parameter.requires_grad),
        hidden_size=policy.model.config.hidden_size,
    )
    engine, *_ = deepspeed.initialize(model=policy, optimizer=optimizer, config=config, dist_init_required=False)
    return engine


def build_reference(spec: LearnerSpec, device: torch.device) -> nn.Module:
    """The initial model, frozen and called like a Policy; under ZeRO-3 an engine that shards it over the ranks."""
    policy = load_initial_model(spec, device, is_trained=False)
    policy.requires_grad_(False)
    policy.eval()
    if spec.learner.zero_stage < 3:
        return policy
    config = reference_config(spec, hidden_size=policy.model.config.hidden_size)
    engine, *_ = deepspeed.initialize(model=policy, config=config, dist_init_required=False)
    return engine
