// SPDX-License-Identifier: Apache-2.0
// A lock taken by compare-and-swap. lock_blocks: one thread a block. lock_threads: every thread of every warp, so the
// lanes of one warp contend with each other and the machine has to let the holder go on.
__device__ __forceinline__ void acquire(unsigned *lock)
{
    while (atomicCAS(lock, 0u, 1u) != 0u)
        ;
    __threadfence();
}

__device__ __forceinline__ void release(unsigned *lock)
{
    __threadfence();
    atomicExch(lock, 0u);
}

extern "C" __global__ void lock_blocks(unsigned *lock, volatile unsigned *data, unsigned rounds)
{
    if (threadIdx.x != 0)
        return;
    for (unsigned r = 0; r < rounds; r++) {
        acquire(lock);
        unsigned v = data[0];
        data[0] = v + 1;
        data[1] = data[1] + (v & 1);
        release(lock);
    }
}

extern "C" __global__ void lock_threads(unsigned *lock, volatile unsigned *data)
{
    bool done = false;
    while (!done) {
        if (atomicCAS(lock, 0u, 1u) == 0u) {
            __threadfence();
            unsigned v = data[0];
            data[0] = v + 1;
            data[1] = data[1] + (v & 1);
            release(lock);
            done = true;
        }
    }
}
