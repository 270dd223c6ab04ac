"""Reading of one data set, from the hub or from a file, and its rows as problems with reference answers.

In: a set's section of the configuration and its key (`task.train.gsm8k`). Out: its problems and how many rows have no
answer, or a DataSetError of one line that names the setting, what was found and the remedy. The only file that imports
`datasets`, and only when a set is read.
"""

import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from configs.mistakes import shown
from configs.tasks import EvalSetConfig
from rollout.tasks import Problem
from rollout.tasks.columns import columns_of

Extraction = Literal["plain", "hashes", "boxed", "boxed_or_plain"]

HASHES = "#### "  # mark in GSM8K between the worked solution and the answer
BOXED = "\\boxed{"
OFFLINE = "HF_HUB_OFFLINE"
HUB_TIMEOUT_S = 4.0  # time-out of the hub's first answer; the library itself would try each set for 23 s
EXPLANATIONS = {
    "plain": "holds any text",
    "hashes": "has `#### ` before its answer",
    "boxed": r"has a balanced \boxed{}",
    "boxed_or_plain": r"has a balanced \boxed{} or plain text",
}


class DataSetError(ValueError):
    """A data set that cannot be used; the message is one line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedSet:
    """One data set in memory, in the order of its rows."""

    problems: tuple[Problem, ...]
    # number of rows left out because the question or the answer is empty, or the answer is not where it should be
    num_without_answer: int


def load_set(name: str, config: EvalSetConfig, *, key: str) -> LoadedSet:
    """Reads the set; `name` becomes the source of its problems."""
    rows = _read_file(config, key=key) if config.is_file else _read_hub(config, key=key)
    if len(rows) == 0:
        raise DataSetError(f"{key}.path={config.path}: has no rows; give a set that has rows")
    question_column, answer_column = _columns(rows.column_names, config, key=key)
    if config.limit is not None:
        rows = rows.select(range(min(config.limit, len(rows))))
    with _one_line_errors(f"{key}.path={config.path}", remedy="must be UTF-8 throughout; correct the file"):
        columns = [list(rows[column]) for column in (question_column, answer_column)]
    questions = _texts(columns[0], key=f"{key}.question_column={question_column}")
    answers = _texts(columns[1], key=f"{key}.answer_column={answer_column}")
    problems = tuple(
        Problem(text=question.strip(), reference_answer=extracted, source=name)
        for question, answer in zip(questions, answers, strict=True)
        if question.strip() and (extracted := extract_answer(answer, config.extraction)) is not None
    )
    if not problems:
        raise DataSetError(
            f"{key}.extraction={config.extraction}: no row of column {answer_column} "
            f"{EXPLANATIONS[config.extraction]}, the first is {shown(answers[0])!r}; "
            f"choose another extraction or {key}.answer_column"
        )
    return LoadedSet(problems=problems, num_without_answer=len(questions) - len(problems))


def refuse_file(config: EvalSetConfig, *, key: str) -> None:
    """DataSetError where a set's file is missing, empty or without the columns; reads its beginning only."""
    names = columns_of(_readable(config, key=key))
    if names is not None:  # else the library says what is wrong with the file when it reads all of it
        _columns(names, config, key=key)


def _readable(config: EvalSetConfig, *, key: str) -> Path:
    """The path of the set's file; DataSetError where there is nothing to read."""
    path = Path(config.path).expanduser()
    setting = f"{key}.path={config.path}"
    try:
        with path.open("rb") as file:
            is_empty = not file.read(1)
    except FileNotFoundError:
        raise DataSetError(f"{setting}: no such file, looked for {path.absolute()}; correct the path") from None
    except OSError as error:
        raise DataSetError(f"{setting}: cannot be read ({error.strerror}); give a readable file") from None
    if is_empty:
        raise DataSetError(f"{setting}: is an empty file; give a set that has rows")
    return path


def _read_file(config: EvalSetConfig, *, key: str) -> Any:
    path = _readable(config, key=key)
    kind = "parquet" if path.suffix == ".parquet" else "json"
    with _one_line_errors(
        f"{key}.path={config.path}", remedy=f"must be rows of {path.suffix.lstrip('.')}; correct the file"
    ):
        from datasets import load_dataset

        return load_dataset(kind, data_files=str(path), split="train")


def _read_hub(config: EvalSetConfig, *, key: str) -> Any:
    setting = f"{key}.path={config.path}"
    whole = f"{config.path} (subset {config.subset or 'none'}, split {config.split})"
    if Path(config.path).is_file():
        raise DataSetError(f"{setting}: is a file, and must end in .jsonl, .json or .parquet; rename or convert it")
    remedy = (
        f"{whole} is asked of the hub; give a local copy as {key}.path=<file>.jsonl, or leave the set out: {key}=null"
    )
    with _one_line_errors(setting, remedy=remedy):
        from datasets import load_dataset

        return load_dataset(config.path, config.subset, split=config.split)


@contextmanager
def _one_line_errors(setting: str, *, remedy: str) -> Iterator[None]:
    """Turns errors of the library into a DataSetError of one line."""
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (DatasetsError, OSError, ValueError, RuntimeError, TypeError, StopIteration) as error:
        cause = error.__cause__ or error
        reason = " ".join(str(cause).strip().partition("\n")[0].split()) or type(cause).__name__
        shortened = reason if len(reason) <= 160 else f"{reason[:157]}..."
        raise DataSetError(f"{setting}: cannot be read ({shortened}); {remedy}") from error


def _columns(names: Sequence[str], config: EvalSetConfig, *, key: str) -> tuple[str, str]:
    """The columns of questions and of answers, of those that the set has."""
    question = _column(names, (config.question_column,), key=f"{key}.question_column", path=config.path)
    return question, _column(names, config.answer_columns, key=f"{key}.answer_column", path=config.path)


def _column(names: Sequence[str], wanted: Sequence[str], *, key: str, path: str) -> str:
    for column in wanted:
        if column in names:
            return column
    found = ", ".join(names)
    raise DataSetError(f"{key}={'|'.join(wanted)}: {path} has no such column, only {found}; name one of these")


def _texts(values: Iterable[Any], *, key: str) -> list[str]:
    """Values of a column as text: numbers as written, an absent value as ''."""
    texts = []
    for row, value in enumerate(values):
        if not isinstance(value, str | int | float | None):
            raise DataSetError(f"{key}: row {row} holds {shown(value)}; must be text or a number, name another column")
        texts.append("" if value is None else str(value))
    return texts


def extract_answer(text: str, extraction: Extraction) -> str | None:
    """The answer without surrounding white space, or None if it is absent or empty."""
    match extraction:
        case "plain":
            answer: str | None = text
        case "hashes":
            _, found, rest = text.rpartition(HASHES)
            answer = rest if found else None
        case "boxed":
            answer = last_boxed(text)
        case "boxed_or_plain":
            answer = last_boxed(text) if BOXED in text else text
    return (answer or "").strip() or None


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` with balanced braces; `\{` and `\}` do not count as braces.

    Example: `so $x=\boxed{1}$, or \boxed{\frac{1}{2}}` gives `\frac{1}{2}`.
    """
    open_braces: list[int | None] = []  # start of the content for a \boxed{, None for any other brace
    last: tuple[int, int] | None = None
    for token in re.finditer(r"\\boxed\{|\\.|[{}]", text, re.DOTALL):
        if token[0] in (BOXED, "{"):
            open_braces.append(token.end() if token[0] == BOXED else None)
        elif token[0] == "}" and open_braces:
            begin = open_braces.pop()
            if begin is not None and (last is None or begin > last[0]):
                last = (begin, token.start())
    return text[last[0] : last[1]] if last else None


def prepare_hub() -> None:
    """Prepares the library for hub sets: without a network it then uses downloaded sets at once.

    Must be called before the first hub set is read.
    """
    if os.environ.get(OFFLINE):
        return
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    request = urllib.request.Request(endpoint, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=HUB_TIMEOUT_S).close()
    except urllib.error.HTTPError:
        return  # the hub answered
    except OSError:
        os.environ[OFFLINE] = "1"
