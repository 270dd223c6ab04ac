"""`python -m benchmarks.peers`: softgate against TRL's GRPOTrainer with the same model, prompts, batch, gate, reward.

TRL, our synchronous run and our run one version ahead train on the same prompts in turn, each in its own processes. A
run's rate is samples over wall clock, without start-up and the first iterations. The last iterations are not counted
either, because a run that is ahead has nothing left to generate in them. There are two tasks: the arithmetic
experiment, and completions of 16 to 512 tokens.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from benchmarks.figures import benchmark_parser, curves_panel, figures_at, write_figures
from benchmarks.pairs import PairedRate, print_rates
from benchmarks.peer_environment import peer_python
from benchmarks.public_run import PLAIN, run_command, run_seconds
from benchmarks.wordy_model import WORDY_SETTINGS, ensure_wordy_model
from configs.loading import load_config
from configs.schema import RunConfig
from orchestration.journal.json_lines import read_rows
from orchestration.pages.figures import save_panels
from orchestration.terminal.console import print_line
from rollout.prompts import PromptStream, load_tokenizer, prompt_encoder
from rollout.tasks import build_task
from rollout.tasks.embedded_model import ensure_embedded_model

WARMUP_ITERATIONS = 3
COOL_DOWN = 2  # number of last iterations not counted
TAU_POS, TAU_NEG = 10.0, 12.0
COMMON = (*PLAIN, "gate=sigmoid", f"gate.tau_pos={TAU_POS}", f"gate.tau_neg={TAU_NEG}", "learner.lr_schedule=constant")
PEER = "TRL GRPOTrainer, sapo"
PEER_THREADS = 2  # threads of TRL, the faster number: both cores, because it has no second process
MODES = {"synchronous": "max_staleness=0", "one version ahead": "max_staleness=1"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Contest:
    """One task for both sides."""

    name: str
    model: Path
    settings: tuple[str, ...]
    num_iterations: int
    peer_iterations: int  # iterations of TRL, which are all alike
    micro_batch: int  # completions in a forward pass of TRL, the faster number
    target: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Iteration:
    """Seconds, samples and reward of one iteration of either side."""

    seconds: float
    samples: int
    reward: float  # mean over the completions, points


def contests() -> list[Contest]:
    """The tasks, with their models built."""
    return [
        Contest(
            name="arithmetic",
            model=ensure_embedded_model(),
            settings=(),
            num_iterations=25,
            peer_iterations=25,
            micro_batch=64,
            target=1.2,
        ),
        Contest(
            name="16 to 512 tokens",
            model=ensure_wordy_model(),
            settings=(*WORDY_SETTINGS, "learner.lr=1e-6"),
            num_iterations=15,
            peer_iterations=8,
            micro_batch=16,
            target=3.0,
        ),
    ]


def train_ours(contest: Contest, mode: str) -> list[Iteration]:
    """Trains with one run of the public command."""
    settings = [*run_settings(contest), mode]
    rows, seconds = run_seconds(settings)
    samples = load_config(settings).rollout.completions_per_iteration
    return [
        Iteration(seconds=elapsed_s, samples=samples, reward=row["reward/mean"])
        for row, elapsed_s in zip(rows, seconds, strict=True)
    ]


def train_peer(contest: Contest) -> list[Iteration]:
    """Trains with TRL, in its own environment."""
    config = load_config(run_settings(contest))
    with TemporaryDirectory() as folder:
        out = Path(folder) / "rows.jsonl"
        job = json.dumps(peer_job(contest, config, folder=folder, out=out))
        run_command([str(peer_python()), "-m", "benchmarks.peer_trl"], text=job, threads=PEER_THREADS)
        return [Iteration(**row) for row in read_rows(out)]


def rate(iterations: Sequence[Iteration]) -> float:
    """Samples a second over the counted iterations."""
    counted = iterations[WARMUP_ITERATIONS:-COOL_DOWN]
    return sum(item.samples for item in counted) / sum(item.seconds for item in counted)


def run_settings(contest: Contest) -> list[str]:
    """Settings of our run except for its mode."""
    return [*COMMON, *contest.settings, f"num_iterations={contest.num_iterations}", f"model.path={contest.model}"]


def peer_job(contest: Contest, config: RunConfig, *, folder: str, out: Path) -> dict[str, Any]:
    """Input of benchmarks/peer_trl.py; config is that of our run."""
    encode = prompt_encoder(load_tokenizer(str(contest.model), trust_remote_code=False))
    stream = PromptStream(build_task(config.task).train_problems(), encode, seed=config.seed)
    num_prompts = config.rollout.prompts_per_iteration * contest.peer_iterations
    prompts = [stream.prompt_at(position) for position in range(num_prompts)]
    return {
        "model": str(contest.model),
        "prompts": [{"prompt": prompt.text, "answer": prompt.reference_answer} for prompt in prompts],
        "prompts_per_iteration": config.rollout.prompts_per_iteration,
        "completions_per_prompt": config.rollout.completions_per_prompt,
        "num_minibatches": config.learner.num_minibatches,
        "num_iterations": contest.peer_iterations,
        "max_new_tokens": config.rollout.max_new_tokens,
        "lr": config.learner.lr,
        "max_grad_norm": config.learner.max_grad_norm,
        "tau_pos": TAU_POS,
        "tau_neg": TAU_NEG,
        "seed": config.seed,
        "num_threads": PEER_THREADS,
        "micro_batch": contest.micro_batch,
        "folder": folder,
        "out": str(out),
    }


def main() -> None:
    parser = benchmark_parser("peers", __doc__)
    parser.add_argument("--repeats", type=int, default=5, help="counted runs of each side of a pair (default 5)")
    arguments = parser.parse_args()
    with figures_at(arguments.json) as console:
        compare(console, arguments.json, repeats=arguments.repeats)


def compare(console: Console, target: Path, *, repeats: int) -> None:
    """Runs every contest, prints the table, and writes figures and the reward curves of the last repeat."""
    rates: list[PairedRate] = []
    curves: dict[str, dict[str, list[Iteration]]] = {}
    console.print("preparing TRL's environment and the models ...")
    peer_python()
    for contest in contests():
        found: dict[str, list[float]] = {side: [] for side in (*MODES, PEER)}
        for repeat in range(repeats):
            console.print(f"measuring {contest.name}, {repeat + 1} of {repeats} ...")
            trained = {f"softgate, {mode}": train_ours(contest, setting) for mode, setting in MODES.items()}
            trained[PEER] = train_peer(contest)
            curves[contest.name] = trained
            for side, iterations in zip(found, trained.values(), strict=True):
                found[side].append(rate(iterations))
        for mode in MODES:
            name, sides = f"{contest.name}, {mode}", {"ours": tuple(found[mode]), "peers": tuple(found[PEER])}
            rates.append(PairedRate(name=name, peer=PEER, unit="samples/s", target=contest.target, **sides))
    print_rates(console, rates)
    rows = {name: {side: [asdict(item) for item in items] for side, items in sides.items()}
            for name, sides in curves.items()}  # fmt: skip
    write_figures(target, {"pairs": [item.to_json() for item in rates], "curves": rows})
    panels = [
        curves_panel(name, "points", {side: [[item.reward for item in items]] for side, items in sides.items()})
        for name, sides in curves.items()
    ]
    save_panels(panels, target.with_suffix(".png"), title="Reward")
    print_line(console, f"reward curves in {target.with_suffix('.png')}")


if __name__ == "__main__":
    main()
