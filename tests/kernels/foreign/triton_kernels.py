# SPDX-License-Identifier: Apache-2.0
"""Kernels that Triton compiles to PTX without a GPU (run by scripts/kernels: `triton_kernels.py OUTDIR`).

The source is compiled under a file name without a folder, so that .file and the debug sections hold no path of the
machine that ran this.
"""
import linecache
import pathlib
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile as build

NAME = "triton_kernels.py"
SOURCE = '''
import triton
import triton.language as tl


@triton.jit
def triton_vecadd(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    tl.store(out + i, tl.load(x + i, mask=inside) + tl.load(y + i, mask=inside), mask=inside)


@triton.jit
def triton_softmax(x, out, cols, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    inside = i < cols
    v = tl.load(x + row * cols + i, mask=inside, other=-float("inf"))
    e = tl.exp(v - tl.max(v, axis=0))
    tl.store(out + row * cols + i, e / tl.sum(e, axis=0), mask=inside)


@triton.jit
def triton_matmul(a, b, c, m, n, k, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, ACC: tl.constexpr):
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    cols = tl.program_id(1) * BN + tl.arange(0, BN)
    ks = tl.arange(0, BK)
    pa = a + rows[:, None] * k + ks[None, :]
    pb = b + ks[:, None] * n + cols[None, :]
    acc = tl.zeros((BM, BN), dtype=ACC)
    for s in range(0, k, BK):
        va = tl.load(pa, mask=(rows[:, None] < m) & (ks[None, :] < k - s), other=0.0)
        vb = tl.load(pb, mask=(ks[:, None] < k - s) & (cols[None, :] < n), other=0.0)
        acc = tl.dot(va, vb, acc, input_precision="ieee")
        pa += BK
        pb += BK * n
    tl.store(c + rows[:, None] * n + cols[None, :], acc, mask=(rows[:, None] < m) & (cols[None, :] < n))


@triton.jit
def triton_layernorm(x, gamma, beta, out, cols, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    inside = i < cols
    v = tl.load(x + row * cols + i, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(v, axis=0) / cols
    d = tl.where(inside, v - mean, 0.0)
    scale = 1 / tl.sqrt(tl.sum(d * d, axis=0) / cols + eps)
    y = d * scale * tl.load(gamma + i, mask=inside) + tl.load(beta + i, mask=inside)
    tl.store(out + row * cols + i, y, mask=inside)


@triton.jit
def triton_histogram(x, bins, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + i, mask=i < n, other=0)
    tl.atomic_add(bins + (v & 63), 1, mask=i < n)


@triton.jit
def triton_scan(x, out, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.cumsum(tl.load(x + i), axis=0))
'''
MATMUL = {"a": "*fp32", "b": "*fp32", "c": "*fp32", "m": "i32", "n": "i32", "k": "i32"}
# (file, function, signature, constants, options). On sm_90 Triton turns tl.dot over 16-bit types with four warps and
# tiles of 64 rows into wgmma, which needs sm_90a; two warps keep it on mma.sync.
BUILDS = [
    ("triton_vecadd", "triton_vecadd", {"x": "*fp32", "y": "*fp32", "out": "*fp32", "n": "i32"}, {"BLOCK": 1024},
     {"num_warps": 4}),
    ("triton_vecadd_aligned", "triton_vecadd", {"x": "*fp32", "y": "*fp32", "out": "*fp32", "n": "i32"},
     {"BLOCK": 1024}, {"num_warps": 4, "aligned": True}),
    ("triton_softmax", "triton_softmax", {"x": "*fp32", "out": "*fp32", "cols": "i32"}, {"BLOCK": 512},
     {"num_warps": 4}),
    ("triton_matmul", "triton_matmul", MATMUL, {"BM": 32, "BN": 32, "BK": 32, "ACC": "tl.float32"},
     {"num_warps": 4, "num_stages": 1}),
    ("triton_matmul_f16", "triton_matmul", MATMUL | {"a": "*fp16", "b": "*fp16"},
     {"BM": 32, "BN": 32, "BK": 32, "ACC": "tl.float32"}, {"num_warps": 2, "num_stages": 3, "aligned": True}),
    ("triton_layernorm", "triton_layernorm",
     {"x": "*bf16", "gamma": "*fp32", "beta": "*fp32", "out": "*bf16", "cols": "i32", "eps": "fp32"}, {"BLOCK": 256},
     {"num_warps": 4}),
    ("triton_histogram", "triton_histogram", {"x": "*i32", "bins": "*i32", "n": "i32"}, {"BLOCK": 256},
     {"num_warps": 4}),
    ("triton_scan", "triton_scan", {"x": "*i32", "out": "*i32"}, {"BLOCK": 512}, {"num_warps": 4}),
]


def main(out):
    linecache.cache[NAME] = (len(SOURCE), None, SOURCE.splitlines(keepends=True), NAME)
    scope = {"__name__": "kernels"}
    exec(compile(SOURCE, NAME, "exec"), scope)
    for file, function, signature, constants, options in BUILDS:
        options = dict(options)
        attributes = {}
        if options.pop("aligned", False):
            # What Triton's launcher assumes of arguments divisible by 16: wide loads and cp.async.
            attributes = {(i,): [["tt.divisibility", 16]] for i in range(len(signature))}
        constants = {k: triton.language.float32 if v == "tl.float32" else v for k, v in constants.items()}
        source = ASTSource(scope[function], signature=signature | dict.fromkeys(constants, "constexpr"),
                           constexprs=constants, attrs=attributes)
        kernel = build(source, target=GPUTarget("cuda", 90, 32), options=options)
        (pathlib.Path(out) / f"{file}.ptx").write_text(kernel.asm["ptx"])
        print(file, "shared", kernel.metadata.shared, "warps", kernel.metadata.num_warps)


if __name__ == "__main__":
    main(sys.argv[1])
