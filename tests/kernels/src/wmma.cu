// SPDX-License-Identifier: Apache-2.0
// The same product through nvcuda::wmma (opaque fragments, loads straight from global memory): 16x16x16, f16 -> f32.
#include <mma.h>
using namespace nvcuda;

extern "C" __global__ void hgemm_wmma(const __half *a, const __half *b, float *c, unsigned n, unsigned k)
{
    wmma::fragment<wmma::matrix_a, 16, 16, 16, __half, wmma::row_major> fa;
    wmma::fragment<wmma::matrix_b, 16, 16, 16, __half, wmma::col_major> fb;
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> fc;
    wmma::fill_fragment(fc, 0.0f);
    unsigned row = blockIdx.y * 16, col = blockIdx.x * 16;
    for (unsigned s = 0; s < k; s += 16) {
        wmma::load_matrix_sync(fa, a + row * k + s, k);
        wmma::load_matrix_sync(fb, b + col * k + s, k);
        wmma::mma_sync(fc, fa, fb, fc);
    }
    wmma::store_matrix_sync(c + row * n + col, fc, n, wmma::mem_row_major);
}
