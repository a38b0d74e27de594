// SPDX-License-Identifier: Apache-2.0
// Special registers that a host can foretell, over three-dimensional grids and blocks.
extern "C" __global__ void special(unsigned *out)
{
    unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    unsigned i = block * (blockDim.x * blockDim.y * blockDim.z) + thread, n, k = 0;
    n = gridDim.x * gridDim.y * gridDim.z * blockDim.x * blockDim.y * blockDim.z;
#define PLANE(x) out[(k++) * n + i] = (x)
    PLANE(threadIdx.x | threadIdx.y << 8 | threadIdx.z << 16);
    PLANE(blockIdx.x | blockIdx.y << 8 | blockIdx.z << 16);
    PLANE(blockDim.x | blockDim.y << 8 | blockDim.z << 16);
    PLANE(gridDim.x | gridDim.y << 8 | gridDim.z << 16);
    unsigned r, s;
    asm volatile("mov.u32 %0, %%laneid;" : "=r"(r));
    PLANE(r);
    asm volatile("mov.u32 %0, WARP_SZ;" : "=r"(r));
    PLANE(r);
    asm volatile("mov.u32 %0, %%lanemask_eq;" : "=r"(r));
    PLANE(r);
    asm volatile("mov.u32 %0, %%lanemask_lt;" : "=r"(r));
    PLANE(r);
    asm volatile("mov.u32 %0, %%lanemask_le;" : "=r"(r));
    PLANE(r);
    asm volatile("mov.u32 %0, %%lanemask_gt;" : "=r"(r));
    PLANE(r);
    asm volatile("mov.u32 %0, %%lanemask_ge;" : "=r"(r));
    PLANE(r);
    unsigned long long t0, t1;
    asm volatile("mov.u64 %0, %%clock64;" : "=l"(t0));
    asm volatile("mov.u64 %0, %%clock64;" : "=l"(t1));
    PLANE(t1 >= t0);
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t0));
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t1));
    PLANE(t1 >= t0);
    asm volatile("mov.u32 %0, %%dynamic_smem_size;" : "=r"(r));
    PLANE(r);
    asm volatile("mov.u32 %0, %%total_smem_size;" : "=r"(s));
    PLANE(s >= r);
    asm volatile("mov.u32 %0, %%cluster_nctaid.x;" : "=r"(r));
    PLANE(r);
    asm volatile("mov.u32 %0, %%nsmid;" : "=r"(r));
    asm volatile("mov.u32 %0, %%smid;" : "=r"(s));
    PLANE(s < r);
    asm volatile("mov.u32 %0, %%nwarpid;" : "=r"(r));
    asm volatile("mov.u32 %0, %%warpid;" : "=r"(s));
    PLANE(s < r);
}
