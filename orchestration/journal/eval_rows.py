"""One evaluation and its rows: a graded sample of a problem is a row of <set>.jsonl."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from configs.files import write_atomically
from orchestration.journal.json_lines import text_of


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalSample:
    """One completion of one problem with its verdict: a row of <set>.jsonl."""

    set: str
    problem: int  # index in the set
    sample: int  # 0, 1, ... of the problem
    prompt: str  # text that the model reads
    reference: str
    completion: str
    length: int  # tokens, the end token included
    finished: bool  # False where max_new_tokens cut it off
    format: float  # verdict, 0 to 1
    answer: float  # verdict; 1 is right


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """The metrics of one evaluation and all samples from which they were computed."""

    metrics: Mapping[str, float]  # values by name, eval/<set>/...
    samples: Mapping[str, Sequence[EvalSample]]  # samples by set, in order


def in_order(samples: Iterable[EvalSample]) -> list[EvalSample]:
    """The samples by problem, then by sample number: the order of an evaluation that was never interrupted."""
    return sorted(samples, key=lambda sample: (sample.problem, sample.sample))


def write_samples(path: Path, samples: Iterable[EvalSample]) -> None:
    """All rows of a set at once; the file is either there in full or as it was before."""
    write_atomically(path, text_of(asdict(sample) for sample in samples))
