"""Mistakes in the data of a task, in recordings, and in the commands that study and evaluate."""

from data_files import LONG_SEQUENCES
from mistakes.givens import file, recording
from mistakes.rows import EVALUATE, STUDY, Mistake, mistake

OWN_DATA = ("task=custom", "task.prompt.style=plain", "task.max_prompt_tokens=32")

OF_DATA: dict[str, tuple[Mistake, ...]] = {
    "Sections of a data task": (
        mistake(
            (*LONG_SEQUENCES, "task=gsm8k", "task.train.gsm8k.pth=x"),
            "task.train.gsm8k.pth=x: no such setting, did you mean task.train.gsm8k.path?",
        ),
        mistake(
            (*LONG_SEQUENCES, "task=gsm8k", "task.trian.gsm8k.path=x.jsonl"),
            "task.trian.gsm8k.path=x.jsonl: no such setting, did you mean task.train.gsm8k.path?",
        ),
        mistake(
            (*LONG_SEQUENCES, "task=gsm8k", "task.eval.gsm8k.weight=2"),
            "task.eval.gsm8k.weight=2: no such setting, did you mean task.train.gsm8k.weight?",
        ),
        mistake(
            (*LONG_SEQUENCES, "task=gsm8k", "task.train.gsm8k.weight=0"),
            "task.train.gsm8k.weight=0: must be greater than 0",
        ),
        mistake(
            (*LONG_SEQUENCES, "task=gsm8k", "task.train.gsm8k.limit=0"),
            "task.train.gsm8k.limit=0: must be greater than or equal to 1",
        ),
        mistake(
            (*LONG_SEQUENCES, "task=gsm8k", "task.train.gsm8k.extraction=box"),
            "task.train.gsm8k.extraction=box: must be plain, hashes, boxed or boxed_or_plain",
        ),
        mistake(
            (*LONG_SEQUENCES, "task=gsm8k", "task.train.gsm8.limit=5"),
            "task.train.gsm8.limit: the set gsm8 has no path, did you mean task.train.gsm8k?",
        ),
        mistake(
            (*LONG_SEQUENCES, "task=gsm8k", "task.eval.mine.limit=5"),
            "task.eval.mine.limit: the set mine has no path; give task.eval.mine.path=...",
        ),
        mistake(
            (*LONG_SEQUENCES, "task=gsm8k", "task.train.gsm8k=5"),
            "task.train.gsm8k=5: is a section and takes no value; set task.train.gsm8k.path, "
            "task.train.gsm8k.subset, task.train.gsm8k.split, task.train.gsm8k.question_column, "
            "task.train.gsm8k.answer_column, task.train.gsm8k.extraction, task.train.gsm8k.limit, "
            "task.train.gsm8k.weight",
        ),
        mistake(
            (*LONG_SEQUENCES, "task=gsm8k", "task.train=5"),
            "task.train=5: is a section and takes no value; set task.train.<name>.path, task.train.<name>.subset, "
            "task.train.<name>.split, task.train.<name>.question_column, task.train.<name>.answer_column, "
            "task.train.<name>.extraction, task.train.<name>.limit, task.train.<name>.weight",
        ),
        mistake(
            (*LONG_SEQUENCES, "task=gsm8k", "task.train.gsm8k=null"),
            "task.train: names no data set to train on; give task.train.<name>.path=...",
        ),
        mistake(
            (*LONG_SEQUENCES, "task=gsm8k", "task.promt.style=plain"),
            "task.promt.style=plain: no such setting, did you mean task.prompt.style?",
        ),
        mistake(
            (*LONG_SEQUENCES, "task=gsm8k", "task.prompt.style=plan"),
            "task.prompt.style=plan: must be chat or plain",
        ),
        mistake(
            (*LONG_SEQUENCES, "task=gsm8k", "task.held_out=5"),
            "task.held_out=5: task=gsm8k has no such setting, only task.train, task.eval, task.max_prompt_tokens, "
            "task.drop_contaminated, task.prompt",
        ),
        mistake(
            (*LONG_SEQUENCES, "task=gsm8k", "task.eval.Mine.path=x.jsonl"),
            "task.eval.Mine=Mine: must match pattern ^[a-z0-9_-]+$",
        ),
        mistake(
            (*LONG_SEQUENCES, "task=gsm8k", "task.train.gsm8k.path=/data/rows.csv"),
            "task.train.gsm8k.path=/data/rows.csv: must be a name on the hub, as openai/gsm8k, or a file that ends "
            "in .jsonl, .json, .parquet",
        ),
        mistake(
            (*LONG_SEQUENCES, "task=custom"),
            "task.train: names no data set to train on; give task.train.<name>.path=...",
        ),
        mistake(
            ("task=gsm8k", "learner=paper", "model.max_model_len=2000", "rollout.max_new_tokens=512"),
            "task.max_prompt_tokens=1536: with rollout.max_new_tokens=512 it must fit into "
            "model.max_model_len=2000; lower it or raise that to at least 2048",
        ),
    ),
    "Files of data sets": (
        mistake(
            (*OWN_DATA, "task.train.mine.path=mine.jsonl"),
            "task.train.mine.path=mine.jsonl: no such file, looked for /home/you/project/mine.jsonl; correct the path",
        ),
        mistake(
            (*OWN_DATA, "task.train.mine.path=mine.jsonl"),
            "task.train.mine.path=mine.jsonl: is an empty file; give a set that has rows",
            given=file("mine.jsonl", words="mine.jsonl is empty"),
        ),
        mistake(
            (*OWN_DATA, "task.train.mine.path=mine.jsonl"),
            "task.train.mine.question_column=question: mine.jsonl has no such column, only prompt, answer; name "
            "one of these",
            given=file("mine.jsonl", {"prompt": "1+1", "answer": 2}, words="mine.jsonl has prompt and answer"),
        ),
        mistake(
            (*OWN_DATA, "task.train.mine.path=mine.jsonl", "task.train.mine.answer_column='answer|final_answer'"),
            "task.train.mine.answer_column=answer|final_answer: mine.jsonl has no such column, only question, "
            "solution; name one of these",
            given=file(
                "mine.jsonl",
                {"question": "1+1", "solution": 2},
                words="mine.jsonl has question and solution",
            ),
        ),
        mistake(
            (*OWN_DATA, "task.train.mine.path=mine.json", "task.eval.held.path=held.parquet"),
            "task.train.mine.question_column=question: mine.json has no such column, only q, answer; name one of these",
            "task.eval.held.path=held.parquet: no such file, looked for /home/you/project/held.parquet; correct "
            "the path",
            given=file("mine.json", [{"q": "1+1", "answer": 2}], words="mine.json has q and answer"),
        ),
    ),
    "Recordings and replays": (
        mistake(
            ("rollout.record=a", "rollout.replay=b"),
            "rollout.record=a: cannot be combined with rollout.replay=b, which has these groups already; set one "
            "of them to null",
        ),
        mistake(
            ("rollout.replay=b", "eval.every=5"),
            "eval.every=5: must be 0 with rollout.replay=b, which starts no engine that could evaluate; evaluate "
            "the final model afterwards",
        ),
        mistake("rollout.replay=groups", "rollout.replay: groups: there is no such folder; check the path"),
        mistake(
            "rollout.replay=groups",
            "rollout.replay: groups: holds no recording (manifest.json is missing); check the path",
            given=file("groups/notes.txt"),
        ),
        mistake(
            "rollout.record=groups",
            "rollout.record=groups: exists and is not an empty folder; name a new one, or resume its run",
            given=file("groups/notes.txt"),
        ),
        mistake(
            ("rollout.replay=groups", "num_iterations=9"),
            "num_iterations=9: rollout.replay=groups holds 0 recorded iterations; lower it to that or record more",
            given=recording("groups", "seed=1"),
        ),
        mistake(
            ("rollout.replay=groups", "rollout.temperature=0.7", "num_iterations=1"),
            "rollout.replay=groups: was recorded with rollout.temperature=1.0, now rollout.temperature=0.7; leave "
            "these settings as they were",
            "num_iterations=1: rollout.replay=groups holds 0 recorded iterations; lower it to that or record more",
            given=recording("groups", "num_iterations=1"),
        ),
    ),
    "Evaluations": (
        mistake((), "model: missing; give model=PATH, a hub name, or model=embedded", command=EVALUATE),
        mistake(
            ("model=m/m", "sets=[gsm9k]"),
            "sets=gsm9k: no such set, did you mean gsm8k? the task has gsm8k, math500, aime24, aime25",
            command=EVALUATE,
        ),
        mistake(
            ("model=m/m", "sets=gsm8k"),
            "sets=gsm8k: must be a list of set names, as sets=[gsm8k,math500]",
            command=EVALUATE,
        ),
        mistake(
            ("model=m/m", "sets=gsm8k,aime24"),
            "sets=gsm8k,aime24: has several values; put a list in brackets",
            command=EVALUATE,
        ),
        mistake(
            ("model=m/m", "sets=[]"),
            "sets=[]: must be a list of set names, as sets=[gsm8k,math500]",
            command=EVALUATE,
        ),
        mistake(("model=m/m", "out=[a]"), "out=[a]: must be a folder, as out=evals/mine", command=EVALUATE),
        mistake(
            ("model=m/m", "smaples=8"),
            "smaples=8: no such setting, did you mean eval.samples?",
            command=EVALUATE,
        ),
        mistake(
            ("model=embedded", "samples=8"),
            "eval.samples=8: with eval.temperature=0 all samples of a problem are the same; set "
            "eval.temperature=0.7 or eval.samples=1",
            command=EVALUATE,
        ),
        mistake(
            ("model=embedded", "samples=0"),
            "eval.samples=0: must be greater than or equal to 1",
            command=EVALUATE,
        ),
        mistake(
            ("model=embedded", "top_p=0.5"),
            "eval.top_p=0.5: has no effect with eval.temperature=0; leave it at 1 or set a temperature",
            command=EVALUATE,
        ),
        mistake(
            ("model=embedded", "top_p=0", "temperature=1"),
            "eval.top_p=0: must be greater than 0",
            command=EVALUATE,
        ),
        mistake(
            ("model=embedded", "temperature=0.001"),
            "eval.temperature=0.001: must be 0 (greedy) or at least 0.01",
            command=EVALUATE,
        ),
        mistake(
            ("model=embedded", "temperature=3"),
            "eval.temperature=3: must be less than or equal to 2",
            command=EVALUATE,
        ),
        mistake(
            ("model=embedded", "max_new_tokens=0"),
            "eval.max_new_tokens=0: must be auto or a whole number from 1",
            command=EVALUATE,
        ),
        mistake(
            ("model=embedded", "max_new_tokens=64"),
            "eval.max_new_tokens=64: with a prompt of 1 token(s) it must fit into model.max_model_len=64; lower it "
            "or raise that to at least 65",
            command=EVALUATE,
        ),
        mistake(
            ("model=m/m", "max_new_tokens=513"),
            "eval.max_new_tokens=513: with a prompt of 1536 token(s) it must fit into model.max_model_len=2048; "
            "lower it or raise that to at least 2049",
            command=EVALUATE,
        ),
        mistake(
            ("model=embedded", "num_prompts=some"),
            "eval.num_prompts=some: must be all or a whole number from 1",
            command=EVALUATE,
        ),
        mistake(
            ("model=embedded", "num_prompts=401"),
            "eval.num_prompts=401: must be at most task.held_out=400, the prompts kept for evaluation",
            command=EVALUATE,
        ),
        mistake(
            ("model=m/m", "task=custom", "task.train.mine.path=a.jsonl"),
            "task.eval: names no set to evaluate on; give task.eval.<name>.path=...",
            command=EVALUATE,
        ),
        mistake(
            ("model=embedded", "dry_run=true"),
            "dry_run=true: has no effect on an evaluation; leave it out",
            command=EVALUATE,
        ),
        mistake(
            ("model=embedded", "rollout.replay=a"),
            "rollout.replay=a: has no effect on an evaluation; leave it out",
            command=EVALUATE,
        ),
        mistake(
            "compare=[a,b,c]",
            "compare=[a,b,c]: must be two folders, as compare=[evals/a,evals/b]",
            command=EVALUATE,
        ),
        mistake(
            ("compare=[a,b]", "samples=8"),
            "samples=8: has no effect beside compare=[A,B]; leave it out",
            command=EVALUATE,
        ),
        mistake("--quick", "--quick: no such flag; there are -h, --help", command=EVALUATE),
        mistake(
            ("model=/models/none", "task=arithmetic"),
            "model.path=/models/none: no such folder; correct the path",
            command=EVALUATE,
        ),
    ),
    "Studies": (
        mistake(
            "gates=[softsing]",
            "gates: softsing: no such choice, did you mean softsign? available: arctan, clip, custom, dapo, erf, "
            "grpo, power, sapo, sigmoid, softsign",
            command=STUDY,
        ),
        mistake("gates=[clip,clip]", "gates=[clip,clip]: clip is named twice; name it once", command=STUDY),
        mistake(
            "gates=a,b",
            "gates=a,b: must be one value or a list in brackets, as in gates=[softsign,clip]",
            command=STUDY,
        ),
        mistake("seeds=3", "seeds=3: must be a list in brackets, as in seeds=[3]", command=STUDY),
        mistake("seeds=[]", "seeds=[]: names nothing to train; name one at least or leave it out", command=STUDY),
        mistake("seeds=[-1]", "seed=-1: must be greater than or equal to 0", command=STUDY),
        mistake("seeds=[a]", "seeds[0]=a: must be a valid integer", command=STUDY),
        mistake("parallel=0", "parallel=0: must be greater than or equal to 1", command=STUDY),
        mistake("launcher=slurm", "launcher=slurm: must be local or jobs", command=STUDY),
        mistake("gate=clip", "gate=clip: the study trains several; write gates=[...]", command=STUDY),
        mistake("seed=1", "seed=1: the study trains with several; write seeds=[...]", command=STUDY),
        mistake("run_dir=x", "run_dir=x: each arm gets a folder of its own; write study_dir=...", command=STUDY),
        mistake(
            "resume=true",
            "resume=true: a study goes on where it stopped by itself; name its folder with study_dir=...",
            command=STUDY,
        ),
        mistake(
            "rollout.replay=x",
            "rollout.replay=x: the study records and replays by itself; write arms=replayed or arms=both",
            command=STUDY,
        ),
        mistake("seds=[1]", "seds=[1]: no such setting, did you mean seed?", command=STUDY),
        mistake("nonsense", "nonsense: settings are given as key=value, see --help", command=STUDY),
        mistake(
            ("gates=[clip]", "gate.tau_pos=5"),
            "gate.tau_pos=5: none of the gates clip has this setting",
            command=STUDY,
        ),
        mistake(
            ("learner.lr=-1", "gate.tau_neg=0"),
            "gate.tau_neg=0: must be greater than 0",
            "learner.lr=-1: must be greater than 0",
            command=STUDY,
        ),
        mistake(
            "model.path=/models/none",
            "model.path=/models/none: no such folder; correct the path",
            command=STUDY,
        ),
    ),
}
