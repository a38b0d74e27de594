// SPDX-License-Identifier: Apache-2.0
// One generation of the Game of Life on a torus of bytes.
extern "C" __global__ void life(const unsigned char *in, unsigned char *out, unsigned width, unsigned height)
{
    unsigned x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height)
        return;
    unsigned l = x ? x - 1 : width - 1, r = x + 1 < width ? x + 1 : 0;
    unsigned u = (y ? y - 1 : height - 1) * width, d = (y + 1 < height ? y + 1 : 0) * width, c = y * width;
    unsigned k = in[u + l] + in[u + x] + in[u + r] + in[c + l] + in[c + r] + in[d + l] + in[d + x] + in[d + r];
    out[c + x] = k == 3 || (k == 2 && in[c + x]);
}
