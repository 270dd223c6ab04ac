"""run.log: the console's lines with the time of day, beside what libraries print.

In: lines. Out: the file, which this process and its children have open for appending too. Therefore a full file is not
renamed: its content moves to run.previous.log, in place of an older one, and the file is emptied.
"""

import shutil
import time
from pathlib import Path

from configs.files import naming
from orchestration.journal.run_files import LOG_FILE, previous_part
from orchestration.journal.sink import Row, Sink


class LogFile(Sink):
    """Appends lines; looks after each iteration whether half of limit_bytes is reached."""

    def __init__(self, run_dir: Path, *, limit_bytes: int) -> None:
        self._path = run_dir / LOG_FILE
        self._limit_bytes = limit_bytes

    def write(self, message: str) -> None:
        with naming(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}\n")

    def write_row(self, row: Row) -> None:
        if self._path.exists() and self._path.stat().st_size > self._limit_bytes // 2:
            previous = previous_part(self._path)
            with naming(previous), self._path.open("r+b") as log, previous.open("wb") as file:
                shutil.copyfileobj(log, file)
                log.truncate(0)  # loses what is written between the copy's end and now: microseconds
