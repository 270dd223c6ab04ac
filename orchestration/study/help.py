"""The text of `python -m orchestration.study --help`.

In: the schema of the study. Out: text with every setting, its default and what it means. Runs nothing.
"""

from orchestration.study.settings import StudyConfig

MEANINGS = {
    "gates": "choices of the group gate, as in gates=[softsign,clip]; the first gate's run is the recorded one",
    "seeds": "seeds of the runs; gates are compared seed by seed",
    "study_dir": "one folder for all arms and the report; name an existing one to continue it or to add arms",
    "arms": "live, replayed (all gates train on the groups recorded from the first gate's run) or both",
    "launcher": "local (child processes of this command) or jobs (Ray jobs on a cluster that runs)",
    "jobs_address": "job server, http://host:8265; auto is what RAY_API_SERVER_ADDRESS or RAY_ADDRESS names",
    "parallel": "number of arms at once",
    "dry_run": "prints the commands of all arms and starts nothing",
}

USAGE = """\
softgate study: trains every gate with every seed and reports which differences are larger than chance.

usage: python -m orchestration.study [key=value ...]

Every other setting goes to each run, as in `python orchestration/run.py` (see its --help); a setting of a gate, such as
gate.tau_pos=5, goes to the gates that have it. Arms of one seed see the same prompts with the same sampling seeds.

Settings of the study and their defaults:
"""

EXAMPLES = """
Examples:
  python -m orchestration.study experiment=separate_gates          5 gates x 3 seeds on the arithmetic task
  python -m orchestration.study gates=[softsign,clip] seeds=[0,1,2,3,4] experiment=separate_gates parallel=2
  python -m orchestration.study experiment=paper launcher=jobs parallel=2 study_dir=/shared/runs/paper
  python -m orchestration.study ... study_dir=runs/study-001       continue, keep what is finished
  python -m orchestration.report runs/study-001                    write the report anew

study_dir then holds report.html, report.md, curves.png, iterations.csv, pairs.csv and one run folder an arm.

Exit status: 0 done, 1 an arm failed, 2 mistakes in the configuration (one line each) and nothing started,
130 interrupted.\
"""


def help_text() -> str:
    lines = [f"  {name}={_shown(name)}\n      {MEANINGS[name]}" for name in StudyConfig.model_fields]
    return USAGE + "\n".join(lines) + "\n" + EXAMPLES


def _shown(name: str) -> str:
    value = StudyConfig.model_fields[name].default
    if isinstance(value, tuple):
        return f"[{','.join(map(str, value))}]"
    return str(value).lower()
