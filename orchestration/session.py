"""One run from its folder to its final model: everything around the algorithm in loop.py.

In: a RunConfig. Out: a RunResult and the run's folder. Every check that can refuse the run comes first: torch and the
modules that need it are imported only when the cluster has room for the run.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from configs.files import write_atomically
from configs.loading import dump_yaml
from configs.schema import RunConfig
from orchestration.checkpoints.saver import CheckpointSaver
from orchestration.checkpoints.state import RunState
from orchestration.checkpoints.store import CheckpointStore
from orchestration.cluster import start_cluster
from orchestration.dry_run import ratio_warning
from orchestration.journal.journal import Journal, RunResult
from orchestration.journal.run_files import CHECKPOINT_FOLDER, CONFIG_FILE, LOG_FILE, METRICS_FILE
from orchestration.journal.run_record import RecordError
from orchestration.recovery.faults import Faults
from orchestration.startup.resume import adopted, check_length, check_resumable, stored_settings
from orchestration.startup.run_dir import OwnedRun, own_run_dir
from orchestration.stream.recordings import refuse_gaps, refuse_recordings
from orchestration.task_loading import load_task, locate_model
from orchestration.terminal.console import print_line, redirect_output

if TYPE_CHECKING:  # import torch, which takes seconds
    from orchestration.recovery.part_builder import BuildParts
    from orchestration.recovery.rewinds import Rewinds, Start

MODEL_FOLDER = "model"


def train(config: RunConfig, *, notices: Sequence[str] = ()) -> RunResult:
    """Trains a new run or from a run's newest checkpoint; ends every process it started, also after a failure."""
    refuse_recordings(config)
    with own_run_dir(config) as owned:
        return _train(config, owned, notices)


def _train(config: RunConfig, owned: OwnedRun, notices: Sequence[str]) -> RunResult:
    run_dir = owned.folder
    saving = config.checkpoint
    store = CheckpointStore(run_dir / CHECKPOINT_FOLDER, keep_last=saving.keep_last, keep_best=saving.keep_best)
    checkpoint, state, changes = _begin(config, run_dir, store)
    with redirect_output(run_dir / LOG_FILE) as console:
        print_line(console, f"run folder {run_dir}; what libraries print goes to {LOG_FILE} there")
        for line in owned.notices:
            print_line(console, line)
        # A replay needs no task: its recorded groups include their prompts.
        has_engines = config.rollout.has_engines
        loaded = load_task(config, lambda: locate_model(config.model, console)) if has_engines else None
        notice = partial(print_line, console)
        with start_cluster(config.cluster, config.rollout, config.learner, notice=notice) as cluster:
            print_line(console, f"on {cluster.device}: {cluster.placement.describe()}")
            write_atomically(run_dir / CONFIG_FILE, dump_yaml(config))  # no check can refuse the run any more
            model_path = locate_model(config.model, console)
            print_line(console, "starting engines and learner ..." if has_engines else "starting learner ...")
            # Imported here because they import torch, which takes seconds: a refusal should not wait for it.
            from orchestration.gate_notices import gate_notices
            from orchestration.recovery.part_builder import part_builder
            from orchestration.recovery.rewinds import Rewinds, Start

            of_gate = gate_notices(config.gate, device=cluster.placement.device)
            of_task = loaded.notices if loaded is not None else ()
            of_start = (*notices, *changes, *store.skipped, ratio_warning(config))
            untold = [*filter(None, (*of_start, *of_gate, *of_task))]
            task = loaded.task if loaded is not None else None
            faults = Faults(partial(print_line, console), max_restarts=config.recovery.max_restarts)
            rewinds = Rewinds(store, faults, seed=config.seed)
            with _report_at_end(run_dir, console), part_builder(config, cluster, model_path, task, faults) as build:
                attempt = partial(_attempt, config, run_dir, console, store, build, rewinds, untold)
                return rewinds.run(attempt, Start(checkpoint=checkpoint, state=state))


def _attempt(
    config: RunConfig,
    run_dir: Path,
    console: Console,
    store: CheckpointStore,
    build: "BuildParts",
    rewinds: "Rewinds",
    notices: list[str],
    start: "Start",
) -> RunResult:
    """Runs from `start` to the end, or until the learner is lost. notices: those that the journal does not have yet."""
    from orchestration.loop import iterate

    with (
        build(start.state) as parts,
        Journal(
            run_dir,
            config=config.journal,
            num_iterations=config.num_iterations,
            max_staleness=config.max_staleness,
            gate_name=config.gate.name,
            start_iteration=start.state.iteration,
            console=console,
        ) as journal,
        CheckpointSaver(store, parts.learner, pretrained=config.checkpoint.pretrained, log=journal.log) as saver,
    ):
        while notices:
            journal.notice(notices.pop(0))
        if start.checkpoint is not None:
            parts.learner.restore(str(start.checkpoint))
            journal.log(f"resumed after iteration {start.state.iteration} from {start.checkpoint}")
        rewinds.begun()
        iterate(config, parts, journal, saver, start.state)
        model_folder = run_dir / MODEL_FOLDER  # must lie where learner rank 0 can reach it too
        model_folder.mkdir(exist_ok=True)
        parts.learner.save_pretrained(str(model_folder))
        journal.log(f"final model in {model_folder}")
        return journal.result()


def _begin(config: RunConfig, run_dir: Path, store: CheckpointStore) -> tuple[Path | None, RunState, tuple[str, ...]]:
    """Checkpoint and state that the run continues from, and lines about changed settings; refuses what does not fit."""
    checkpoint, state = None, RunState.fresh(seed=config.seed)
    if not config.resume:
        return checkpoint, state, ()
    stored = stored_settings(run_dir)
    changes = check_resumable(stored, config, run_dir)
    checkpoint, state = store.latest() or (checkpoint, state)
    changes += check_length(stored, config, iteration=state.iteration)
    refuse_gaps(config, iteration=state.iteration)
    return checkpoint, adopted(state, config), changes


@contextmanager
def _report_at_end(folder: Path, console: Console) -> Iterator[None]:
    """Writes the report when the run inside the `with` block ends, well or not, if it has trained at all."""
    try:
        yield
    finally:
        if (folder / METRICS_FILE).exists():
            from orchestration.report.run_report import write_run_report  # matplotlib takes a second

            try:
                print_line(console, f"report: {write_run_report(folder)}")
            except RecordError as error:  # must not hide how the run itself ended
                print_line(console, f"no report: {error}")
