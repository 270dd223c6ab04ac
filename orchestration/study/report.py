"""Writes the report of a study: HTML, Markdown, CSV and the picture for a README.

In: a study's folder with its run folders. Out: files beside them, the same for the same runs. Unfinished arms are named
and left out.
"""

import csv
import io
import re
from collections.abc import Collection, Sequence
from dataclasses import asdict
from functools import partial
from operator import mul
from pathlib import Path

from configs.files import write_atomically
from configs.loading import dump_yaml
from orchestration.journal.run_files import CONFIG_FILE, LOG_FOLDER, last_lines, reward_metrics
from orchestration.journal.run_record import read_run
from orchestration.pages.figures import Dots, Line, Panel, dots_svg, panel_svg, save_panels
from orchestration.pages.page import Figure, Figures, html_page, markdown_page
from orchestration.study.claims import measure_claims
from orchestration.study.page import study_blocks
from orchestration.study.result import KINDS, PANELS, Pair, StudyArm, StudyResult, summarize
from orchestration.study.settings import Kind

ARM_NAME = re.compile(r"(?P<gate>\w+)-seed(?P<seed>\d+)(?P<replayed>-replayed)?")
HTML_FILE, MARKDOWN_FILE, CURVES_FILE = "report.html", "report.md", "curves.png"
ITERATIONS_FILE, PAIRS_FILE, FIGURE_FOLDER = "iterations.csv", "pairs.csv", "figures"
LOG_LINES = 15
ORDER = ("sigmoid", "erf", "arctan", "softsign", "power", "custom", "clip")  # gates, in the paper's order
README_PANELS = 6  # number of the first panels in the picture for a README


class ReportError(RuntimeError):
    """A folder without anything to report; the message says what is missing."""


def is_study(folder: Path) -> bool:
    return bool(_arm_folders(folder))


def write_study_report(study_dir: Path) -> list[Path]:
    """Reports every finished arm in the folder, also those of an earlier command; returns the files written."""
    arms, unfinished = read_arms(study_dir)
    if not arms:
        raise ReportError(f"{study_dir}: no arm has finished, so there is nothing to report; see {LOG_FOLDER}/ there")
    result, claims = summarize(arms), measure_claims(arms)
    figures = {kind: _figures(result, kind) for kind in KINDS}
    title = f"Study of {_counted({arm.gate for arm in arms}, 'gate')} on {_counted({arm.seed for arm in arms}, 'seed')}"
    shared = re.sub(r"(?m)^(gate|seed|run_dir|resume):.*\n( .*\n)*", "", dump_yaml(arms[0].record.config)).rstrip("\n")
    blocks = study_blocks(result, claims, title=title, settings=shared, unfinished=unfinished, figures=figures)
    (study_dir / FIGURE_FOLDER).mkdir(exist_ok=True)
    for each in figures.values():
        for figure in each.items:
            write_atomically(study_dir / FIGURE_FOLDER / f"{figure.name}.svg", figure.svg)
    write_atomically(study_dir / HTML_FILE, html_page(title, blocks))
    write_atomically(study_dir / MARKDOWN_FILE, markdown_page(blocks, figure_folder=FIGURE_FOLDER))
    rows = ({"gate": arm.gate, "seed": arm.seed, "kind": arm.kind, **row} for arm in arms for row in arm.record.rows)
    _write_csv(study_dir / ITERATIONS_FILE, list(rows))
    _write_csv(study_dir / PAIRS_FILE, [_pair_row(pair) for pair in result.pairs])
    kind = next(kind for kind in KINDS if any(row.kind == kind for row in result.gates))
    save_panels(panels(result, kind)[:README_PANELS], study_dir / CURVES_FILE, title=title)
    return [study_dir / name for name in (HTML_FILE, MARKDOWN_FILE, CURVES_FILE, ITERATIONS_FILE, PAIRS_FILE)]


def _counted(things: Collection[object], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def _arm_folders(study_dir: Path) -> list[tuple[Path, "re.Match[str]"]]:
    found = ((path, ARM_NAME.fullmatch(path.name)) for path in sorted(study_dir.iterdir()) if path.is_dir())
    return [(path, match) for path, match in found if match and (path / CONFIG_FILE).exists()]


def read_arms(study_dir: Path) -> tuple[list[StudyArm], list[tuple[str, Sequence[str]]]]:
    """Finished arms by gate and seed, and the names of unfinished arms with the end of their logs."""
    arms: list[StudyArm] = []
    unfinished: list[tuple[str, Sequence[str]]] = []
    for folder, match in _arm_folders(study_dir):
        record = read_run(folder)
        if record.is_finished:
            kind: Kind = "replayed" if match["replayed"] else "live"
            arms.append(StudyArm(gate=match["gate"], seed=int(match["seed"]), kind=kind, record=record))
        else:
            unfinished.append((folder.name, last_lines(study_dir / LOG_FOLDER / f"{folder.name}.log", LOG_LINES)))
    return sorted(arms, key=lambda arm: (ORDER.index(arm.record.config.gate.name), arm.gate, arm.seed)), unfinished


def _figures(result: StudyResult, kind: Kind) -> Figures:
    rows = [row for row in result.gates if row.kind == kind]
    found = []
    for measure in (each for each in result.measures if each.compared):
        in_unit = partial(mul, measure.scale)
        dots = [
            Dots(
                name=row.gate,
                mean=row.means[measure.key].transformed(in_unit),
                values=tuple(map(in_unit, row.values[measure.key].values())),
            )
            for row in rows
            if measure.key in row.means
        ]
        if dots and (measure.key.startswith("eval/") or measure.key == "reward"):
            name = re.sub(r"\W+", "-", measure.key)
            title = measure.label.rpartition(",")[0]
            found.append(
                Figure(
                    name=f"{kind}-means-{name}",
                    svg=dots_svg(title, measure.label, dots),
                    alt=f"{measure.label} of each gate with its interval",
                    caption="Diamond: mean over seeds. Bar: 95 % interval. Dots: seeds.",
                )
            )
    for panel in panels(result, kind) if rows else []:
        name = re.sub(r"\W+", "-", panel.title.replace(">", "pos").replace("≤", "neg").lower())
        alt = f"{panel.title} over the iterations, one line a gate"
        found.append(Figure(name=f"{kind}-curve-{name}", svg=panel_svg(panel), alt=alt, caption=panel.title))
    return Figures(items=tuple(found))


def panels(result: StudyResult, kind: Kind) -> list[Panel]:
    """The plots of PANELS, then one for each reward that they do not show."""
    shown = {metric for *_, metrics in PANELS for metric in metrics}
    others = [
        (f"{name} reward".capitalize(), "points", False, (metric,))
        for name, metric in reward_metrics(band.metric for band in result.bands).items()
        if metric not in shown
    ]
    return [
        Panel(
            title=title,
            unit=unit,
            log=log,
            lines=tuple(
                Line(name=band.gate, style=style, x=band.iterations, y=band.mean, low=band.low, high=band.high)
                for style, metric in enumerate(metrics)
                for band in result.bands
                if (band.metric, band.kind) == (metric, kind)
            ),
        )
        for title, unit, log, metrics in (*PANELS, *others)
    ]


def _pair_row(pair: Pair) -> dict[str, object]:
    difference = asdict(pair.difference)
    return {
        **{name: getattr(pair, name) for name in ("measure", "kind", "first", "second")},
        "num_seeds": difference.pop("num_seeds"),
        "difference": difference.pop("mean"),
        **difference,
        **{name: getattr(pair.verdict, name) for name in ("p_holm", "separable", "more_seeds")},
    }


def _write_csv(path: Path, rows: Sequence[dict[str, object]]) -> None:
    """Writes rows; columns in the order in which they first appear, cells empty where a row has no value."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=columns)
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())
