"""Settings of checkpoints: a metric without evaluation or checkpoint is refused before anything starts."""

import pytest

from configs.checkpoint import rising_metrics
from configs.loading import ConfigError, dump_yaml, load_config, read_yaml

BEST = "checkpoint.keep_best=eval/arithmetic/pass@1"


def test_the_best_is_kept_where_evaluations_have_checkpoints() -> None:
    assert load_config([]).checkpoint.keep_best is None
    config = load_config([BEST, "eval.every=20"])
    assert config.checkpoint.keep_best == "eval/arithmetic/pass@1"
    assert read_yaml(dump_yaml(config)) == config
    load_config(
        ["checkpoint.keep_best=eval/arithmetic/pass@4", "eval.samples=4", "eval.temperature=1", "eval.every=10"]
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([BEST], r"pass@1: eval.every=0 must be above 0 and a multiple of checkpoint.every=10"),
        ([BEST, "eval.every=15"], r"eval.every=15 must be above 0 and a multiple of checkpoint.every=10"),
        ([BEST.replace("arithmetic", "gsm8k"), "eval.every=10"], r"must be one of eval/arithmetic/pass@1, eval/"),
        ([BEST.replace("@1", "@4"), "eval.every=10"], r"pass@4: must be one of eval/arithmetic/pass@1, eval/"),
        ([BEST.replace("pass@1", "length"), "eval.every=10"], r"length: must be one of"),
        ([BEST, "rollout.replay=groups"], r"this run evaluates no set; leave it out"),
        (["checkpoint.keep_last=0"], r"checkpoint.keep_last=0: must be greater than or equal to 1"),
        (["checkpoint.grace_s=0"], r"checkpoint.grace_s=0: must be greater than 0"),
    ],
)
def test_settings_without_effect_are_refused(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(settings)
    assert len(caught.value.lines) == 1


def test_the_best_means_the_largest() -> None:
    assert rising_metrics("sums", samples=1) == ["eval/sums/pass@1", "eval/sums/format"]
    assert rising_metrics("sums", samples=8) == ["eval/sums/pass@1", "eval/sums/pass@8", "eval/sums/format"]
