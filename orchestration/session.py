"""One run from its folder to its final model: everything around the algorithm in loop.py.

In: a RunConfig. Out: a RunResult and the run's folder. Every check that can refuse the run comes first: torch and the
modules that need it are imported only when the cluster has room for the run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from configs.files import write_atomically
from configs.loading import dump_yaml
from configs.schema import RunConfig
from orchestration.boundary import Boundary
from orchestration.checkpoints.saver import CheckpointSaver
from orchestration.checkpoints.state import RunState
from orchestration.checkpoints.store import CheckpointStore
from orchestration.cluster import start_cluster
from orchestration.dry_run import ratio_warning
from orchestration.going_on import progress_of
from orchestration.journal.journal import Journal, RunResult
from orchestration.journal.run_files import CHECKPOINT_FOLDER, CONFIG_FILE, LOG_FILE
from orchestration.recovery.faults import Faults
from orchestration.report.pictures import pictures_at_end
from orchestration.startup.resume import check_length, check_resumable, stored_settings
from orchestration.startup.run_dir import own_run_dir
from orchestration.stream.recordings import refuse_gaps, refuse_recordings
from orchestration.task_loading import load_task, locate_model
from orchestration.terminal.console import print_line, redirect_output
from orchestration.terminal.ending import Ending
from orchestration.terminal.stopping import Stopping

if TYPE_CHECKING:  # import torch, which takes seconds
    from orchestration.recovery.part_builder import BuildParts
    from orchestration.recovery.rewinds import Rewinds, Start

MODEL_FOLDER = "model"


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """What a run has from its beginning to its end."""

    config: RunConfig
    run_dir: Path
    store: CheckpointStore
    console: Console
    boundary: Boundary
    ending: Ending

    def tell(self, line: str) -> None:
        print_line(self.console, line)


def train(config: RunConfig, *, notices: Sequence[str] = (), settings: Sequence[str] | None = None) -> RunResult:
    """Trains a new run or from a run's newest checkpoint; ends every process it started, also after a failure.

    notices: lines for the log and the report. settings: as typed on the command line, for the command that goes on
    after an early end.
    """
    with Stopping(grace_s=config.checkpoint.grace_s) as stopping:
        refuse_recordings(config)
        with own_run_dir(config, on_lost=stopping.fail) as owned:
            run_dir, saving = owned.folder, config.checkpoint
            store = CheckpointStore(run_dir / CHECKPOINT_FOLDER, keep_last=saving.keep_last, keep_best=saving.keep_best)
            checkpoint, state, changes = _begin(config, run_dir, store)
            boundary = Boundary(stopping, state)
            progress = partial(progress_of, config, run_dir, boundary, settings)
            ending = Ending(stopping, log=run_dir / LOG_FILE, progress=progress)
            with redirect_output(run_dir / LOG_FILE) as console, ending:
                session = Session(
                    config=config, run_dir=run_dir, store=store, console=console, boundary=boundary, ending=ending
                )
                for line in (f"run folder {run_dir}; what libraries print goes to {LOG_FILE} there", *owned.notices):
                    session.tell(line)
                return _train(session, checkpoint, state, notices=[*notices, *changes, *store.skipped])


def _train(session: Session, checkpoint: Path | None, state: RunState, *, notices: Sequence[str]) -> RunResult:
    config, console = session.config, session.console
    # A replay needs no task: its recorded groups include their prompts.
    has_engines = config.rollout.has_engines
    loaded = load_task(config, lambda: locate_model(config.model, console)) if has_engines else None
    faults = Faults(session.tell, max_restarts=config.recovery.max_restarts)
    with start_cluster(config.cluster, config.rollout, config.learner, notice=faults.tell) as cluster:
        session.tell(f"on {cluster.device}: {cluster.placement.describe()}")
        # no check can refuse the run any more
        write_atomically(session.run_dir / CONFIG_FILE, dump_yaml(config))
        model_path = locate_model(config.model, console)
        session.tell("starting engines and learner ..." if has_engines else "starting learner ...")
        # Imported here because they import torch, which takes seconds: a refusal should not wait for it.
        from orchestration.gate_notices import gate_notices
        from orchestration.recovery.part_builder import part_builder
        from orchestration.recovery.rewinds import Rewinds, Start

        of_gate = gate_notices(config.gate, device=cluster.placement.device)
        of_task = loaded.notices if loaded is not None else ()
        untold = [*filter(None, (*notices, ratio_warning(config), *of_gate, *of_task))]
        task = loaded.task if loaded is not None else None
        rewinds = Rewinds(session.store, faults)
        with (
            pictures_at_end(config, session.run_dir, console),
            part_builder(config, cluster, model_path, task, faults) as build,
            session.ending,
            cluster.explaining(),  # before the ending tells the error
        ):
            attempt = partial(_attempt, session, build, rewinds, untold)
            return rewinds.run(attempt, Start(checkpoint=checkpoint, state=state))


def _attempt(
    session: Session, build: "BuildParts", rewinds: "Rewinds", notices: list[str], start: "Start"
) -> RunResult:
    """Runs from `start` to the end, or until the learner is lost. notices: those that the journal does not have yet."""
    from orchestration.loop import iterate, save

    config, run_dir, boundary = session.config, session.run_dir, session.boundary
    with (
        build(start.state) as parts,
        Journal(
            run_dir,
            config=config.journal,
            num_iterations=config.num_iterations,
            max_staleness=config.max_staleness,
            gate_name=config.gate.name,
            start_iteration=start.state.iteration,
            console=session.console,
        ) as journal,
        CheckpointSaver(
            session.store, parts.learner, pretrained=config.checkpoint.pretrained, log=journal.log
        ) as saver,
        boundary.saved_when_stopped(partial(save, journal, saver, evaluation={}, waits=True), journal.log),
    ):
        while notices:
            journal.notice(notices.pop(0))
        if start.checkpoint is not None:
            parts.learner.restore(str(start.checkpoint))
            journal.log(f"resumed after iteration {start.state.iteration} from {start.checkpoint}")
        boundary.begin(start.state)
        rewinds.begun()
        iterate(config, parts, journal, saver, boundary)
        model_folder = run_dir / MODEL_FOLDER  # must lie where learner rank 0 can reach it too
        model_folder.mkdir(exist_ok=True)
        parts.learner.save_pretrained(str(model_folder))
        journal.log(f"final model in {model_folder}")
        return journal.result()


def _begin(config: RunConfig, run_dir: Path, store: CheckpointStore) -> tuple[Path | None, RunState, tuple[str, ...]]:
    """Checkpoint and state that the run continues from, and lines about changed settings; refuses what does not fit."""
    checkpoint, state = None, RunState.fresh()
    if not config.resume:
        return checkpoint, state, ()
    stored = stored_settings(run_dir)
    changes = check_resumable(stored, config, run_dir)
    checkpoint, state = store.latest() or (checkpoint, state)
    changes += check_length(stored, config, iteration=state.iteration)
    refuse_gaps(config, iteration=state.iteration)
    return checkpoint, state, changes
