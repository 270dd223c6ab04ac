"""The algorithm: one iteration is generate, grade, learn, publish.

A RunConfig comes in, a RunResult comes out, and a run's folder stays behind. Everything else is a collaborator:
parts.py builds what runs, group_stream.py turns prompts into graded batches, journal.py measures and writes.
"""

from pathlib import Path

from rich.console import Console

from configs.loading import dump_yaml
from configs.schema import ModelConfig, RunConfig
from orchestration.batches import to_train_batch
from orchestration.checkpoint import CheckpointStore, RunState
from orchestration.cluster import start_cluster
from orchestration.console import print_line, progress_of, redirect_output
from orchestration.dry_run import ratio_warning
from orchestration.embedded_model import ensure_embedded_model
from orchestration.journal import LOG_FILE, Journal, RunResult
from orchestration.parts import Parts, build_parts
from orchestration.run_dir import CHECKPOINT_FOLDER, CONFIG_FILE, check_resumable, resolve_run_dir

MODEL_FOLDER = "model"


def train(config: RunConfig) -> RunResult:
    """Trains from a fresh start or from the run's newest checkpoint. Whatever ends it, no process stays behind."""
    run_dir = resolve_run_dir(config)
    store = CheckpointStore(run_dir / CHECKPOINT_FOLDER, keep=config.checkpoint.keep)
    checkpoint, state = None, RunState.fresh(seed=config.seed)
    if config.resume:
        check_resumable(config, run_dir)
        checkpoint, state = store.latest() or (checkpoint, state)
        state.check(seed=config.seed, prompts_per_iteration=config.rollout.prompts_per_iteration)
    (run_dir / CONFIG_FILE).write_text(dump_yaml(config), encoding="utf-8")

    with redirect_output(run_dir / LOG_FILE) as console:
        print_line(console, f"run folder {run_dir}; what libraries print goes to {LOG_FILE} there")
        with start_cluster(config.cluster, config.rollout, config.learner) as cluster:
            print_line(console, f"on {cluster.device}: {cluster.placement.describe()}")
            model_path = locate_model(config.model, console)
            print_line(console, "starting engines and learner ...")
            with (
                build_parts(config, cluster, model_path, start_iteration=state.iteration) as parts,
                Journal(
                    run_dir,
                    config=config.journal,
                    num_iterations=config.num_iterations,
                    gate_name=config.gate.name,
                    start_iteration=state.iteration,
                    console=console,
                ) as journal,
            ):
                for notice in filter(None, (*store.skipped, ratio_warning(config))):
                    journal.log(notice)
                if checkpoint is not None:
                    parts.learner.restore(str(checkpoint))
                    journal.log(f"resumed after iteration {state.iteration} from {checkpoint}")
                iterate(config, parts, journal, store, state)
                save_model(parts, run_dir / MODEL_FOLDER)
                journal.log(f"final model in {run_dir / MODEL_FOLDER}")
                return journal.result()


def iterate(config: RunConfig, parts: Parts, journal: Journal, store: CheckpointStore, state: RunState) -> None:
    """Runs the iterations from `state` to the end."""
    parts.channel.publish(state.policy_version)  # a broken path fails here, not after the first update
    if state.iteration == 0:
        journal.record_eval(0, parts.evaluate())

    for iteration in range(state.iteration, config.num_iterations):
        with journal.iteration(iteration) as entry:
            parts.groups.admit(state.policy_version)  # staleness bound: how far generation may run ahead
            with entry.timed("wait"):
                groups = parts.groups.take(iteration)
            entry.rollouts(groups, policy_version=state.policy_version)
            with entry.timed("old_logprobs"):
                parts.learner.load(to_train_batch(groups, policy_version=state.policy_version), iteration)
            with entry.timed("update"):
                for report in parts.learner.steps():
                    entry.record_step(report)
                    parts.groups.poll()
            state = state.advance(num_prompts=len(groups))
            with entry.timed("publish"):
                published = parts.channel.publish(state.policy_version)
            entry.record(parts.groups.summary() | published.metrics() | parts.standing_metrics())

        is_last = state.iteration == config.num_iterations
        if is_last or (config.eval.every and state.iteration % config.eval.every == 0):
            journal.record_eval(state.iteration, parts.evaluate())
        if is_last or state.iteration % config.checkpoint.every == 0:
            folder = store.begin(state.iteration)
            parts.learner.save(str(folder))
            store.commit(folder, state)


def locate_model(model: ModelConfig, console: Console) -> Path | str:
    """The folder or hub name to load; "embedded" is built on first use, under a progress bar, and cached."""
    if model.path != "embedded":
        return model.path
    with progress_of(console, "building the embedded model (once)") as progress:
        return ensure_embedded_model(progress=progress)


def save_model(parts: Parts, folder: Path) -> None:
    """Writes the model in Hugging Face format; the folder must lie where learner rank 0 can reach it too."""
    folder.mkdir(exist_ok=True)
    parts.learner.save_pretrained(str(folder))
