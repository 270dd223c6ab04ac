"""TRL's GRPOTrainer on our task, run by benchmarks/peers.py with the Python of an environment that has TRL.

In: a PeerJob as JSON on stdin. Out: one JSON row an iteration (seconds, samples, mean reward) in the file that the job
names. The reward function is ours, so both sides grade alike; everything else is TRL's.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from rollout.rewards import answer_reward, format_reward


class IterationRows(TrainerCallback):
    """Seconds and reward of each iteration, which is a generation and num_minibatches optimizer steps."""

    def __init__(self, job: dict[str, Any], rewards: list[float]) -> None:
        self._job = job
        self._rewards = rewards  # rewards of the completions graded since the last row
        self._started = 0.0
        self.rows: list[dict[str, float]] = []

    def on_train_begin(self, *arguments: Any, **named: Any) -> None:
        self._started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        if state.global_step % self._job["num_minibatches"]:
            return
        now = time.perf_counter()
        samples = len(self._rewards)
        self.rows.append({"seconds": now - self._started, "samples": samples, "reward": sum(self._rewards) / samples})
        self._rewards.clear()
        self._started = now


def main() -> None:
    job = json.load(sys.stdin)
    torch.set_num_threads(job["num_threads"])
    rewards: list[float] = []

    def reward(completions: list[str], answer: list[str], **columns: Any) -> list[float]:
        pairs = zip(completions, answer, strict=True)
        graded = [format_reward(text) + answer_reward(text, right) for text, right in pairs]
        rewards.extend(graded)
        return graded

    minibatch = job["prompts_per_iteration"] * job["completions_per_prompt"] // job["num_minibatches"]
    arguments = GRPOConfig(
        output_dir=job["folder"],
        loss_type="sapo",
        sapo_temperature_pos=job["tau_pos"],
        sapo_temperature_neg=job["tau_neg"],
        beta=0.0,
        num_generations=job["completions_per_prompt"],
        per_device_train_batch_size=job["micro_batch"],
        gradient_accumulation_steps=minibatch // job["micro_batch"],
        steps_per_generation=minibatch // job["micro_batch"] * job["num_minibatches"],
        max_steps=job["num_iterations"] * job["num_minibatches"],
        max_completion_length=job["max_new_tokens"],
        temperature=1.0,
        top_k=0,
        learning_rate=job["lr"],
        lr_scheduler_type="constant",
        max_grad_norm=job["max_grad_norm"],
        shuffle_dataset=False,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        seed=job["seed"],
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    callback = IterationRows(job, rewards)
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(job["model"], padding_side="left"),
        reward_funcs=reward,
        args=arguments,
        train_dataset=Dataset.from_list(job["prompts"]),
        callbacks=[callback],
    )
    trainer.train()
    Path(job["out"]).write_text("\n".join(json.dumps(row) for row in callback.rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
