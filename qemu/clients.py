#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""What scripts/clients-test runs in Python on the module's device: the function it names."""

import mmap
import os
import random
import runpy
import struct
import sys

NODE = "/dev/rust_mmapdev"

fd = os.open(NODE, os.O_RDWR)
size = os.lseek(fd, 0, os.SEEK_END)


def bytes_of_device():
    content = os.pread(fd, size, 0)
    assert len(content) == size
    return content


def test_mmap():
    """The module mmap: shared, private, for reading only, and in a child."""
    content = random.Random(1).randbytes(size)
    with mmap.mmap(fd, size) as shared:
        shared[:] = content
        assert bytes_of_device() == content

        os.pwrite(fd, b"a needle", size - 4099)
        assert shared.find(b"a needle") == size - 4099
        shared.move(1, size - 4099, 8)
        shared.flush()
        assert os.pread(fd, 8, 1) == b"a needle"

        content = bytes_of_device()
        with mmap.mmap(fd, size, access=mmap.ACCESS_COPY) as private:
            private[:] = bytes(size)
            assert bytes_of_device() == content
        with mmap.mmap(fd, size, access=mmap.ACCESS_READ) as read_only:
            assert read_only[:] == content

        if os.fork() == 0:
            shared[size - 1] = shared[size - 1] ^ 0xFF
            os._exit(0)
        assert os.wait()[1] == 0
        assert shared[size - 1] == content[-1] ^ 0xFF


def test_memmap():
    """numpy.memmap: arithmetic in place, through a stride, and on a private copy."""
    import numpy

    count = size // 4
    words = numpy.memmap(NODE, "<u4", "r+", shape=count)
    words[:] = numpy.arange(count)
    words[::2] *= 3
    words[1::2].sort()
    expected = numpy.arange(count, dtype="<u4")
    expected[::2] *= 3
    assert bytes_of_device() == expected.tobytes()

    os.pwrite(fd, struct.pack("<I", 4_000_000_000), 4 * 1001)
    assert words.max() == 4_000_000_000 and words.argmax() == 1001

    private = numpy.memmap(NODE, "<u4", "c", shape=(4, count // 4))
    content = bytes_of_device()
    private.T[:] = 7
    assert private.sum() == 7 * count
    assert bytes_of_device() == content
    words[0] = 99
    words.flush()
    assert bytes_of_device()[:4] == struct.pack("<I", 99)


def test_mean():
    """The client to start from in Python: it doubles samples where they are."""
    samples = [float(i) for i in range(256)]
    os.pwrite(fd, struct.pack("<I4x256d", 256, *samples), 0)
    runpy.run_path("/mean.py")
    doubled = struct.unpack("<256d", os.pread(fd, 8 * 256, 8))
    assert list(doubled) == [2 * i for i in samples]


globals()["test_" + sys.argv[1]]()
