"""One run from its folder to its final model: everything around the algorithm in loop.py.

In: a RunConfig. Out: a RunResult and the run's folder. Every check that can refuse the run comes first: torch and the
modules that need it are imported only when the cluster has room for the run.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from rich.console import Console

from configs.loading import dump_yaml
from configs.schema import RunConfig
from orchestration.boundary import Boundary
from orchestration.checkpoint import CheckpointStore, RunState
from orchestration.cluster import start_cluster
from orchestration.dry_run import ratio_warning
from orchestration.going_on import progress_of
from orchestration.interfaces import RunParts
from orchestration.journal.journal import LOG_FILE, Journal, RunResult
from orchestration.journal.run_files import CHECKPOINT_FOLDER, CONFIG_FILE
from orchestration.report.pictures import pictures_at_end
from orchestration.run_dir import check_resumable, resolve_run_dir
from orchestration.stream.recordings import refuse_gaps, refuse_recordings
from orchestration.task_loading import load_task, locate_model
from orchestration.terminal.console import print_line, redirect_output
from orchestration.terminal.ending import Ending
from orchestration.terminal.stopping import Stopping

MODEL_FOLDER = "model"


def train(config: RunConfig, *, settings: Sequence[str] | None = None) -> RunResult:
    """Trains a new run or from a run's newest checkpoint; ends every process it started, also after a failure.

    settings: as typed on the command line, for the command that goes on after an early end.
    """
    with Stopping(grace_s=config.checkpoint.grace_s) as stopping:
        refuse_recordings(config)
        run_dir = resolve_run_dir(config)
        store = CheckpointStore(run_dir / CHECKPOINT_FOLDER, keep=config.checkpoint.keep)
        checkpoint, state = None, RunState.fresh(seed=config.seed)
        if config.resume:
            check_resumable(config, run_dir)
            checkpoint, state = store.latest() or (checkpoint, state)
            state.check(seed=config.seed, prompts_per_iteration=config.rollout.prompts_per_iteration)
            refuse_gaps(config, iteration=state.iteration)
        (run_dir / CONFIG_FILE).write_text(dump_yaml(config), encoding="utf-8")

        boundary = Boundary(stopping, state)
        progress = partial(progress_of, config, run_dir, boundary, settings)
        ending = Ending(stopping, log=run_dir / LOG_FILE, progress=progress)
        with redirect_output(run_dir / LOG_FILE) as console, ending:
            print_line(console, f"run folder {run_dir}; what libraries print goes to {LOG_FILE} there")
            return _train(config, run_dir, console, store, checkpoint, boundary=boundary, ending=ending)


def _train(
    config: RunConfig,
    run_dir: Path,
    console: Console,
    store: CheckpointStore,
    checkpoint: Path | None,
    *,
    boundary: Boundary,
    ending: Ending,
) -> RunResult:
    # A replay needs no task: its recorded groups include their prompts.
    has_engines = config.rollout.has_engines
    loaded = load_task(config, lambda: locate_model(config.model, console)) if has_engines else None
    with start_cluster(config.cluster, config.rollout, config.learner) as cluster:
        print_line(console, f"on {cluster.device}: {cluster.placement.describe()}")
        model_path = locate_model(config.model, console)
        print_line(console, "starting engines and learner ..." if has_engines else "starting learner ...")
        # Imported here because they import torch, which takes seconds: a refusal should not wait for it.
        from orchestration.gate_notices import gate_notices
        from orchestration.loop import iterate, save
        from orchestration.parts import build_parts
        from orchestration.replay import build_replay_parts

        state = boundary.state
        assert state is not None, "nothing has been trained yet"
        build: Callable[..., AbstractContextManager[RunParts]] = build_replay_parts
        if loaded is not None:
            at = state.iteration
            build = partial(build_parts, task=loaded.task, start_iteration=at, start_positions=state.positions)
        with (
            pictures_at_end(config, run_dir, console),
            build(config, cluster, model_path) as parts,
            ending,
            Journal(
                run_dir,
                config=config.journal,
                num_iterations=config.num_iterations,
                max_staleness=config.max_staleness,
                gate_name=config.gate.name,
                start_iteration=state.iteration,
                console=console,
            ) as journal,
            boundary.saved_when_stopped(partial(save, parts, journal, store), journal.log),
        ):
            of_gate = gate_notices(config.gate, device=cluster.placement.device)
            of_task = loaded.notices if loaded is not None else ()
            for notice in filter(None, (*store.skipped, ratio_warning(config), *of_gate, *of_task)):
                journal.notice(notice)
            if checkpoint is not None:
                parts.learner.restore(str(checkpoint))
                journal.log(f"resumed after iteration {state.iteration} from {checkpoint}")
            iterate(config, parts, journal, store, boundary)
            model_folder = run_dir / MODEL_FOLDER  # must lie where learner rank 0 can reach it too
            model_folder.mkdir(exist_ok=True)
            parts.learner.save_pretrained(str(model_folder))
            journal.log(f"final model in {model_folder}")
            return journal.result()
