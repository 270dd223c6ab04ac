"""Mistakes about the machine: models, folders, clusters, versions, memory."""

from mistakes.givens import (
    INDEX,
    LFS_POINTER,
    LONG_FOLDER,
    NO_SYSTEM,
    QUESTIONS,
    SIZES,
    TOO_MANY_TOKENS,
    cut_short,
    file,
    installed,
    little_room,
    model,
    run_folder,
    together,
    variable,
)
from mistakes.rows import EVALUATE, Given, Mistake, mistake

OWN_CHAT = ("task=custom", "task.max_prompt_tokens=32", "model.path=my-model")

OF_MACHINE: dict[str, tuple[Mistake, ...]] = {
    "Models": (
        mistake("model.path=/models/none", "model.path=/models/none: no such folder; correct the path"),
        mistake(
            "model.path=Qwen/Qwen3-0.6B",
            "model.path=Qwen/Qwen3-0.6B: no such folder, and HF_HUB_OFFLINE is set; correct it, or name a folder "
            "that holds the model",
        ),
        mistake(
            "model.path=models--x",
            "model.path=models--x: no such folder, and Cannot have -- or .. in repo_id: 'models--x'; correct it, "
            "or name a folder that holds the model",
        ),
        mistake(
            "model.path=model.safetensors",
            "model.path=model.safetensors: is a file; name the folder of a Hugging Face model",
            given=file("model.safetensors"),
        ),
        mistake(
            "model.path=my-model",
            "model.path=my-model: has no config.json; name the folder of a model",
            given=file("my-model/notes.txt", words="my-model has no config.json"),
        ),
        mistake(
            "model.path=my-model",
            "model.path=my-model: its config.json is not readable (…); correct it",
            given=model("config.json of my-model is cut short", {"config.json": "{"}),
        ),
        mistake(
            "model.path=my-model",
            "model.path=my-model: has no weights (model.safetensors, or several files with an index); download the "
            "whole model",
            given=model("my-model has no weights", {}, without=("model.safetensors",)),
        ),
        mistake(
            "model.path=my-model",
            "model.path=my-model: model.safetensors: has 214 bytes, its header says 224; download it again",
            given=Given(words="the weights of my-model are cut short", prepare=cut_short),
        ),
        mistake(
            "model.path=my-model",
            "model.path=my-model: model.safetensors: is no safetensors file or cut short (63 bytes); download it again",
            given=model("model.safetensors of my-model is a pointer of git-lfs", {"model.safetensors": LFS_POINTER}),
        ),
        mistake(
            "model.path=my-model",
            "model.path=my-model: model-00001-of-00002.safetensors: No such file or directory; download it again",
            given=model("the index of my-model names a file that is missing", {"model.safetensors.index.json": INDEX}),
        ),
        mistake(
            "model.path=my-model",
            "model.path=my-model: has no tokenizer (tokenizer.json); copy it from the model that it was trained from",
            given=model("my-model has no tokenizer", {}, without=("tokenizer.json", "tokenizer_config.json")),
        ),
        mistake(
            "model.path=my-model",
            "model.path=my-model: its tokenizer has token ids up to 8, its embedding 8 rows; name a tokenizer of "
            "this model",
            given=model("my-model has more tokens than rows of its embedding", {"tokenizer.json": TOO_MANY_TOKENS}),
        ),
        mistake(
            "model.path=my-model",
            "model.max_model_len=64: must be at most 32, the positions that model.path=my-model knows "
            "(max_position_embeddings)",
            given=model(
                "my-model knows 32 positions",
                {"config.json": SIZES | {"max_position_embeddings": 32}},
            ),
        ),
        mistake(
            (*OWN_CHAT, "task.train.mine.path=mine.jsonl"),
            "task.prompt.style=chat: the tokenizer of my-model has no chat template; set task.prompt.style=plain "
            "or use an instruct model",
            given=together(model("the tokenizer of my-model has no chat template", {}), QUESTIONS),
        ),
        mistake(
            (*OWN_CHAT, "task.train.mine.path=mine.jsonl"),
            "task.prompt.style=chat: the chat template of my-model refuses a question (no system prompt here); set "
            "task.prompt.system='' or task.prompt.style=plain",
            given=together(
                model("its template knows no system prompt", {"tokenizer_config.json": NO_SYSTEM}), QUESTIONS
            ),
        ),
    ),
    "Folders": (
        mistake(
            "run_dir=notes/run",
            "run_dir=notes/run: cannot be written, because it is, or lies below, a file; name another one",
            given=file("notes"),
        ),
        mistake(
            f"run_dir={300 * 'a'}",
            "run_dir=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa...: cannot be written, because the name is "
            "longer than the file system allows; name another one",
        ),
        mistake(
            "run_dir=runs/full",
            "run_dir=runs/full: 1.0 MB free in /home/you/project/runs/full, 76.0 MB needed for 3 checkpoint(s) and "
            "the model; make room, or name another one",
            "HOME=/home/you/project/home: 1.0 MB free in /home/you/project/home/.cache/softgate/models, 64.0 MB "
            "needed for the embedded model; make room, or set SOFTGATE_CACHE to a folder that can be written",
            "TMPDIR=/tmp: 1.0 MB free in /tmp, 64.0 MB needed for temporary files; make room, or set TMPDIR to a "
            "folder that can be written",
            "RAY_TMPDIR=/tmp: 1.0 MB free in /tmp/ray, 64.0 MB needed for Ray's logs and sockets; make room, or "
            "set RAY_TMPDIR to a short path that can be written",
            given=little_room(1_000_000),
        ),
        mistake(
            "run_dir=run",
            "HOME=/home/you/project/notes/home: /home/you/project/notes/home/.cache/softgate/models cannot be "
            "written, because it is, or lies below, a file; set SOFTGATE_CACHE to a folder that can be written",
            "HOME=/home/you/project/notes/home: /home/you/project/notes/home/.ray cannot be written, because it is, "
            "or lies below, a file; set HOME to a folder that can be written, or RAY_AUTH_TOKEN to a token",
            given=variable("HOME", "notes/home", blocked_by="notes"),
        ),
        mistake(
            "run_dir=run",
            "SOFTGATE_CACHE=/home/you/project/notes/cache: /home/you/project/notes/cache/models cannot be written, "
            "because it is, or lies below, a file; set SOFTGATE_CACHE to a folder that can be written",
            given=variable("SOFTGATE_CACHE", "notes/cache", blocked_by="notes"),
        ),
        mistake(
            ("run_dir=run", "rollout.enforce_eager=false"),
            "HOME=/home/you/project/notes/home: /home/you/project/notes/home/.cache/softgate/models cannot be "
            "written, because it is, or lies below, a file; set SOFTGATE_CACHE to a folder that can be written",
            "HOME=/home/you/project/notes/home: /home/you/project/notes/home/.ray cannot be written, because it is, "
            "or lies below, a file; set HOME to a folder that can be written, or RAY_AUTH_TOKEN to a token",
            "HOME=/home/you/project/notes/home: /home/you/project/notes/home/.cache/vllm cannot be written, "
            "because it is, or lies below, a file; set VLLM_CACHE_ROOT to a folder that can be written",
            given=variable("HOME", "notes/home", blocked_by="notes"),
        ),
        mistake(
            "run_dir=run",
            "RAY_TMPDIR=/home/you/project/notes/ray: /home/you/project/notes/ray/ray cannot be written, because it "
            "is, or lies below, a file; set RAY_TMPDIR to a short path that can be written",
            given=variable("RAY_TMPDIR", "notes/ray", blocked_by="notes"),
        ),
        mistake(
            "run_dir=run",
            "RAY_TMPDIR=/tmp/a-folder-whose-name-leaves-no-room-for-the-names-of-rays-sockets-in-it: "
            "/tmp/a-folder-whose-name-leaves-no-room-for-the-names-of-rays-sockets-in-it/ray has 79 bytes, and "
            "sockets below it need a path of at most 43; set RAY_TMPDIR to a short path that can be written",
            given=variable("RAY_TMPDIR", LONG_FOLDER),
        ),
        mistake(
            ("run_dir=run", "rollout.record=notes/groups"),
            "rollout.record=notes/groups: cannot be written, because it is, or lies below, a file; name another one",
            given=file("notes"),
        ),
    ),
    "New runs and resumed runs": (
        mistake(
            "run_dir=runs/a",
            "run_dir=…runs/a: holds a run already; set resume=true to continue it or name another folder",
            given=run_folder("runs/a"),
        ),
        mistake(
            "run_dir=runs/a",
            "run_dir=runs/a: cannot be written, because it is, or lies below, a file; name another one",
            given=file("runs/a"),
        ),
        mistake(
            ("run_dir=runs/a", "resume=true"),
            "run_dir=runs/a: holds no run to resume; check the path or leave out resume=true",
        ),
        mistake(
            "resume=true",
            "resume=true: no run at runs/arithmetic-softsign-seed0-* to resume; set run_dir=<folder> or leave it out",
        ),
        mistake(
            ("run_dir=runs/a", "resume=true", "learner.lr=0.5"),
            "resume=true: /home/you/project/runs/a was trained with seed=1, now seed=0; learner.lr=…, now "
            "learner.lr=0.5; leave these settings as they were…",
            given=run_folder("runs/a", "seed=1"),
        ),
    ),
    "Clusters": (
        mistake("cluster.address=head", "cluster.address=head: must be auto, local or host:port, as 10.0.0.1:6379"),
        mistake(
            "cluster.address=head:70000",
            "cluster.address=head:70000: must be auto, local or host:port, as 10.0.0.1:6379",
        ),
        mistake(
            "cluster.address=127.0.0.1:1",
            "cluster.address=127.0.0.1:1: nothing answers there (Connection refused); correct it, or start the "
            "cluster with `ray start --head`",
        ),
        mistake(
            "cluster.address=no-such-host.invalid:6379",
            "cluster.address=no-such-host.invalid:6379: nothing answers there (…); correct it, or start the "
            "cluster with `ray start --head`",
        ),
        mistake(
            "cluster.address=ray://127.0.0.1:10001",
            "cluster.address=ray://127.0.0.1:10001: is the address of Ray Client, over which a run cannot be "
            "driven; give the cluster's own, <host>:6379, on one of its machines, or submit the command with `ray "
            "job submit`",
        ),
        mistake(
            "cluster.address=http://127.0.0.1:8265",
            "cluster.address=http://127.0.0.1:8265: is the address of a job server, over which a run cannot be "
            "driven; give the cluster's own, <host>:6379, on one of its machines, or submit the command with `ray "
            "job submit`",
        ),
        mistake(
            "run_dir=run",
            "RAY_ADDRESS=127.0.0.1:1: nothing answers there (Connection refused); correct it, or start the cluster "
            "with `ray start --head`; or unset RAY_ADDRESS, and the run starts a Ray on this machine",
            given=variable("RAY_ADDRESS", "127.0.0.1:1"),
        ),
        mistake(
            "run_dir=run",
            "RAY_ADDRESS=http://127.0.0.1:8265: is the address of a job server, over which a run cannot be driven; "
            "give the cluster's own, <host>:6379, on one of its machines, or submit the command with `ray job "
            "submit`; or unset RAY_ADDRESS, and the run starts a Ray on this machine",
            given=variable("RAY_ADDRESS", "http://127.0.0.1:8265"),
        ),
        mistake(
            ("cluster.address=127.0.0.1:1", "model=embedded", "task=arithmetic"),
            "cluster.address=127.0.0.1:1: nothing answers there (Connection refused); correct it, or start the "
            "cluster with `ray start --head`",
            command=EVALUATE,
        ),
    ),
    "Memory, versions, network": (
        mistake(
            "rollout.kv_cache_gib=100000",
            "model.path=embedded: with … parameters the run needs at least … of memory: engines …, learner ranks "
            "…; this machine has …; name a smaller model or lower rollout.num_engines, rollout.kv_cache_gib or "
            "learner.num_workers",
        ),
        mistake(
            "run_dir=run",
            "ray: version 2.9.0 is installed, supported is …; run `make setup`",
            given=installed("ray", "2.9.0"),
        ),
        mistake(
            "run_dir=run",
            "deepspeed: is not installed, supported is …; run `make setup`",
            given=installed("deepspeed", None),
        ),
        mistake(
            "run_dir=run",
            "GLOO_SOCKET_IFNAME=eth9: no such network interface, only lo…; correct it",
            given=variable("GLOO_SOCKET_IFNAME", "eth9"),
        ),
    ),
    "Several mistakes at once": (
        mistake(
            ("run_dir=notes/run", "model.path=/models/none", "cluster.address=127.0.0.1:1"),
            "cluster.address=127.0.0.1:1: nothing answers there (Connection refused); correct it, or start the "
            "cluster with `ray start --head`",
            "run_dir=notes/run: cannot be written, because it is, or lies below, a file; name another one",
            "model.path=/models/none: no such folder; correct the path",
            given=file("notes"),
        ),
        mistake(
            ("gate=softsing", "rollout.num_engine=2", "learner.lr=-1"),
            "gate=softsing: no such choice, did you mean softsign? available: arctan, clip, custom, dapo, erf, "
            "grpo, power, sapo, sigmoid, softsign",
            "rollout.num_engine=2: no such setting, did you mean rollout.num_engines?",
            "learner.lr=-1: must be greater than 0",
        ),
    ),
}
