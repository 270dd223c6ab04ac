"""The words and tables of a study's report.

In: a StudyResult and its Claims. Out: blocks for page.py. Formats numbers with their units and intervals; every verdict
comes from the statistics.
"""

from collections.abc import Mapping, Sequence

from orchestration.journal.run_record import LAST
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
from orchestration.study.claims import FORMAT_TARGET, Claims, GateClaims
from orchestration.study.result import KINDS, GateSummary, Measure, Pair, StudyResult
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
    "method for all pairs of the table. Separable: corrected p of at most 0.05. More seeds: the number that would find "
    "a difference of the size and spread seen here with 80 % probability."
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
    """The blocks of the report. unfinished: arms without a result, with the end of their logs."""
    blocks: list[Block] = [Heading(text=title, level=1)]
    blocks += [Notice(text=warning) for warning in claims.warnings]
    if unfinished:
        names = ", ".join(name for name, _ in unfinished)
        blocks += [Notice(text=f"Not finished, and left out of every number below: {names}.")]
        for name, lines in unfinished:
            log = Verbatim(text="\n".join(lines) or "(no log)")
            blocks += [Folded(title=f"{name}: end of its log", blocks=(log,))]
    for kind in KINDS:
        rows = [row for row in result.gates if row.kind == kind]
        if rows:
            blocks += [Heading(text=KIND_TITLES[kind], level=2), _result_table(result, rows), Paragraph(text=READING)]
            blocks += [Heading(text="Which gates can be told apart", level=3), Paragraph(text=VERDICTS)]
            blocks += _pair_blocks(result, kind)
            blocks += [Folded(title="Throughput of each arm, completions/s", blocks=(_throughput_table(rows),))]
            blocks += [Heading(text="What the paper found, measured here", level=3)]
            found = [each for each in claims.gates if each.kind == kind]
            blocks += [Bullets(items=tuple(_statements(found, claims.baseline)))]
            blocks += _claim_tables(found, claims.baseline)
            blocks += [Heading(text="Curves", level=3), figures[kind]]
            blocks += [Paragraph(text="Lines: mean over seeds. Bands: smallest to largest seed.")]
    blocks += [Heading(text="Same prompts, same sampling seeds", level=2), _prompt_table(claims)]
    return [*blocks, Folded(title="Settings that all arms share", blocks=(Verbatim(text=settings),))]


def _result_table(result: StudyResult, rows: Sequence[GateSummary]) -> Table:
    """The paper's table: a row a gate, a column a measure, the untrained model first."""
    measures = [measure for measure in result.measures if any(measure.key in row.means for row in rows)]
    named = [(row.gate, row.means) for row in rows]
    if any(measure.key in result.untrained for measure in measures):
        named.insert(0, ("before training", result.untrained))
    body = [
        (name, *(_number(means.get(each.key), each.digits, scale=each.scale) for each in measures))
        for name, means in named
    ]
    return _gate_table([measure.label for measure in measures], body)


def _throughput_table(rows: Sequence[GateSummary]) -> Table:
    """Throughput as mean of each run: one row a gate, one column a seed."""
    found = {row.gate: row.values.get("samples_per_s", {}) for row in rows}
    seeds = sorted({seed for by_seed in found.values() for seed in by_seed})
    body = [(gate, *(_decimal(by_seed.get(seed), 0) for seed in seeds)) for gate, by_seed in found.items()]
    return _gate_table([f"seed {seed}" for seed in seeds], body)


def _pair_table(measure: Measure, pairs: Sequence[Pair]) -> Table:
    """One row a pair of gates: difference, interval, corrected p, verdict."""
    body = []
    for pair in pairs:
        found, p_holm = pair.difference, pair.verdict.p_holm
        mean, low, high = (
            MISSING if end is None else f"{measure.scale * end:+.{measure.digits}f}".replace("-", "−")
            for end in (found.mean, found.low, found.high)
        )
        interval = MISSING if found.low is None else f"{low} to {high}"
        p_text = "< 0.001" if p_holm is not None and p_holm < 0.001 else _decimal(p_holm, 3)
        body.append((f"{pair.first} − {pair.second}", mean, interval, p_text, pair.verdict.text))
    columns = ("pair", f"difference in {measure.label}", "95 % interval", "p (Holm)", "verdict")
    return Table(columns=columns, rows=tuple(body), numeric=frozenset((1, 2, 3)))


def _claim_tables(gates: Sequence[GateClaims], baseline: str | None) -> list[Block]:
    """When each gate reaches the target, how entropy and EUR move together, and how far the policy went."""
    speed = [
        (
            each.gate,
            ", ".join("never" if value is None else str(value) for value in each.reached.values()),
            _number(each.iteration, 1),
            _times(each),
        )
        for each in gates
    ]
    coupling = [(each.gate, _number(each.levels, 2), _number(each.changes, 2)) for each in gates]
    reach = [
        (
            each.gate,
            _number(each.entropy, 4),
            _number(each.ratio_variance, 5),
            _decimal(each.largest_ratio, 2),
            _decimal(each.largest_grad_norm, 2),
        )
        for each in gates
    ]
    sooner = f"times sooner than {baseline or 'clip'}"
    return [
        _gate_table((f"iteration of format reward {FORMAT_TARGET}, by seed", "mean", sooner), speed),
        _gate_table(("correlation of entropy and EUR", "of their changes from one iteration to the next"), coupling),
        _gate_table(
            ("entropy, mean of the run, nats", "ratio variance", "largest ratio", "largest gradient norm"), reach
        ),
    ]


def _prompt_table(claims: Claims) -> Table:
    words = {True: "equal", False: "different", None: "not recorded"}
    rows = tuple(
        (str(each.seed), words[each.same_prompts], each.fingerprint or MISSING, words[each.same_first_completions])
        for each in claims.prompts
    )
    columns = ("seed", "prompts in all arms", "their fingerprint", "first completions in all arms")
    return Table(columns=columns, rows=rows, numeric=frozenset((0,)))


def _pair_blocks(result: StudyResult, kind: Kind) -> list[Block]:
    """Pair tables: accuracy and reward open, measures of the training folded."""
    blocks: list[Block] = []
    for measure in result.measures:
        pairs = [pair for pair in result.pairs if (pair.measure, pair.kind) == (measure.key, kind)]
        if pairs:
            separable = sum(pair.verdict.separable for pair in pairs)
            title = f"{measure.label}: {separable} of {len(pairs)} pairs separable"
            table = _pair_table(measure, pairs)
            if measure.key.startswith("eval/") or measure.key == "reward":
                blocks += [Paragraph(text=title), table]
            else:
                blocks.append(Folded(title=title, blocks=(table,)))
    return blocks


def _statements(gates: Sequence[GateClaims], baseline: str | None) -> list[str]:
    found = [_speed_statement(each, baseline) for each in gates]
    levels = [(each.gate, each.levels.mean) for each in gates if each.levels is not None]
    opposite = [gate for gate, mean in levels if mean < 0]
    if levels:
        named = f" ({', '.join(opposite)})" if opposite else ""
        found.append(f"Entropy and EUR move against each other in {len(opposite)} of {len(levels)} gates{named}.")
    largest = [(each.largest_ratio, each.gate) for each in gates if each.largest_ratio is not None]
    if largest:
        listed = ", ".join(f"{gate} {ratio:.2f}" for ratio, gate in sorted(largest, key=lambda pair: pair[0]))
        found.append(f"Largest ratio of all seeds, smallest first: {listed}.")
    return found


def _speed_statement(claims: GateClaims, baseline: str | None) -> str:
    if claims.iteration is None:
        return f"{claims.gate} does not reach a format reward of {FORMAT_TARGET}."
    at = f"at iteration {_number(claims.iteration, 1)}"
    seeds = f"mean of {claims.iteration.num_seeds} of {len(claims.reached)} seed(s)"
    sooner = ""
    if claims.times_sooner is not None:
        both = f"{claims.times_sooner.num_seeds} seed(s) in which both do"
        sooner = f", {_times(claims)} times as soon as {baseline} (mean of {both})"
    return f"{claims.gate} reaches a format reward of {FORMAT_TARGET} {at} ({seeds}){sooner}."


def _gate_table(columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> Table:
    """One row a gate; all columns but the first, its name, are numbers."""
    return Table(columns=("gate", *columns), rows=tuple(rows), numeric=frozenset(range(1, len(columns) + 1)))


def _times(claims: GateClaims) -> str:
    found = claims.times_sooner
    if found is None:
        return MISSING
    if found.low is None or found.high is None:
        return f"{found.mean:.2f}"
    return f"{found.mean:.2f} ({found.low:.2f} to {found.high:.2f})"


def _number(mean: SeedMean | None, digits: int, *, scale: float = 1.0) -> str:
    if mean is None:
        return MISSING
    text = f"{scale * mean.mean:.{digits}f}".replace("-", "−")
    return text if mean.high is None else f"{text} ± {scale * (mean.high - mean.mean):.{digits}f}"


def _decimal(value: float | None, digits: int) -> str:
    return MISSING if value is None else f"{value:.{digits}f}"
