"""Parts for the benchmarks: the configuration, running engines and learner, models, and peers as plain Ray actors."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from configs.loading import load_config
from learner.group import LearnerGroup
from orchestration.cluster import start_cluster
from orchestration.parts import Parts, build_parts, learner_spec, start_learner
from rollout.tasks import build_task
from rollout.tasks.embedded_model import EmbeddedRecipe, ensure_embedded_model, new_model, new_tokenizer

BATCH = ("rollout.prompts_per_iteration=32", "rollout.completions_per_prompt=8")


@contextmanager
def running_parts(*overrides: str, model_path: Path | None = None) -> Iterator[Parts]:
    """Starts engines and learner of the default experiment and publishes version 0."""
    model = ensure_embedded_model() if model_path is None else model_path
    config = load_config([*BATCH, *overrides])
    with (
        start_cluster(config.cluster, config.rollout, config.learner) as cluster,
        build_parts(config, cluster, model, task=build_task(config.task), start_iteration=0) as parts,
    ):
        parts.channel.publish(0)
        yield parts


@contextmanager
def running_learner(*overrides: str, model_path: Path) -> Iterator[LearnerGroup]:
    """Starts the learner of the default experiment alone."""
    config = load_config([*BATCH, *overrides])
    with start_cluster(config.cluster, config.rollout, config.learner) as cluster:
        spec = learner_spec(config, cluster, model_path)
        learner = start_learner(config, spec, cluster)
        try:
            yield learner
        finally:
            learner.shutdown()


def save_model(folder: str, recipe: EmbeddedRecipe) -> Path:
    """Writes a random model of the embedded architecture into the folder."""
    new_model(recipe).save_pretrained(folder)
    new_tokenizer(recipe).save_pretrained(folder)
    return Path(folder)


def peer_process(peer: type) -> Any:
    """The class as a Ray actor of one thread that takes no CPU of the cluster's: `peer_process(Peer).remote(...)`."""
    return ray.remote(peer).options(num_cpus=0, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}})
