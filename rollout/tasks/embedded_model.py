"""The embedded model: a tiny random Qwen2 with a word-level tokenizer, warm-started on poor demonstrations.

In: a recipe (defaults below). Out: a Hugging Face folder in a cache, named by the recipe's hash; a second call finds it
there. `python -m rollout.tasks.embedded_model` builds it and prints the path. torch and transformers are imported only
when there is something to build. Knows nothing of RL, vLLM or Ray.
"""

import argparse
import hashlib
import json
import math
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rollout.tasks.arithmetic import DemonstrationFlaws, Sum, demonstration_sums, poor_demonstration

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

PAD, UNKNOWN, END = "<|pad|>", "<|unk|>", "<|end|>"
CONTROL_TOKENS = (PAD, UNKNOWN, END, "<|user|>", "<|assistant|>")
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
VOCABULARY = (*CONTROL_TOKENS, *TAGS, *"0123456789", *"+=,")
IGNORED = -100  # label of a position without loss
Progress = Callable[[int, int], None]  # function of (steps done, steps in all)
# function that makes one completion to imitate, without the end token
Demonstrate = Callable[[Sum, random.Random, DemonstrationFlaws], str]


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddedRecipe:
    """Constants of the embedded model; changing any of them gives another model in another cache folder."""

    revision: int = 1  # number to raise when a change of the code below changes the model
    vocabulary: tuple[str, ...] = VOCABULARY
    hidden_size: int = 128
    num_layers: int = 2
    num_heads: int = 4
    num_key_value_heads: int = 2
    intermediate_size: int = 256
    max_position_embeddings: int = 128
    tied_embeddings: bool = True
    num_steps: int = 500
    num_scratchpad_steps: int = 200  # first steps, without guesses: their noise would hide how an answer is made
    batch_size: int = 64  # demonstrations a step
    peak_lr: float = 2e-3  # peak learning rate; above it the model does not always learn to copy the sum to the answer
    num_warmup_steps: int = 20
    betas: tuple[float, float] = (0.9, 0.98)  # AdamW's betas; 0.999 adapts too slowly in so few steps
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    seed: int = 0
    flaws: DemonstrationFlaws = field(default_factory=DemonstrationFlaws)

    def hash(self) -> str:
        """Name of the recipe, 16 hex digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def flaws_at(self, step: int) -> DemonstrationFlaws:
        """Flaws of a step's demonstrations."""
        return replace(self.flaws, guess_share=0.0) if step < self.num_scratchpad_steps else self.flaws

    def lr_at(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then half a cosine down to 0."""
        if step < self.num_warmup_steps:
            return self.peak_lr * (step + 1) / self.num_warmup_steps
        done = (step - self.num_warmup_steps) / max(1, self.num_steps - self.num_warmup_steps)
        return self.peak_lr * 0.5 * (1.0 + math.cos(math.pi * done))


def default_cache_dir() -> Path:
    """The default cache folder, $SOFTGATE_CACHE/models or ~/.cache/softgate/models."""
    root = os.environ.get("SOFTGATE_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "softgate") / "models"


def ensure_embedded_model(
    recipe: EmbeddedRecipe = EmbeddedRecipe(),
    *,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
    prefix: str = "",
    demonstrate: Demonstrate = poor_demonstration,
) -> Path:
    """The folder of the recipe's model; builds the model first if the cache does not have it.

    Demonstrations other than the recipe's need their own prefix of the folder's name. Concurrent builders are safe:
    each builds in its own folder, the first to rename it succeeds, and the others use its result.
    """
    cache = cache_dir if cache_dir is not None else default_cache_dir()
    target = cache / f"{prefix}{recipe.hash()}"
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=cache))
    try:
        model = _warm_started(recipe, progress=progress, demonstrate=demonstrate)
        model.save_pretrained(building)
        new_tokenizer(recipe).save_pretrained(building)
        (building / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n", encoding="utf-8")
        building.chmod(0o755)  # mkdtemp's 0700 would not let engines of another user read it
        try:
            building.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def _warm_started(recipe: EmbeddedRecipe, *, progress: Progress | None, demonstrate: Demonstrate) -> "Qwen2ForCausalLM":
    """The trained model. Uses one thread; afterwards torch's seed and number of threads are as before."""
    import torch

    num_threads = torch.get_num_threads()
    # Two threads that share their cores with other processes spin, which takes ten times as long.
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            model = new_model(recipe)
            _train(model, recipe, progress=progress, demonstrate=demonstrate)
    finally:
        torch.set_num_threads(num_threads)
    return model


def new_tokenizer(recipe: EmbeddedRecipe) -> "PreTrainedTokenizerFast":
    """A tokenizer with one token for each character, tag and control token; decoding keeps the tags."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {word: index for index, word in enumerate(recipe.vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in CONTROL_TOKENS])
    tokenizer.add_tokens([AddedToken(word, special=False, normalized=False) for word in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        model_max_length=recipe.max_position_embeddings,
        clean_up_tokenization_spaces=False,
    )


def new_model(recipe: EmbeddedRecipe) -> "Qwen2ForCausalLM":
    """The randomly initialised model in float32, drawn from torch's current seed."""
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    end, pad = recipe.vocabulary.index(END), recipe.vocabulary.index(PAD)
    config = Qwen2Config(
        vocab_size=len(recipe.vocabulary),
        hidden_size=recipe.hidden_size,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=recipe.num_heads,
        num_key_value_heads=recipe.num_key_value_heads,
        intermediate_size=recipe.intermediate_size,
        max_position_embeddings=recipe.max_position_embeddings,
        tie_word_embeddings=recipe.tied_embeddings,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
        dtype=torch.float32,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=pad)
    return model


def _train(
    model: "Qwen2ForCausalLM", recipe: EmbeddedRecipe, *, progress: Progress | None, demonstrate: Demonstrate
) -> None:
    """Trains the model in place on demonstrations; the loss is the mean over completion tokens."""
    import torch

    tokenizer = new_tokenizer(recipe)
    rng = random.Random(recipe.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.peak_lr, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=True
    )
    model.train()
    for step in range(recipe.num_steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr_at(step)
        flaws = recipe.flaws_at(step)
        sequences = draw_demonstrations(tokenizer, rng, demonstrate, batch_size=recipe.batch_size, flaws=flaws)
        num_targets = sum(len(tokens) - prompt_length for tokens, prompt_length in sequences)
        for tokens, labels in similar_length_rows(sequences, pad_id=recipe.vocabulary.index(PAD)):
            logits = model(input_ids=tokens, use_cache=False).logits
            loss_sum = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
            )
            (loss_sum / num_targets).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if progress is not None:
            progress(step + 1, recipe.num_steps)
    model.eval()


def draw_demonstrations(
    tokenizer: "PreTrainedTokenizerFast",
    rng: random.Random,
    demonstrate: Demonstrate = poor_demonstration,
    *,
    batch_size: int,
    flaws: DemonstrationFlaws,
) -> list[tuple[list[int], int]]:
    """Demonstrations of one step as (tokens of prompt, completion and end; prompt length), shortest first."""
    sums = demonstration_sums()
    chosen = [sums[rng.randrange(len(sums))] for _ in range(batch_size)]
    prompts = tokenizer([item.problem().text for item in chosen])["input_ids"]
    completions = tokenizer([demonstrate(item, rng, flaws) + END for item in chosen])["input_ids"]
    sequences = [(prompt + completion, len(prompt)) for prompt, completion in zip(prompts, completions, strict=True)]
    return sorted(sequences, key=lambda sequence: len(sequence[0]))


def similar_length_rows(
    sequences: list[tuple[list[int], int]], *, pad_id: int
) -> "list[tuple[torch.Tensor, torch.Tensor]]":
    """Batches (tokens, next-token labels), both [B, T], guesses and scratchpads apart to save a third of the tokens.

    Padding is on the right, so causal attention needs no mask.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    middle = (len(sequences[0][0]) + len(sequences[-1][0])) / 2
    rows = []
    for part in ([s for s in sequences if len(s[0]) <= middle], [s for s in sequences if len(s[0]) > middle]):
        tokens = [torch.tensor(ids) for ids, _ in part]
        labels = [torch.tensor([*[IGNORED] * (length - 1), *ids[length:], IGNORED]) for ids, length in part]
        if part:
            padded = pad_sequence(tokens, batch_first=True, padding_value=pad_id)
            rows.append((padded, pad_sequence(labels, batch_first=True, padding_value=IGNORED)))
    return rows


def main() -> None:
    """The command: builds the model with a progress bar and prints its path."""
    from rich.progress import Progress as ProgressBar
    from transformers.utils import logging as transformers_logging

    parser = argparse.ArgumentParser(
        prog="python -m rollout.tasks.embedded_model", description="Build the embedded model and print its path."
    )
    parser.add_argument(
        "--cache-dir", type=Path, default=default_cache_dir(), help="folder of built models (default: %(default)s)"
    )
    arguments = parser.parse_args()
    transformers_logging.disable_progress_bar()  # its progress bar for writing files would break ours
    with ProgressBar(transient=True) as bar:
        task = bar.add_task("building the embedded model", total=EmbeddedRecipe().num_steps)
        path = ensure_embedded_model(
            cache_dir=arguments.cache_dir, progress=lambda done, total: bar.update(task, completed=done, total=total)
        )
    print(path)


if __name__ == "__main__":
    main()
