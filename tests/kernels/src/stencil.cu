// SPDX-License-Identifier: Apache-2.0
// One Jacobi step of the five-point stencil with a shared halo; block (16, 16). The border is copied.
extern "C" __global__ void stencil2d(const float *in, float *out, int width, int height)
{
    __shared__ float t[18][18];
    int x = blockIdx.x * 16 + threadIdx.x, y = blockIdx.y * 16 + threadIdx.y;
    for (int i = threadIdx.y * 16 + threadIdx.x; i < 18 * 18; i += 256) {
        int sx = (int)blockIdx.x * 16 + i % 18 - 1, sy = (int)blockIdx.y * 16 + i / 18 - 1;
        sx = min(max(sx, 0), width - 1);
        sy = min(max(sy, 0), height - 1);
        t[i / 18][i % 18] = in[sy * width + sx];
    }
    __syncthreads();
    if (x >= width || y >= height)
        return;
    int lx = threadIdx.x + 1, ly = threadIdx.y + 1;
    bool border = x == 0 || y == 0 || x == width - 1 || y == height - 1;
    float sum = __fadd_rn(__fadd_rn(t[ly][lx - 1], t[ly][lx + 1]), __fadd_rn(t[ly - 1][lx], t[ly + 1][lx]));
    out[y * width + x] = border ? t[ly][lx] : 0.25f * sum;
}

// Seven-point heat step in three dimensions, straight from global memory.
extern "C" __global__ void stencil3d(const float *in, float *out, int nx, int ny, int nz, float k)
{
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    int z = blockIdx.z * blockDim.z + threadIdx.z;
    if (x >= nx || y >= ny || z >= nz)
        return;
    int i = (z * ny + y) * nx + x;
    float c = in[i];
    if (x > 0 && y > 0 && z > 0 && x < nx - 1 && y < ny - 1 && z < nz - 1) {
        float s = in[i - 1] + in[i + 1] + in[i - nx] + in[i + nx] + in[i - nx * ny] + in[i + nx * ny];
        c = c + k * (s - 6.0f * c);
    }
    out[i] = c;
}
