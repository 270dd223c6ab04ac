"""The embedded model: its cache, its tokenizer, and loading by Hugging Face."""

import json
import random
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from rollout.prompts import load_tokenizer, prompt_encoder
from rollout.tasks.arithmetic import ArithmeticTask, DemonstrationFlaws, Sum, scratchpad_completion, shuffled_sums
from rollout.tasks.embedded_model import (
    END,
    IGNORED,
    PAD,
    TAGS,
    EmbeddedRecipe,
    default_cache_dir,
    draw_demonstrations,
    ensure_embedded_model,
    new_model,
    new_tokenizer,
    similar_length_rows,
)

QUICK = EmbeddedRecipe(num_steps=2, batch_size=4)
CONTENT = scratchpad_completion(Sum(first=17, second=25))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_embedded_model(QUICK, cache_dir=tmp_path_factory.mktemp("models"))


def test_every_constant_of_the_recipe_enters_its_hash() -> None:
    base = EmbeddedRecipe()
    changes: list[dict[str, Any]] = [
        {"revision": base.revision + 1},
        {"tied_embeddings": False},
        {"num_steps": base.num_steps + 1},
        {"seed": 1},
        {"vocabulary": (*base.vocabulary, "-")},
        {"flaws": DemonstrationFlaws(guess_share=0.5)},
    ]
    hashes = {replace(base, **change).hash() for change in changes} | {base.hash()}
    assert len(hashes) == len(changes) + 1
    assert EmbeddedRecipe().hash() == base.hash()


def test_learning_rate_warms_up_to_its_peak_and_falls_to_almost_nothing() -> None:
    recipe = EmbeddedRecipe()
    rates = [recipe.lr_at(step) for step in range(recipe.num_steps)]
    assert max(rates) == recipe.peak_lr == rates[recipe.num_warmup_steps]
    assert rates[: recipe.num_warmup_steps] == sorted(rates[: recipe.num_warmup_steps])
    assert rates[recipe.num_warmup_steps :] == sorted(rates[recipe.num_warmup_steps :], reverse=True)
    assert 0.0 < rates[-1] < 1e-3 * recipe.peak_lr


def test_guesses_join_after_the_scratchpad_steps_and_the_other_flaws_are_there_from_the_start() -> None:
    recipe = EmbeddedRecipe(num_steps=10, num_scratchpad_steps=3)
    shares = [recipe.flaws_at(step).guess_share for step in range(10)]
    assert shares == [0.0] * 3 + [recipe.flaws.guess_share] * 7
    assert replace(recipe.flaws_at(0), guess_share=recipe.flaws.guess_share) == recipe.flaws


def test_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SOFTGATE_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path / "models"
    monkeypatch.delenv("SOFTGATE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "softgate" / "models"


def test_second_call_finds_the_model_and_builds_nothing(folder: Path) -> None:
    calls: list[tuple[int, int]] = []
    again = ensure_embedded_model(QUICK, cache_dir=folder.parent, progress=lambda *call: calls.append(call))
    assert again == folder
    assert calls == []
    assert [path.name for path in folder.parent.iterdir()] == [QUICK.hash()]


def test_build_reports_progress_and_is_deterministic_and_leaves_torchs_seed_alone(folder: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    other = ensure_embedded_model(QUICK, cache_dir=tmp_path, progress=lambda *call: calls.append(call))
    assert torch.equal(torch.rand(1), expected)
    assert calls == [(1, 2), (2, 2)]
    assert (other / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_failed_build_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_embedded_model(QUICK, cache_dir=tmp_path, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_concurrent_builders_share_one_result(tmp_path: Path) -> None:
    both_started = threading.Barrier(2, timeout=300)
    paths: list[Path] = []

    def meet(done: int, total: int) -> None:
        if done == 1:
            both_started.wait()

    def build() -> None:
        paths.append(ensure_embedded_model(QUICK, cache_dir=tmp_path, progress=meet))

    threads = [threading.Thread(target=build) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=300)
    assert paths == [tmp_path / QUICK.hash()] * 2
    assert list(tmp_path.iterdir()) == [tmp_path / QUICK.hash()]
    assert (paths[0] / "model.safetensors").exists()


def test_folder_is_a_standard_qwen2_checkpoint(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert config["dtype"] == "float32"
    assert (config["hidden_size"], config["num_hidden_layers"], config["tie_word_embeddings"]) == (128, 2, True)
    assert config["max_position_embeddings"] == 128
    tokenizer = load_tokenizer(str(folder), trust_remote_code=False)
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["eos_token_id"] == config["eos_token_id"] == tokenizer.eos_token_id
    assert tokenizer.convert_ids_to_tokens(generation["eos_token_id"]) == END
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.float32
    assert sum(parameter.numel() for parameter in model.parameters()) == 298_880
    assert model(input_ids=torch.tensor([tokenizer.encode(CONTENT)])).logits.isfinite().all()


def test_untied_recipe_saves_a_head_of_its_own(tmp_path: Path) -> None:
    folder = ensure_embedded_model(replace(QUICK, tied_embeddings=False), cache_dir=tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert not model.config.tie_word_embeddings
    assert model.lm_head.weight.data_ptr() != model.model.embed_tokens.weight.data_ptr()
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


def test_tokenizer_round_trips_and_keeps_tags_but_not_the_end(folder: Path) -> None:
    tokenizer = load_tokenizer(str(folder), trust_remote_code=False)
    encode = prompt_encoder(tokenizer)
    assert len(tokenizer) == 22
    text = Sum(first=17, second=25).problem().text + CONTENT + END
    ids = encode(text)
    assert len(ids) == 8 + 21
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert tokenizer.decode(encode(CONTENT + END), skip_special_tokens=True) == CONTENT
    assert all(tag in tokenizer.decode(ids, skip_special_tokens=True) for tag in TAGS)


def test_every_problem_encodes_to_eight_known_tokens(folder: Path) -> None:
    tokenizer = load_tokenizer(str(folder), trust_remote_code=False)
    encoded = tokenizer([item.problem().text for item in shuffled_sums()])["input_ids"]
    assert {len(ids) for ids in encoded} == {8}
    assert tokenizer.unk_token_id not in {token for ids in encoded for token in ids}


def test_rows_hold_each_demonstration_once_and_train_its_completion_only() -> None:
    recipe = EmbeddedRecipe()
    tokenizer = new_tokenizer(recipe)
    sequences = draw_demonstrations(tokenizer, random.Random(0), batch_size=32, flaws=recipe.flaws)
    pad = recipe.vocabulary.index(PAD)
    rows = [row for block in similar_length_rows(sequences, pad_id=pad) for row in zip(*block, strict=True)]
    assert len(rows) == len(sequences) == 32
    for (ids, prompt_length), (tokens, labels) in zip(sequences, rows, strict=True):
        assert tokens[: len(ids)].tolist() == ids
        assert set(tokens[len(ids) :].tolist()) <= {pad}
        assert labels[labels != IGNORED].tolist() == ids[prompt_length:]
        assert labels[prompt_length - 1] == ids[prompt_length]
        assert ids[-1] == recipe.vocabulary.index(END)


def test_demonstrations_show_no_problem_that_can_be_held_out() -> None:
    recipe = EmbeddedRecipe()
    tokenizer = new_tokenizer(recipe)
    held = {problem.text for problem in ArithmeticTask(held_out=4000).eval_sets()["arithmetic"]}
    sequences = draw_demonstrations(tokenizer, random.Random(0), batch_size=500, flaws=recipe.flaws)
    shown = {tokenizer.decode(ids[:length]) for ids, length in sequences}
    assert len(shown) > 400
    assert not shown & held


def test_right_padding_does_not_change_the_logits_before_it() -> None:
    torch.manual_seed(0)
    model = new_model(QUICK).eval()
    ids = torch.randint(5, 22, (1, 9))
    padded = torch.cat([ids, torch.zeros(1, 4, dtype=torch.long)], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=padded).logits[:, :9], model(input_ids=ids).logits)
