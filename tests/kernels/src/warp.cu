// SPDX-License-Identifier: Apache-2.0
// Every warp primitive; each result is one plane of out. Blocks of whole warps.
extern "C" __global__ void shuffles(const unsigned *in, unsigned *out, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x & 31, v = in[i], k = 0;
#define PLANE(x) out[(k++) * n + i] = (x)
    PLANE(__shfl_sync(0xffffffffu, v, v & 31));
    PLANE(__shfl_sync(0xffffffffu, v, lane + 3, 8));
    PLANE(__shfl_up_sync(0xffffffffu, v, 5));
    PLANE(__shfl_up_sync(0xffffffffu, v, 3, 16));
    PLANE(__shfl_down_sync(0xffffffffu, v, 7));
    PLANE(__shfl_down_sync(0xffffffffu, v, 2, 4));
    PLANE(__shfl_xor_sync(0xffffffffu, v, 21));
    PLANE(__shfl_xor_sync(0xffffffffu, v, 3, 8));
    unsigned r, p;
    asm volatile("{\n\t.reg .pred q;\n\tshfl.sync.up.b32 %0|q, %2, 6, 0, 0xffffffff;\n\tselp.u32 %1, 1, 0, q;\n\t}"
                 : "=r"(r), "=r"(p)
                 : "r"(v));
    PLANE(r);
    PLANE(p);
    asm volatile("{\n\t.reg .pred q;\n\tshfl.sync.bfly.b32 %0|q, %2, 9, 0x0807, 0xffffffff;\n\tselp.u32 %1, 1, 0, q;\n\t}"
                 : "=r"(r), "=r"(p)
                 : "r"(v));
    PLANE(r);
    PLANE(p);
    PLANE((unsigned)(__shfl_xor_sync(0xffffffffu, ((unsigned long long)v << 32) | lane, 1) >> 31));
    unsigned odd = 0;
    if (lane & 1)
        odd = __shfl_sync(0xaaaaaaaau, v, (lane + 2) & 31 | 1);
    PLANE(odd);
}

extern "C" __global__ void votes(const unsigned *in, unsigned *out, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x & 31, v = in[i], k = 0;
    PLANE(__ballot_sync(0xffffffffu, v & 1));
    PLANE(__all_sync(0xffffffffu, v != 0));
    PLANE(__any_sync(0xffffffffu, v == 7));
    PLANE(__uni_sync(0xffffffffu, v >> 31));
    PLANE(__match_any_sync(0xffffffffu, v & 3));
    int same;
    unsigned m = __match_all_sync(0xffffffffu, i / 32 % 2 ? 5 : v, &same);
    PLANE(m);
    PLANE(same);
    PLANE(__popc(__match_any_sync(0xffffffffu, ((unsigned long long)(v & 1) << 40) | (v & 4))));
    PLANE(__reduce_add_sync(0xffffffffu, v));
    PLANE(__reduce_min_sync(0xffffffffu, v));
    PLANE(__reduce_max_sync(0xffffffffu, v));
    PLANE((unsigned)__reduce_min_sync(0xffffffffu, (int)v));
    PLANE((unsigned)__reduce_max_sync(0xffffffffu, (int)v));
    PLANE(__reduce_and_sync(0xffffffffu, v | 0xff));
    PLANE(__reduce_or_sync(0xffffffffu, v & 0xff00));
    PLANE(__reduce_xor_sync(0xffffffffu, v));
    unsigned low = 0;
    if (lane < 11)
        low = __reduce_add_sync(0x7ffu, v & 0xffff) + __ballot_sync(0x7ffu, v & 2);
    __syncwarp();
    PLANE(low);
    PLANE(__activemask() == 0xffffffffu);
    unsigned elected;
    asm volatile("{\n\t.reg .pred q;\n\telect.sync _|q, 0xffffffff;\n\tselp.u32 %0, 1, 0, q;\n\t}" : "=r"(elected));
    PLANE(__popc(__ballot_sync(0xffffffffu, elected)));
}
