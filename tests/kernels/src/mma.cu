// SPDX-License-Identifier: Apache-2.0
// Tensor-core products through mma.sync, one warp a 16x8 tile of C, C = A B with A row-major [m x k] and B given
// column-major [n x k]. hgemm: f16 -> f32, k16, operands by ldmatrix. bgemm: bf16 -> f32, k16. tgemm: tf32 -> f32, k8.
// hgemm_f16: f16 accumulator. igemm: s8 -> s32, k32. dgemm: f64, m8n8k4.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

extern "C" __global__ void hgemm_mma(const __half *a, const __half *b, float *c, unsigned n, unsigned k)
{
    __shared__ __align__(16) __half as[16][24], bs[8][24];
    unsigned lane = threadIdx.x, g = lane / 4, t = lane % 4, row = blockIdx.y * 16, col = blockIdx.x * 8;
    float d0 = 0, d1 = 0, d2 = 0, d3 = 0;
    for (unsigned s = 0; s < k; s += 16) {
        *(uint4 *)&as[lane / 2][lane % 2 * 8] = *(const uint4 *)&a[(row + lane / 2) * k + s + lane % 2 * 8];
        if (lane < 16)
            *(uint4 *)&bs[lane / 2][lane % 2 * 8] = *(const uint4 *)&b[(col + lane / 2) * k + s + lane % 2 * 8];
        __syncwarp();
        unsigned a0, a1, a2, a3, b0, b1;
        unsigned pa = (unsigned)__cvta_generic_to_shared(&as[lane % 16][lane / 16 * 8]);
        unsigned pb = (unsigned)__cvta_generic_to_shared(&bs[lane % 8][lane / 8 % 2 * 8]);
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(a0), "=r"(a1), "=r"(a2), "=r"(a3)
                     : "r"(pa)
                     : "memory");
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(b0), "=r"(b1) : "r"(pb) : "memory");
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                     "{%0,%1,%2,%3};"
                     : "+f"(d0), "+f"(d1), "+f"(d2), "+f"(d3)
                     : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
        __syncwarp();
    }
    *(float2 *)&c[(row + g) * n + col + t * 2] = make_float2(d0, d1);
    *(float2 *)&c[(row + g + 8) * n + col + t * 2] = make_float2(d2, d3);
}

extern "C" __global__ void bgemm_mma(const __nv_bfloat16 *a, const __nv_bfloat16 *b, float *c, unsigned n, unsigned k)
{
    unsigned lane = threadIdx.x, g = lane / 4, t = lane % 4, row = blockIdx.y * 16, col = blockIdx.x * 8;
    float d0 = 0, d1 = 0, d2 = 0, d3 = 0;
    for (unsigned s = 0; s < k; s += 16) {
        const __nv_bfloat16 *pa = a + (row + g) * k + s + t * 2, *pb = b + (col + g) * k + s + t * 2;
        unsigned a0 = *(const unsigned *)pa, a1 = *(const unsigned *)(pa + 8 * k);
        unsigned a2 = *(const unsigned *)(pa + 8), a3 = *(const unsigned *)(pa + 8 * k + 8);
        unsigned b0 = *(const unsigned *)pb, b1 = *(const unsigned *)(pb + 8);
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                     "{%0,%1,%2,%3};"
                     : "+f"(d0), "+f"(d1), "+f"(d2), "+f"(d3)
                     : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    }
    *(float2 *)&c[(row + g) * n + col + t * 2] = make_float2(d0, d1);
    *(float2 *)&c[(row + g + 8) * n + col + t * 2] = make_float2(d2, d3);
}

extern "C" __global__ void tgemm_mma(const float *a, const float *b, float *c, unsigned n, unsigned k)
{
    unsigned lane = threadIdx.x, g = lane / 4, t = lane % 4, row = blockIdx.y * 16, col = blockIdx.x * 8;
    float d0 = 0, d1 = 0, d2 = 0, d3 = 0;
    for (unsigned s = 0; s < k; s += 8) {
        const float *pa = a + (row + g) * k + s + t, *pb = b + (col + g) * k + s + t;
        float f[6] = {pa[0], pa[8 * k], pa[4], pa[8 * k + 4], pb[0], pb[4]};
        unsigned r[6];
#pragma unroll
        for (int i = 0; i < 6; i++)
            asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r[i]) : "f"(f[i]));
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                     "{%0,%1,%2,%3};"
                     : "+f"(d0), "+f"(d1), "+f"(d2), "+f"(d3)
                     : "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]), "r"(r[4]), "r"(r[5]));
    }
    *(float2 *)&c[(row + g) * n + col + t * 2] = make_float2(d0, d1);
    *(float2 *)&c[(row + g + 8) * n + col + t * 2] = make_float2(d2, d3);
}

// m16n8k8 f16 with an f16 accumulator.
extern "C" __global__ void hgemm_f16(const __half *a, const __half *b, __half *c, unsigned n, unsigned k)
{
    unsigned lane = threadIdx.x, g = lane / 4, t = lane % 4, row = blockIdx.y * 16, col = blockIdx.x * 8;
    unsigned d0 = 0, d1 = 0;
    for (unsigned s = 0; s < k; s += 8) {
        const __half *pa = a + (row + g) * k + s + t * 2, *pb = b + (col + g) * k + s + t * 2;
        unsigned a0 = *(const unsigned *)pa, a1 = *(const unsigned *)(pa + 8 * k), b0 = *(const unsigned *)pb;
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%0,%1}, {%2,%3}, {%4}, {%0,%1};"
                     : "+r"(d0), "+r"(d1)
                     : "r"(a0), "r"(a1), "r"(b0));
    }
    *(unsigned *)&c[(row + g) * n + col + t * 2] = d0;
    *(unsigned *)&c[(row + g + 8) * n + col + t * 2] = d1;
}

extern "C" __global__ void igemm_mma(const signed char *a, const signed char *b, int *c, unsigned n, unsigned k)
{
    unsigned lane = threadIdx.x, g = lane / 4, t = lane % 4, row = blockIdx.y * 16, col = blockIdx.x * 8;
    int d0 = 0, d1 = 0, d2 = 0, d3 = 0;
    for (unsigned s = 0; s < k; s += 32) {
        const signed char *pa = a + (row + g) * k + s + t * 4, *pb = b + (col + g) * k + s + t * 4;
        unsigned a0 = *(const unsigned *)pa, a1 = *(const unsigned *)(pa + 8 * k);
        unsigned a2 = *(const unsigned *)(pa + 16), a3 = *(const unsigned *)(pa + 8 * k + 16);
        unsigned b0 = *(const unsigned *)pb, b1 = *(const unsigned *)(pb + 16);
        asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                     "{%0,%1,%2,%3};"
                     : "+r"(d0), "+r"(d1), "+r"(d2), "+r"(d3)
                     : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    }
    *(int2 *)&c[(row + g) * n + col + t * 2] = make_int2(d0, d1);
    *(int2 *)&c[(row + g + 8) * n + col + t * 2] = make_int2(d2, d3);
}

extern "C" __global__ void dgemm_mma(const double *a, const double *b, double *c, unsigned n, unsigned k)
{
    unsigned lane = threadIdx.x, g = lane / 4, t = lane % 4, row = blockIdx.y * 8, col = blockIdx.x * 8;
    double d0 = 0, d1 = 0;
    for (unsigned s = 0; s < k; s += 4)
        asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1}, {%2}, {%3}, {%0,%1};"
                     : "+d"(d0), "+d"(d1)
                     : "d"(a[(row + g) * k + s + t]), "d"(b[(col + g) * k + s + t]));
    *(double2 *)&c[(row + g) * n + col + t * 2] = make_double2(d0, d1);
}
