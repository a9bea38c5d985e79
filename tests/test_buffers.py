"""Pools of memory: what they keep, and what they never give out twice."""

import numpy as np

from npgpt.support.buffers import Buffers, empty


def test_a_pool_keeps_what_its_last_block_asked_for():
    """Batches of texts of different lengths have new shapes in each step: a pool of all of them would fill memory."""
    pool = Buffers()
    for length in range(1, 50):
        with pool:
            first = empty((7,), np.dtype(np.float32))
            empty((length, 100), np.dtype(np.float32))
        assert pool.nbytes <= 7 * 4 + length * 400 + 2 * 64
    with pool:
        del first
        kept = {id(array) for arrays in pool.arrays.values() for array in arrays}
        assert id(empty((7,), np.dtype(np.float32))) in kept


def test_buffers_never_give_out_what_somebody_still_sees():
    dtype = np.dtype(np.float32)
    with Buffers() as buffers:
        first = empty((2, 3), dtype)
        view = first.reshape(3, 2).T[1:]
        del first
        view[...] = 7
        second = empty((2, 3), dtype)
        second[...] = 1
        assert (view == 7).all()
        assert not np.shares_memory(view, second)
        del view
        third = empty((2, 3), dtype)  # in the memory of the first
        assert buffers.nbytes == 2 * 24
        assert not np.shares_memory(second, third)
        assert second.ctypes.data % 64 == third.ctypes.data % 64 == 0
    assert empty((2, 3), dtype) is not third
    assert buffers.nbytes == 2 * 24
