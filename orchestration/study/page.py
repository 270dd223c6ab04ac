"""The words and tables of a study's report.

In: a StudyResult and its Claims. Out: blocks for page.py. Formats numbers with their units and intervals; decides
nothing that the statistics did not decide.
"""

from collections.abc import Mapping, Sequence

from orchestration.pages.page import (
    MISSING,
    Block,
    Bullets,
    Figures,
    Folded,
    Heading,
    Notice,
    Paragraph,
    Table,
    Verbatim,
)
from orchestration.statistics.seeds import SeedMean
from orchestration.study.claims import FORMAT_TARGET, Claims, FormatSpeed
from orchestration.study.result import KINDS, LAST, GateSummary, Measure, Pair, StudyResult
from orchestration.study.settings import Kind

KIND_TITLES: dict[Kind, str] = {
    "live": "Live runs: every gate trains on what it samples itself",
    "replayed": "Replayed runs: every gate trains on the same recorded groups",
}
READING = (
    f"Mean over seeds ± half-width of the 95 % interval (Student's t over seeds). At the end: mean of the last {LAST} "
    f"iterations. pass@1: share of right answers on the evaluation set after training."
)
VERDICTS = (
    "Difference: first gate minus second, seed by seed, with its 95 % interval. p: paired t-test, corrected by Holm's "
    "method for all pairs of the table. Separable: corrected p of at most 0.05. More seeds: so many that a difference "
    "of the size and spread seen here would be found with 80 % probability."
)


def study_blocks(
    result: StudyResult,
    claims: Claims,
    *,
    title: str,
    settings: str,
    unfinished: Sequence[tuple[str, Sequence[str]]],
    figures: Mapping[Kind, Figures],
) -> list[Block]:
    """The report. unfinished: arms without a result, with the end of their logs."""
    blocks: list[Block] = [Heading(text=title, level=1)]
    blocks += [Notice(text=warning) for warning in claims.warnings]
    blocks += _unfinished(unfinished)
    for kind in KINDS:
        rows = [row for row in result.gates if row.kind == kind]
        if rows:
            blocks += [Heading(text=KIND_TITLES[kind], level=2), result_table(result, rows), Paragraph(text=READING)]
            blocks += [Heading(text="Which gates can be told apart", level=3), Paragraph(text=VERDICTS)]
            blocks += _pair_blocks(result, kind)
            blocks += [Folded(title="Throughput of each arm, completions/s", blocks=(throughput_table(rows),))]
            blocks += [Heading(text="What the paper found, measured here", level=3)]
            blocks += [Bullets(items=tuple(_statements(claims, kind)))]
            blocks += [speed_table(claims, kind), coupling_table(claims, kind), reach_table(claims, kind)]
            blocks += [Heading(text="Curves", level=3), figures[kind]]
            blocks += [Paragraph(text="Lines: mean over seeds. Bands: smallest to largest seed.")]
    blocks += [Heading(text="Same prompts, same sampling seeds", level=2), prompt_table(claims)]
    return [*blocks, Folded(title="Settings that all arms share", blocks=(Verbatim(text=settings),))]


def result_table(result: StudyResult, rows: Sequence[GateSummary]) -> Table:
    """Like the paper's: gates down, measures across, the untrained model first."""
    measures = [measure for measure in result.measures if any(measure.key in row.means for row in rows)]
    untrained = [_cell(measure, result.untrained.get(measure.key)) for measure in measures]
    body = [(row.gate, *(_cell(measure, row.means.get(measure.key)) for measure in measures)) for row in rows]
    return Table(
        columns=("gate", *(measure.label for measure in measures)),
        rows=(*([("before training", *untrained)] if set(untrained) != {MISSING} else []), *body),
        numeric=frozenset(range(1, len(measures) + 1)),
    )


def throughput_table(rows: Sequence[GateSummary]) -> Table:
    """One row a gate, one column a seed: mean of the run."""
    seeds = sorted({seed for row in rows for seed in row.values.get("samples_per_s", {})})
    body = []
    for row in rows:
        found = row.values.get("samples_per_s", {})
        body.append((row.gate, *(f"{found[seed]:.0f}" if seed in found else MISSING for seed in seeds)))
    columns = ("gate", *(f"seed {seed}" for seed in seeds))
    return Table(columns=columns, rows=tuple(body), numeric=frozenset(range(1, len(columns))))


def pair_table(measure: Measure, pairs: Sequence[Pair]) -> Table:
    """One row a pair of gates: difference, interval, corrected p, verdict."""
    body = []
    for pair in pairs:
        found, p_holm = pair.difference, pair.verdict.p_holm
        interval = MISSING
        if found.low is not None and found.high is not None:
            interval = f"{_signed(measure, found.low)} to {_signed(measure, found.high)}"
        p_text = MISSING if p_holm is None else "< 0.001" if p_holm < 0.001 else f"{p_holm:.3f}"
        body.append(
            (f"{pair.first} − {pair.second}", _signed(measure, found.mean), interval, p_text, pair.verdict.text)
        )
    columns = ("pair", f"difference in {measure.label}", "95 % interval", "p (Holm)", "verdict")
    return Table(columns=columns, rows=tuple(body), numeric=frozenset((1, 2, 3)))


def speed_table(claims: Claims, kind: Kind) -> Table:
    body = []
    for speed in (each for each in claims.speeds if each.kind == kind):
        seeds = ", ".join("never" if value is None else str(value) for value in speed.reached.values())
        body.append((speed.gate, seeds, _number(speed.iteration, 1), _times(speed)))
    return Table(
        columns=(
            "gate",
            f"iteration of format reward {FORMAT_TARGET}, by seed",
            "mean",
            f"times sooner than {claims.baseline or 'clip'}",
        ),
        rows=tuple(body),
        numeric=frozenset((1, 2, 3)),
    )


def coupling_table(claims: Claims, kind: Kind) -> Table:
    rows = tuple(
        (each.gate, _number(each.levels, 2), _number(each.changes, 2)) for each in claims.couplings if each.kind == kind
    )
    columns = ("gate", "correlation of entropy and EUR", "of their changes from one iteration to the next")
    return Table(columns=columns, rows=rows, numeric=frozenset((1, 2)))


def reach_table(claims: Claims, kind: Kind) -> Table:
    rows = tuple(
        (
            each.gate,
            _number(each.entropy, 4),
            _number(each.ratio_variance, 5),
            MISSING if each.largest_ratio is None else f"{each.largest_ratio:.2f}",
            MISSING if each.largest_grad_norm is None else f"{each.largest_grad_norm:.2f}",
        )
        for each in claims.reaches
        if each.kind == kind
    )
    columns = ("gate", "entropy, mean of the run, nats", "ratio variance", "largest ratio", "largest gradient norm")
    return Table(columns=columns, rows=rows, numeric=frozenset((1, 2, 3, 4)))


def prompt_table(claims: Claims) -> Table:
    words = {True: "equal", False: "different", None: "not recorded"}
    rows = tuple(
        (
            str(each.seed),
            words[each.same_prompts],
            each.fingerprint or MISSING,
            words[each.same_first_completions],
        )
        for each in claims.prompts
    )
    columns = ("seed", "prompts in all arms", "their fingerprint", "first completions in all arms")
    return Table(columns=columns, rows=rows, numeric=frozenset((0,)))


def _pair_blocks(result: StudyResult, kind: Kind) -> list[Block]:
    """Accuracy and reward open, what describes the training folded."""
    blocks: list[Block] = []
    for measure in result.measures:
        pairs = [pair for pair in result.pairs if (pair.measure, pair.kind) == (measure.key, kind)]
        if pairs:
            separable = sum(pair.verdict.separable for pair in pairs)
            title = f"{measure.label}: {separable} of {len(pairs)} pairs separable"
            table = pair_table(measure, pairs)
            if measure.key.startswith("eval/") or measure.key == "reward":
                blocks += [Paragraph(text=title), table]
            else:
                blocks.append(Folded(title=title, blocks=(table,)))
    return blocks


def _statements(claims: Claims, kind: Kind) -> list[str]:
    found = [_speed_statement(speed, claims.baseline) for speed in claims.speeds if speed.kind == kind]
    couplings = [each for each in claims.couplings if each.kind == kind and each.levels is not None]
    opposite = [each.gate for each in couplings if each.levels is not None and each.levels.mean < 0]
    if couplings:
        named = f" ({', '.join(opposite)})" if opposite else ""
        found.append(f"Entropy and EUR move against each other in {len(opposite)} of {len(couplings)} gates{named}.")
    reaches = [each for each in claims.reaches if each.kind == kind and each.largest_ratio is not None]
    if reaches:
        order = sorted(reaches, key=lambda each: each.largest_ratio or 0.0)
        told = ", ".join(f"{each.gate} {each.largest_ratio:.2f}" for each in order)
        found.append(f"Largest ratio of all seeds, from the gate that holds it most: {told}.")
    return found


def _speed_statement(speed: FormatSpeed, baseline: str | None) -> str:
    if speed.iteration is None:
        return f"{speed.gate} does not reach a format reward of {FORMAT_TARGET}."
    seeds = f"mean of {speed.iteration.num_seeds} of {len(speed.reached)} seed(s)"
    told = (
        f"{speed.gate} reaches a format reward of {FORMAT_TARGET} at iteration {_number(speed.iteration, 1)} ({seeds})"
    )
    if speed.times_sooner is not None:
        both = f"{speed.times_sooner.num_seeds} seed(s) in which both do"
        return f"{told}, {_times(speed)} times as soon as {baseline} (mean of {both})."
    return f"{told}."


def _unfinished(unfinished: Sequence[tuple[str, Sequence[str]]]) -> list[Block]:
    if not unfinished:
        return []
    names = ", ".join(name for name, _ in unfinished)
    logs = tuple(
        Folded(title=f"{name}: end of its log", blocks=(Verbatim(text="\n".join(lines) or "(no log)"),))
        for name, lines in unfinished
    )
    return [Notice(text=f"Not finished, and left out of every number below: {names}."), *logs]


def _times(speed: FormatSpeed) -> str:
    found = speed.times_sooner
    if found is None:
        return MISSING
    if found.low is None or found.high is None:
        return f"{found.mean:.2f}"
    return f"{found.mean:.2f} ({found.low:.2f} to {found.high:.2f})"


def _cell(measure: Measure, mean: SeedMean | None) -> str:
    return _number(mean, measure.digits, scale=measure.scale)


def _number(mean: SeedMean | None, digits: int, *, scale: float = 1.0) -> str:
    if mean is None:
        return MISSING
    text = f"{scale * mean.mean:.{digits}f}".replace("-", "−")
    return text if mean.high is None else f"{text} ± {scale * (mean.high - mean.mean):.{digits}f}"


def _signed(measure: Measure, value: float) -> str:
    return f"{measure.scale * value:+.{measure.digits}f}".replace("-", "−")
