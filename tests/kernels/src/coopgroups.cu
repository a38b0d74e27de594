// SPDX-License-Identifier: Apache-2.0
// The barrier of cooperative groups over a whole grid; the driver passes its workspace in %envreg1 and %envreg2.
#include <cooperative_groups.h>

extern "C" __global__ void grid_group(unsigned *data, unsigned *out, unsigned rounds)
{
    auto grid = cooperative_groups::this_grid();
    unsigned n = gridDim.x * blockDim.x, i = blockIdx.x * blockDim.x + threadIdx.x;
    volatile unsigned *from = data, *to = out;
    for (unsigned r = 0; r < rounds; r++) {
        to[i] = from[(i + blockDim.x) % n] + from[i];
        grid.sync();
        volatile unsigned *t = from;
        from = to;
        to = t;
    }
}
