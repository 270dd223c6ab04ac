"""Benchmark of a checkpoint: what training waits for, when it is complete, and how fast it is checked.

One rank with a model of 60 million parameters, whose weights and moments are 0.7 GB. The file system is that of the
temporary folder.
"""

import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.learner import LONGEST, VARIED, varied_batch
from benchmarks.parts import running_learner, save_model
from orchestration.checkpoints.manifest import Manifest
from orchestration.checkpoints.saver import CheckpointSaver
from orchestration.checkpoints.state import RunState
from orchestration.checkpoints.store import CheckpointStore
from orchestration.stream.positions import FRESH
from rollout.tasks.embedded_model import EmbeddedRecipe

RECIPE = EmbeddedRecipe(hidden_size=768, num_layers=8, intermediate_size=2304, max_position_embeddings=2 * LONGEST)


def benchmark_checkpoints(*, repeats: int) -> dict[str, float]:
    """Medians over the checkpoints: gigabytes, seconds of each part, gigabytes/s of the check."""
    seconds: dict[str, list[float]] = {"training waits": [], "complete after": [], "checked in": [], "restored in": []}
    with TemporaryDirectory() as folder:
        model_path = save_model(folder, RECIPE)
        with running_learner(*VARIED, model_path=model_path) as learner:
            learner.load(varied_batch(num_groups=1, group_size=2), 0)
            list(learner.steps())  # before it there are no moments
            store = CheckpointStore(Path(folder) / "checkpoints", keep_last=1)
            with CheckpointSaver(store, learner, pretrained=False, log=print) as saver:
                for iteration in range(1, repeats + 1):
                    state = RunState(iteration=iteration, policy_version=0, positions=FRESH)
                    started = time.perf_counter()
                    saver.start(state)
                    seconds["training waits"].append(time.perf_counter() - started)
                    saver.finish()
                    seconds["complete after"].append(time.perf_counter() - started)
                    started = time.perf_counter()
                    found = store.latest()
                    seconds["checked in"].append(time.perf_counter() - started)
                    assert found is not None, "the checkpoint just written is gone"
                    gigabytes = Manifest.read(found[0]).num_bytes / 1e9
                    started = time.perf_counter()
                    learner.restore(str(found[0]))
                    seconds["restored in"].append(time.perf_counter() - started)
    medians = {f"{name}, s": median(values) for name, values in seconds.items()}
    return {"size, GB": gigabytes, **medians, "checked, GB/s": gigabytes / medians["checked in, s"]}
