# SPDX-License-Identifier: Apache-2.0
"""Kernels that numba-cuda compiles to PTX without a GPU (run by scripts/kernels: `numba_kernels.py OUTDIR`).

A one-dimensional array argument becomes seven parameters: two object pointers (null here), the number of items, the
item size, the data pointer, the shape and the stride. numba mangles entry names.
"""
import pathlib
import sys

from numba import cuda, float32, float64, int32, uint32, void
from numba.cuda import compile_ptx


def numba_vecadd(x, y, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = x[i] + y[i]


def numba_reduce(x, out):
    part = cuda.shared.array(128, float64)
    t = cuda.threadIdx.x
    v = 0.0
    for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        v += x[i]
    part[t] = v
    cuda.syncthreads()
    s = 64
    while s > 0:
        if t < s:
            part[t] += part[t + s]
        cuda.syncthreads()
        s //= 2
    if t == 0:
        cuda.atomic.add(out, 0, part[0])


def numba_matmul(a, b, c):
    row, col = cuda.grid(2)
    if row < c.shape[0] and col < c.shape[1]:
        acc = float32(0.0)
        for k in range(a.shape[1]):
            acc += a[row, k] * b[k, col]
        c[row, col] = acc


def numba_julia(out, re, im, limit):
    x, y = cuda.grid(2)
    if x < out.shape[1] and y < out.shape[0]:
        z = complex(-1.5 + 3.0 * x / out.shape[1], -1.0 + 2.0 * y / out.shape[0])
        c = complex(re, im)
        n = 0
        while n < limit and z.real * z.real + z.imag * z.imag <= 4.0:
            z = z * z + c
            n += 1
        out[y, x] = n


def numba_local(x, out):
    i = cuda.grid(1)
    window = cuda.local.array(8, int32)
    if i < out.size:
        for j in range(8):
            window[j] = x[(i + j) % x.size]
        best = window[x[i] % 8]
        for j in range(8):
            best = max(best, window[(j + x[i]) % 8] - j)
        out[i] = best


BUILDS = [
    (numba_vecadd, void(float32[::1], float32[::1], float32[::1])),
    (numba_reduce, void(float64[::1], float64[::1])),
    (numba_matmul, void(float32[:, ::1], float32[:, ::1], float32[:, ::1])),
    (numba_julia, void(uint32[:, ::1], float64, float64, uint32)),
    (numba_local, void(int32[::1], int32[::1])),
]


def main(out):
    for function, signature in BUILDS:
        text, _ = compile_ptx(function, signature.args, cc=(9, 0))
        (pathlib.Path(out) / f"{function.__name__}.ptx").write_text(text)


if __name__ == "__main__":
    main(sys.argv[1])
