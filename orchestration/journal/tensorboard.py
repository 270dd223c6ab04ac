"""TensorBoard scalars of a run, written while it goes on; needs no torch."""

import time
from pathlib import Path

from orchestration.journal.eval_rows import Evaluation
from orchestration.journal.sink import Row, Sink

TENSORBOARD_FOLDER = "tensorboard"


class TensorBoardLog(Sink):
    """Metrics and evaluations in the event format of TensorBoard; the step is the iteration."""

    def __init__(self, run_dir: Path, *, start_iteration: int) -> None:
        # tensorboard's own writer: torch.utils.tensorboard would import torch into the driver.
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event = Event
        self._writer = EventFileWriter(str(run_dir / TENSORBOARD_FOLDER))
        if start_iteration:  # hides what an interrupted run wrote after the checkpoint
            start = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(wall_time=time.time(), step=start_iteration, session_log=start))

    def write_row(self, row: Row) -> None:
        self._write(int(row["iteration"]), {name: value for name, value in row.items() if name != "iteration"})

    def write_evaluation(self, iteration: int, evaluation: Evaluation) -> None:
        self._write(iteration, evaluation.metrics)

    def close(self, *, failed: bool) -> None:
        self._writer.close()

    def _write(self, step: int, metrics: Row) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        self._writer.flush()
