"""Whole parameters out of a ZeRO-partitioned model.

In: parameters of the policy, partitioned over the ranks (stage 3) or not. Out: a context in which every rank has them
whole. Refuses to know which stage runs: DeepSpeed marks the parameters that it partitions.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

from torch import nn


def is_partitioned(parameter: nn.Parameter) -> bool:
    return hasattr(parameter, "ds_id")


def num_elements(parameter: nn.Parameter) -> int:
    """Elements of the whole parameter, whatever share of it this rank holds."""
    return int(parameter.ds_numel) if is_partitioned(parameter) else parameter.numel()  # type: ignore[attr-defined]


def whole_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """Shape of the whole parameter, whatever share of it this rank holds."""
    return tuple(parameter.ds_shape if is_partitioned(parameter) else parameter.shape)  # type: ignore[attr-defined]


def gathered(parameters: Sequence[nn.Parameter]) -> AbstractContextManager[None]:
    """Parameters are whole on every rank within the context, to read only. Collective: all ranks in the same order."""
    partitioned = [parameter for parameter in parameters if is_partitioned(parameter)]
    if not partitioned:
        return nullcontext()
    from deepspeed.runtime.zero import GatheredParameters

    return GatheredParameters(partitioned, modifier_rank=None)


def in_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], *, max_elements: int
) -> Iterator[list[tuple[str, nn.Parameter]]]:
    """Consecutive groups of at most max_elements elements each; a larger parameter is a group of its own."""
    group: list[tuple[str, nn.Parameter]] = []
    filled = 0
    for name, parameter in named_parameters:
        if group and filled + num_elements(parameter) > max_elements:
            yield group
            group, filled = [], 0
        group.append((name, parameter))
        filled += num_elements(parameter)
    if group:
        yield group
