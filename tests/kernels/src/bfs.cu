// SPDX-License-Identifier: Apache-2.0
// One step of a breadth-first search over CSR: claims unvisited neighbours of the frontier with a compare-and-swap.
extern "C" __global__ void bfs_step(const unsigned *rows, const unsigned *cols, const unsigned *frontier, unsigned size,
                                    unsigned *distance, unsigned *next, unsigned *next_size, unsigned level)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= size)
        return;
    unsigned v = frontier[i];
    for (unsigned j = rows[v]; j < rows[v + 1]; j++) {
        unsigned u = cols[j];
        if (distance[u] == 0xffffffffu && atomicCAS(&distance[u], 0xffffffffu, level) == 0xffffffffu)
            next[atomicAdd(next_size, 1u)] = u;
    }
}
