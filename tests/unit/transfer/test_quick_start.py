"""Garbage collection around a process's start."""

import gc

import pytest

from transfer.quick_start import quick_start


def test_nothing_is_collected_inside() -> None:
    with quick_start():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_a_start_that_fails_brings_collection_back() -> None:
    with pytest.raises(ImportError), quick_start():
        raise ImportError
    assert gc.isenabled()
