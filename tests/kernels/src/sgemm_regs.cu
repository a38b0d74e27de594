// SPDX-License-Identifier: Apache-2.0
// C = A B with 64x64 block tiles and 4x4 results a thread, float4 shared loads; block 256; sizes multiples of 64, k of 16.
extern "C" __global__ void __launch_bounds__(256) sgemm_regs(const float *a, const float *b, float *c, unsigned n,
                                                             unsigned k)
{
    __shared__ __align__(16) float as[16][64], bs[16][64];
    unsigned tid = threadIdx.x, tx = tid % 16, ty = tid / 16;
    const float *ap = a + (size_t)blockIdx.y * 64 * k, *bp = b + blockIdx.x * 64;
    float acc[4][4] = {};
    for (unsigned t = 0; t < k; t += 16) {
        float4 av = *(const float4 *)(ap + (size_t)(tid / 4) * k + t + (tid % 4) * 4);
        as[tid % 4 * 4 + 0][tid / 4] = av.x;
        as[tid % 4 * 4 + 1][tid / 4] = av.y;
        as[tid % 4 * 4 + 2][tid / 4] = av.z;
        as[tid % 4 * 4 + 3][tid / 4] = av.w;
        *(float4 *)&bs[tid / 16][tid % 16 * 4] = *(const float4 *)(bp + (size_t)(t + tid / 16) * n + tid % 16 * 4);
        __syncthreads();
#pragma unroll
        for (unsigned i = 0; i < 16; i++) {
            float4 x = *(const float4 *)&as[i][ty * 4], y = *(const float4 *)&bs[i][tx * 4];
            float xs[4] = {x.x, x.y, x.z, x.w}, ys[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
            for (int r = 0; r < 4; r++)
#pragma unroll
                for (int s = 0; s < 4; s++)
                    acc[r][s] = fmaf(xs[r], ys[s], acc[r][s]);
        }
        __syncthreads();
    }
    for (int r = 0; r < 4; r++)
        *(float4 *)(c + (size_t)(blockIdx.y * 64 + ty * 4 + r) * n + blockIdx.x * 64 + tx * 4) =
            make_float4(acc[r][0], acc[r][1], acc[r][2], acc[r][3]);
}
