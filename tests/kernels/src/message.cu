// SPDX-License-Identifier: Apache-2.0
// Passing messages between blocks with acquire and release: even blocks write, the odd neighbour waits and reads.
// Blocks take their number by ticket, so a reader's writer has always started.
extern "C" __global__ void message(unsigned *tickets, unsigned *mail, unsigned *flags, unsigned *out)
{
    __shared__ unsigned block;
    if (threadIdx.x == 0)
        block = atomicAdd(tickets, 1u);
    __syncthreads();
    unsigned pair = block / 2, t = threadIdx.x;
    unsigned *slot = mail + pair * blockDim.x;
    if (block % 2 == 0) {
        slot[t] = pair * 1000 + t * 7;
        __syncthreads();
        if (t == 0) {
            __threadfence();
            asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(__cvta_generic_to_global(flags + pair)), "r"(1u)
                         : "memory");
        }
    } else {
        if (t == 0) {
            unsigned seen;
            do
                asm volatile("ld.acquire.gpu.global.u32 %0, [%1];"
                             : "=r"(seen)
                             : "l"(__cvta_generic_to_global(flags + pair))
                             : "memory");
            while (seen == 0);
        }
        __syncthreads();
        unsigned v;
        asm volatile("ld.relaxed.gpu.u32 %0, [%1];" : "=r"(v) : "l"(slot + (t ^ 1)) : "memory");
        out[pair * blockDim.x + t] = v + 1;
    }
}
