"""The command line of an evaluation with fake engines: exit statuses, resuming, imports."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from orchestration import task_loading
from orchestration.evaluate import __main__ as evaluate
from orchestration.evaluate import session as evaluation_session
from orchestration.journal.eval_rows import EvalSample
from rollout.contract import Prompt, SamplingSpec

ROOT = Path(__file__).resolve().parents[4]
HEAVY = ("torch", "vllm", "ray", "deepspeed", "transformers", "numpy")
HEAVY_BEYOND_RAY = ("torch", "vllm", "deepspeed", "transformers")
SUMS = ("model=embedded", "num_prompts=6", "samples=2", "temperature=1")


class PlayedEngines:
    """Fake engines, whose samples depend on seed, problem and sample only; they fail after `limit` problems."""

    def __init__(self) -> None:
        self.drawn: list[int] = []
        self.calls: list[str] = []
        self.limit = 1000

    def graded_samples(
        self,
        fleet: Any,
        graders: Any,
        prompts: Sequence[Prompt],
        sampling: SamplingSpec,
        *,
        name: str,
    ) -> Iterator[list[EvalSample]]:
        for prompt in reversed(prompts):
            if len(self.drawn) == self.limit:
                raise KeyboardInterrupt
            self.drawn.append(prompt.position)
            yield [
                EvalSample(
                    set=name,
                    problem=prompt.position,
                    sample=sample,
                    prompt=prompt.text,
                    reference=prompt.reference_answer,
                    completion=f"{sampling.seed}",
                    length=5 + sample,
                    finished=True,
                    format=1.0,
                    answer=float((prompt.position * 7 + sampling.seed + sample) % 3 == 0),
                )
                for sample in range(sampling.num_completions)
            ]


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> PlayedEngines:
    played = PlayedEngines()

    def note(name: str) -> Callable[[], None]:
        return lambda: played.calls.append(name)

    rollout = SimpleNamespace(
        fleet=None, graders=None, await_ready=note("ready"), serve_loaded_weights=note("serve loaded weights")
    )
    parts = ModuleType("orchestration.rollout_parts")
    parts.open_rollout_side = lambda *arguments: nullcontext(rollout)  # type: ignore[attr-defined]
    placement = SimpleNamespace(describe=lambda: "played engines")
    cluster = SimpleNamespace(device="cpu", placement=placement)

    class Tokenizer:
        def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
            return list(range(len(text)))

    monkeypatch.setitem(sys.modules, "orchestration.rollout_parts", parts)
    monkeypatch.setattr(evaluation_session, "start_cluster", lambda *_, **__: nullcontext(cluster))
    monkeypatch.setattr(evaluation_session, "locate_model", lambda *arguments: Path("model"))
    monkeypatch.setattr(task_loading, "load_tokenizer", lambda *arguments, **others: Tokenizer())
    drawing = ModuleType("orchestration.evaluate.drawing")
    drawing.graded_samples = played.graded_samples  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "orchestration.evaluate.drawing", drawing)
    monkeypatch.chdir(tmp_path)
    return played


def python(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


def test_an_evaluation_leaves_rows_a_summary_and_a_table(
    engines: PlayedEngines, capfd: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main([*SUMS, "model.max_model_len=64", "out=a"]) == 0
    assert engines.calls == ["ready", "serve loaded weights"]
    rows = [json.loads(line) for line in Path("a/arithmetic.jsonl").read_text().splitlines()]
    assert [(row["problem"], row["sample"]) for row in rows] == [(p, s) for p in range(6) for s in range(2)]
    metrics = json.loads(Path("a/summary.json").read_text())["metrics"]
    assert metrics["eval/arithmetic/pass@1"] == pytest.approx(sum(row["answer"] for row in rows) / 12)
    lines = capfd.readouterr().out.splitlines()
    assert lines[-1].split()[:3] == ["arithmetic", "6", f"{metrics['eval/arithmetic/pass@1']:.1%}"]


def test_a_stopped_evaluation_draws_only_what_is_missing_and_ends_alike(
    engines: PlayedEngines, capfd: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main([*SUMS, "out=whole"]) == 0
    table = capfd.readouterr().out.splitlines()[-2:]
    engines.drawn, engines.limit = [], 3
    assert evaluate.main([*SUMS, "out=stopped"]) == 130
    engines.drawn, engines.limit = [], 1000
    assert evaluate.main([*SUMS, "out=stopped"]) == 0
    assert engines.drawn == [2, 1, 0]
    told = capfd.readouterr().out.splitlines()
    assert "6 samples are in the folder already, 6 to sample" in told
    assert told[-2:] == table
    for name in ("arithmetic.jsonl", "summary.json"):
        assert Path("stopped", name).read_bytes() == Path("whole", name).read_bytes()


def test_a_finished_evaluation_is_told_again_without_engines(
    engines: PlayedEngines, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main([*SUMS]) == 0
    (folder,) = Path("evals").iterdir()
    assert folder.name.startswith("embedded-"), "the same command finds its own folder"
    table = capfd.readouterr().out.splitlines()[-2:]
    monkeypatch.setattr(evaluation_session, "start_cluster", lambda *_, **__: pytest.fail("nothing is missing"))
    assert evaluate.main([*SUMS]) == 0
    assert capfd.readouterr().out.splitlines()[-2:] == table


def test_the_seed_decides_the_samples(engines: PlayedEngines) -> None:
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert evaluate.main([*SUMS, f"seed={seed}", f"out={out}"]) == 0
    rows = {out: Path(out, "arithmetic.jsonl").read_text() for out in "abc"}
    assert rows["a"] == rows["b"] != rows["c"]


def test_other_settings_in_the_same_folder_are_refused_in_one_line(
    engines: PlayedEngines, capfd: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main([*SUMS, "out=a"]) == 0
    capfd.readouterr()
    assert evaluate.main([*SUMS, "out=a", "top_p=0.5"]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("softgate: out=a: holds an evaluation with eval.top_p=1.0, now eval.top_p=0.5; leave")


def test_a_prompt_that_leaves_too_little_room_is_refused(
    engines: PlayedEngines, capfd: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main([*SUMS, "out=a", "max_new_tokens=60"]) == 2
    told = (
        "model.max_model_len=64: the longest prompt of arithmetic has 27 tokens, which with max_new_tokens=60 needs 87"
    )
    assert told in capfd.readouterr().err
    assert engines.drawn == []


def test_two_evaluations_are_compared(engines: PlayedEngines, capfd: pytest.CaptureFixture[str]) -> None:
    for out, seed in (("a", 0), ("b", 1)):
        assert evaluate.main([*SUMS, f"seed={seed}", f"out={out}"]) == 0
    capfd.readouterr()
    assert evaluate.main(["compare=[a,b]"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[:3] == ["A = a", "B = b", "eval.seed: A 0, B 1"]
    assert lines[4].split()[:2] == ["arithmetic", "6"]
    assert evaluate.main(["compare=[a,c]"]) == 1
    assert capfd.readouterr().err == "softgate: compare: c holds no evaluation; name a folder with <set>.jsonl in it\n"


def test_help_and_mistakes_need_no_heavy_library(tmp_path: Path) -> None:
    program = (
        "import sys; from orchestration.evaluate.__main__ import main\n"
        f"print(main(['--help']), main(['model=embedded', 'smaples=8']), [n for n in {HEAVY!r} if n in sys.modules])\n"
    )
    ended = python("-c", program, folder=tmp_path)
    assert ended.stdout.splitlines()[-1] == "0 2 []", ended.stderr
    assert ended.stderr == "smaples=8: no such setting, did you mean eval.samples?\n"


def test_a_cluster_that_is_too_small_is_told_before_anything_heavy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    arguments = [*SUMS, "rollout.num_engines=100000", "cluster.address=local", "out=a"]
    program = (
        "import sys; from orchestration.evaluate.__main__ import main\n"
        f"print(main({arguments!r}), [name for name in {HEAVY_BEYOND_RAY!r} if name in sys.modules])\n"
    )
    ended = python("-c", program, folder=tmp_path)
    assert ended.stdout.splitlines()[-1] == "1 []", ended.stderr
    (line,) = ended.stderr.splitlines()
    assert line.startswith("softgate: the cluster is too small: the run needs 100000 engine(s) of 0.5 CPU, together")
    assert line.endswith("Lower rollout.num_engines or rollout.tensor_parallel_size, or add nodes")
