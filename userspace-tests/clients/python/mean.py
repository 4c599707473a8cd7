#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Doubles the samples that ../c/samples.c puts into the buffer, and prints their mean."""

import mmap
import os

import numpy

COUNT = 0  # offset of the number of samples, a 32-bit word
SAMPLES = 8  # offset of the first sample, a double

fd = os.open("/dev/rust_mmapdev", os.O_RDWR)
# stat says size 0, as of any character device: mmap must be given the length.
size = os.lseek(fd, 0, os.SEEK_END)
with mmap.mmap(fd, size) as buffer:
    count = int(numpy.frombuffer(buffer, numpy.uint32, 1, COUNT)[0])
    samples = numpy.frombuffer(buffer, numpy.float64, count, SAMPLES)
    samples *= 2  # in the kernel's memory
    print(f"{count} samples, mean {samples.mean()}")
    del samples  # mmap is not closed under an array
os.close(fd)
