"""Every difference between the supported vLLM versions, 0.26 to 0.32, that this project meets.

In: objects of vLLM. Out: one behaviour for all versions. Imports nothing of vLLM, so that a test can stand in for any
version. Wherever else vLLM is used, what is used is the same in all of them.
"""

from collections.abc import Callable, Sequence
from typing import Any


def weight_version_setter(labeller: Any) -> Callable[[str], Any] | None:
    """The method that labels tokens with a version: of an AsyncLLM (a coroutine) or an engine core. 0.26: None."""
    names = ("update_weight_version", "set_weight_version")
    return next((getattr(labeller, name) for name in names if hasattr(labeller, name)), None)


def weight_version_spans(output: Any) -> Sequence[Any]:
    """Labels of a CompletionOutput's tokens, each with .version and .start. 0.26: none."""
    return getattr(output, "weight_versions", None) or ()


def kv_cache_usage(scheduler: Any) -> float:
    """Share of the key/value cache in use, 0..1. 0.26: the scheduler has no method for it."""
    if hasattr(scheduler, "get_kv_cache_usage"):
        return float(scheduler.get_kv_cache_usage())
    return float(scheduler.kv_cache_manager.usage)


class NoTrainerHalf:
    """A base that a WeightTransferEngine names first. 0.26: vLLM wants the sending half in the same class."""

    @staticmethod
    def trainer_send_weights(iterator: Any, trainer_args: Any) -> None:
        """Raises RuntimeError: the sending half is learner/sender.py."""
        raise RuntimeError("softgate sends weights from learner/sender.py")
