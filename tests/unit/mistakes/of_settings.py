"""Mistakes in single settings of a run, and settings that do not fit each other."""

from mistakes.givens import module
from mistakes.rows import STUDY, Mistake, mistake

OF_SETTINGS: dict[str, tuple[Mistake, ...]] = {
    "Settings that do not exist": (
        mistake("rollout.num_engine=2", "rollout.num_engine=2: no such setting, did you mean rollout.num_engines?"),
        mistake("num_engines=2", "num_engines=2: no such setting, did you mean rollout.num_engines?"),
        mistake("lr=1e-3", "lr=0.001: no such setting, did you mean learner.lr?"),
        mistake("lerner.lr=1", "lerner.lr=1: no such setting, did you mean learner.lr?"),
        mistake("kl_coef=0.1", "kl_coef=0.1: no such setting, did you mean objective.kl_coef?"),
        mistake("xyzzy=1", "xyzzy=1: no such setting, see --help"),
        mistake("gate.tau=3", "gate.tau=3: no such setting, did you mean gate.tau_pos?"),
        mistake(
            "gate.adaptive.target=0.9",
            "gate.adaptive.target=0.9: no such setting, did you mean gate.adaptive.target_eur?",
        ),
        mistake("reward.on_eror=zero", "reward.on_eror=zero: no such setting, did you mean reward.on_error?"),
        mistake(
            ("gate=clip", "gate.tau_pos=5"),
            "gate.tau_pos=5: gate=clip has no such setting, only gate.epsilon_low, gate.epsilon_high, gate.kernel",
        ),
        mistake(
            "graders=5",
            "graders=5: is a section and takes no value; set graders.num_workers, graders.timeout_s, "
            "graders.memory_gib, graders.max_processes, graders.max_restarts",
        ),
    ),
    "Groups and choices": (
        mistake("gates=clip", "gates=clip: no such setting, did you mean gate?"),
        mistake("experimnt=smoke", "experimnt=smoke: no such setting, did you mean experiment?"),
        mistake(
            "cluster=locl",
            "cluster=locl: no such choice, did you mean local? available: default, gpu, local, one_gpu",
        ),
        mistake("cluster=kubernetes", "cluster=kubernetes: no such choice; available: default, gpu, local, one_gpu"),
        mistake("rollout=5", "rollout=5: no such choice; available: default, paper, paper_1gpu, small"),
        mistake(
            "gate=softsing",
            "gate=softsing: no such choice, did you mean softsign? available: arctan, clip, custom, dapo, erf, "
            "grpo, power, sapo, sigmoid, softsign",
        ),
        mistake(
            "gate=null",
            "gate=null: no such choice; available: arctan, clip, custom, dapo, erf, grpo, power, sapo, sigmoid, "
            "softsign",
        ),
        mistake(
            "~gate",
            "gate=null: no such choice; available: arctan, clip, custom, dapo, erf, grpo, power, sapo, sigmoid, "
            "softsign",
        ),
        mistake("gate.name=foo", "gate.name=foo: must be one of sigmoid, erf, arctan, softsign, power, clip, custom"),
        mistake(
            "gate.name=null",
            "gate.name=null: must be one of sigmoid, erf, arctan, softsign, power, clip, custom",
        ),
        mistake("gate@other=clip", "gate@other=clip: groups have a fixed place here; leave out @other"),
    ),
    "What cannot be read as a setting": (
        mistake("softsign", "softsign: settings are given as key=value, see --help"),
        mistake(
            "run_dir={a",
            "run_dir={a: cannot be read as key=value (no viable alternative at input '{a'); special characters "
            "need quotes inside quotes: 'key=\"value\"'",
        ),
        mistake("run_dir=${nowhere}", "run_dir: Interpolation key 'nowhere' not found"),
        mistake("~learner.lr", "~learner.lr: a value cannot be deleted; leave it out for its default"),
        mistake("~gate.name", "~gate.name: a value cannot be deleted; leave it out for its default"),
        mistake("hydra.run.dir=x", "hydra.run.dir=x: Hydra's own settings have no effect here; leave it out"),
        mistake("--cfg", "--cfg: no such flag; there are -m, --multirun, -h, --help"),
    ),
    "Values of another type": (
        mistake("num_iterations=many", "num_iterations=many: must be a valid integer"),
        mistake("num_iterations='3'", "num_iterations=3: must be a valid integer"),
        mistake("seed=true", "seed=true: must be a valid integer"),
        mistake("seed.x=1", "seed.x=1: must be a valid integer"),
        mistake("resume=1", "resume=1: must be a valid boolean"),
        mistake("model.path=''", "model.path=: must have at least 1 character"),
        mistake("gate.tau_pos=nan", "gate.tau_pos=nan: must be a finite number"),
        mistake("learner.lr=inf", "learner.lr=inf: must be a finite number"),
        mistake("reward.extra.own.function=a.b", "reward.extra.own.function=a.b: must match pattern ^[\\w.]+:\\w+$"),
    ),
    "Values out of bounds": (
        mistake("gate.tau_pos=-1", "gate.tau_pos=-1: must be greater than 0"),
        mistake("gate.adaptive.target_eur=1", "gate.adaptive.target_eur=1: must be less than 1"),
        mistake("gate.match=width", "gate.match=width: must be none or half_width"),
        mistake("learner.zero_stage=5", "learner.zero_stage=5: must be 0, 1, 2 or 3"),
        mistake("learner.lr_schedule=cosine", "learner.lr_schedule=cosine: must be linear or constant"),
        mistake("learner.betas=[0.9,1.5]", "learner.betas[1]=1.5: must be less than 1"),
        mistake("learner.lora.rank=-1", "learner.lora.rank=-1: must be greater than or equal to 0"),
        mistake(
            ("learner.lora.rank=2", "learner.lora.target_modules=[]"),
            "learner.lora.target_modules=[]: must have at least 1 item",
        ),
        mistake(
            "rollout.completions_per_prompt=1",
            "rollout.completions_per_prompt=1: must be greater than or equal to 2",
        ),
        mistake("rollout.temperature=0.009", "rollout.temperature=0.009: must be greater than or equal to 0.01"),
        mistake("objective.kl_coef=-1", "objective.kl_coef=-1: must be greater than or equal to 0"),
        mistake("objective.correction=full", "objective.correction=full: must be none, tis or mis"),
        mistake("objective.correction_cap=1", "objective.correction_cap=1: must be greater than 1"),
    ),
    "Settings that do not fit each other": (
        mistake(
            "learner.num_workers=100",
            "learner.num_minibatches=2: needs 200 completions an iteration on learner.num_workers=100, there are "
            "128; lower it or raise rollout.prompts_per_iteration",
        ),
        mistake(
            "rollout.max_new_tokens=64",
            "rollout.max_new_tokens=64: must be less than model.max_model_len=64, which counts the prompt too",
        ),
        mistake(
            "model.max_model_len=2049",
            "learner.max_tokens_per_micro_batch=2048: must be at least model.max_model_len=2049, the longest sequence",
        ),
        mistake(
            ("model.max_model_len=200", "run_dir=run"),
            "model.max_model_len=200: must be at most 128, the positions that model.path=embedded knows "
            "(max_position_embeddings)",
        ),
        mistake(
            "task.held_out=10",
            "eval.num_prompts=400: must be at most task.held_out=10, the prompts kept for evaluation",
        ),
        mistake(
            "gate.adaptive.tau_min=2000",
            "gate.adaptive.tau_min=2000: must be at most gate.adaptive.tau_max=1000",
        ),
        mistake(
            "objective.overlong=punish",
            "objective.overlong_buffer=0: must be at least 1 with objective.overlong=punish: it is the number of "
            "tokens over which the punishment grows",
        ),
        mistake(
            "objective.overlong_buffer=4",
            "objective.overlong_buffer=4: has no effect with objective.overlong=keep; set "
            "objective.overlong=punish or leave it out",
        ),
        mistake(
            ("objective.overlong=punish", "objective.overlong_buffer=33"),
            "objective.overlong_buffer=33: must be at most rollout.max_new_tokens=32, the longest completion",
        ),
        mistake(
            ("objective.correction=tis", "learner.old_logprobs=rollout"),
            "objective.correction=tis: learner.old_logprobs=rollout leaves nothing to correct; set "
            "learner.old_logprobs=recompute or objective.correction=none",
        ),
        mistake(
            ("objective.correction=mis", "cluster.device=cpu"),
            "objective.correction=mis: learner.old_logprobs=auto, which is rollout on a CPU, leaves nothing to "
            "correct; set learner.old_logprobs=recompute or objective.correction=none",
        ),
        mistake(
            ("publish.backend=nccl", "cluster.device=cpu"),
            "publish.backend=nccl: needs GPUs, and cluster.device=cpu; must be auto or gloo",
        ),
        mistake(
            ("rollout.batch_order=finished", "max_staleness=1"),
            "max_staleness=1: must be at least 2 with rollout.batch_order=finished, where generation is one "
            "version ahead and a group may be overtaken; raise it or set rollout.batch_order=prompt",
        ),
        mistake(
            ("rollout.batch_order=finished", "max_staleness=2", "publish.inflight=false"),
            "publish.inflight=false: waits at each publish for the groups that rollout.batch_order=finished lets "
            "go on; must be true, or set rollout.batch_order=prompt",
        ),
        mistake(
            "learner.lora.alpha=8",
            "learner.lora.alpha=8: no effect with learner.lora.rank=0; set learner.lora.rank to at least 1 or "
            "leave it out",
        ),
        mistake(
            "learner.lora.target_modules=[q_proj]",
            "learner.lora.target_modules=[q_proj]: no effect with learner.lora.rank=0; set learner.lora.rank to at "
            "least 1 or leave it out",
        ),
        mistake(
            ("learner.lora.rank=2", "learner.lora.target_modules=[all-linear,q_proj]"),
            "learner.lora.target_modules=[all-linear,q_proj]: all-linear must stand alone; leave it or the others out",
        ),
        mistake(
            ("rollout.max_new_tokens=64", "task.held_out=10", "learner.num_workers=100"),
            "learner.num_minibatches=2: needs 200 completions an iteration on learner.num_workers=100, there are "
            "128; lower it or raise rollout.prompts_per_iteration",
            "rollout.max_new_tokens=64: must be less than model.max_model_len=64, which counts the prompt too",
            "eval.num_prompts=400: must be at most task.held_out=10, the prompts kept for evaluation",
        ),
    ),
    "Sweeps": (
        mistake("gate=erf,clip", "gate=erf,clip: has several values; add -m to run one after the other, or quote it"),
        mistake("seed=1,2", "seed=1,2: has several values; add -m to run one after the other, or quote it"),
        mistake(("-m", "seed=0,-1"), "seed=-1: must be greater than or equal to 0"),
        mistake(
            ("-m", "gate=softsign,clip", "gate.tau_pos=5", "seed=0,-1"),
            "seed=-1: must be greater than or equal to 0",
            "gate.tau_pos=5: gate=clip has no such setting, only gate.epsilon_low, gate.epsilon_high, gate.kernel",
        ),
        mistake(
            ("-m", "seed=0,1", "run_dir=runs/x"),
            "run_dir=runs/x: several runs of the sweep would share it; add what differs between them, as in "
            "run_dir='x-${seed}', or leave it at auto",
        ),
        mistake(
            ("-m", "seed=0,1", "rollout.record=x"),
            "rollout.record=x: several runs of the sweep would share it; add what differs between them, as in "
            "rollout.record='x-${seed}'",
        ),
    ),
    "Rewards and gates of your own": (
        mistake(
            "reward.extra.mean.function=a:b",
            "reward.extra.mean: this name is taken in the metrics (reward/mean); choose another one",
        ),
        mistake(
            "reward.extra.std.function=a:b",
            "reward.extra.std: this name is taken in the metrics (reward/std); choose another one",
        ),
        mistake(
            "reward.extra.format.function=a:b",
            "reward.extra.format: this name is taken in the metrics (reward/format); choose another one",
        ),
        mistake(
            "reward.extra.answer.function=a:b",
            "reward.extra.answer: this name is taken in the metrics (reward/answer); choose another one",
        ),
        mistake(
            "reward.extra.own.weight=2",
            "reward.extra.own.function: missing, and it has no default; give reward.extra.own.function=...",
        ),
        mistake(
            'reward.extra.own.function="no_such_module_here:f"',
            "reward.extra.own.function=no_such_module_here:f: the module cannot be imported (ModuleNotFoundError: …",
        ),
        mistake(
            'reward.extra.own.function="my_rewards:long"',
            "reward.extra.own.function=my_rewards:long: long is not in my_rewards; name a "
            "function(completion_text, reference_answer) -> float",
            given=module("my_rewards.py", "short = 3"),
        ),
        mistake(
            'reward.extra.own.function="my_rewards:short"',
            "reward.extra.own.function=my_rewards:short: short is not callable; name a function(completion_text, "
            "reference_answer) -> float",
            given=module("my_rewards.py", "short = 3"),
        ),
        mistake(
            ("-m", 'reward.extra.own.function="my_rewards:short"', "seed=0,1"),
            "reward.extra.own.function=my_rewards:short: short is not callable; name a function(completion_text, "
            "reference_answer) -> float",
            given=module("my_rewards.py", "short = 3"),
        ),
        mistake(
            ('reward.extra.own.function="my_rewards:short"', "gates=[clip]", "seeds=[0,1]"),
            "reward.extra.own.function=my_rewards:short: short is not callable; name a function(completion_text, "
            "reference_answer) -> float",
            command=STUDY,
            given=module("my_rewards.py", "short = 3"),
        ),
        mistake("gate=custom", "gate.factory: missing, and it has no default; give gate.factory=..."),
        mistake(
            ("gate=custom", 'gate.factory="no_such_module_here:f"'),
            "gate.factory='no_such_module_here:f': cannot import no_such_module_here, must be a module on the "
            "Python path: …",
        ),
    ),
}
