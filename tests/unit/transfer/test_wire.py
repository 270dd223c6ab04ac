"""Grouping, packing and digests of a publish."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer.wire import (
    IN_FLIGHT_BYTES,
    BufferPool,
    ParameterGroup,
    ParameterMeta,
    digest,
    fits_in_flight,
    group_parameters,
    pack,
    unpack,
)

CPU = torch.device("cpu")


def meta(name: str, *shape: int, dtype_name: str = "float32") -> ParameterMeta:
    return ParameterMeta(name=name, dtype_name=dtype_name, shape=shape)


def test_groups_follow_the_layers_and_keep_the_order() -> None:
    names = [
        "model.embed_tokens.weight",
        "model.layers.0.mlp.up.weight",
        "model.layers.0.norm.weight",
        "model.layers.1.mlp.experts.7.weight",
        "model.layers.10.norm.weight",
        "model.norm.weight",
        "lm_head.weight",
    ]
    groups = group_parameters(meta(name, 2, 2) for name in names)
    assert [group.label for group in groups] == [
        "model.embed_tokens",
        "model.layers.0",
        "model.layers.1",
        "model.layers.10",
        "model.norm+lm_head",
    ]
    assert [parameter.name for group in groups for parameter in group.parameters] == names


@settings(deadline=None, derandomize=True)
@given(
    shapes=st.lists(st.lists(st.integers(1, 7), max_size=3), min_size=1, max_size=5),
    dtype_name=st.sampled_from(["float32", "bfloat16", "float16"]),
)
def test_what_is_packed_is_unpacked(shapes: list[list[int]], dtype_name: str) -> None:
    group = ParameterGroup(
        label="g", parameters=tuple(meta(f"p{i}", *shape, dtype_name=dtype_name) for i, shape in enumerate(shapes))
    )
    torch.manual_seed(0)
    tensors = [torch.randn(shape) for shape in shapes]
    buffer = BufferPool(CPU).take(group)
    pack(group, tensors, buffer)
    for tensor, view in zip(tensors, unpack(group, buffer), strict=True):
        assert torch.equal(view, tensor.to(view.dtype))


def test_a_wrong_shape_is_refused_by_name() -> None:
    group = ParameterGroup(label="g", parameters=(meta("model.norm.weight", 4),))
    with pytest.raises(ValueError, match=r"model\.norm\.weight: shape \(5,\) where the wire expects \(4,\)"):
        pack(group, [torch.zeros(5)], BufferPool(CPU).take(group))


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    num_words=st.sampled_from([1, 7, 4096, 9000, 15 * 4096, 16 * 4096 + 3, 37 * 4096 + 11]),
    place=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
)
def test_any_flipped_bit_changes_the_digest(num_words: int, place: float, bit: int) -> None:
    torch.manual_seed(0)
    buffer = torch.randint(0, 256, (8 * num_words,), dtype=torch.uint8)
    expected = digest(buffer)
    assert digest(buffer.clone()) == expected
    buffer[int(place * buffer.numel())] ^= 1 << bit
    assert digest(buffer) != expected


def test_swapped_words_change_the_digest() -> None:
    words = torch.arange(37 * 4096, dtype=torch.int64)
    expected = digest(words.clone().view(torch.uint8))
    for first, second in [(0, 1), (0, 4096), (5, 3 * 4096 + 7), (9, 16 * 4096 + 9), (17 * 4096, 36 * 4096 + 1)]:
        swapped = words.clone()
        swapped[[first, second]] = swapped[[second, first]]
        assert digest(swapped.view(torch.uint8)) != expected


def test_the_digest_tells_lengths_apart() -> None:
    assert digest(torch.zeros(16, dtype=torch.uint8)) != digest(torch.zeros(32, dtype=torch.uint8))


def test_one_group_may_always_travel_and_more_within_the_budget() -> None:
    small = ParameterGroup(label="small", parameters=(meta("a", 10),))
    huge = ParameterGroup(label="huge", parameters=(meta("b", IN_FLIGHT_BYTES),))
    assert fits_in_flight(huge, [])
    assert not fits_in_flight(huge, [small])
    assert fits_in_flight(small, [small, small])


def test_a_pool_keeps_what_fits_and_makes_the_rest_anew() -> None:
    pool = BufferPool(CPU)
    small = ParameterGroup(label="small", parameters=(meta("a", 10),))
    huge = ParameterGroup(label="huge", parameters=(meta("b", IN_FLIGHT_BYTES // 4),))
    kept = pool.take(small)
    assert pool.take(small).data_ptr() == kept.data_ptr()
    first = pool.take(huge)
    assert pool.take(huge).data_ptr() != first.data_ptr()
