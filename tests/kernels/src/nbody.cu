// SPDX-License-Identifier: Apache-2.0
// Accelerations of n bodies (x, y, z, mass), tiles of blockDim bodies in shared memory. n is a multiple of blockDim.
extern "C" __global__ void nbody(const float4 *bodies, float4 *accel, unsigned n, float soft)
{
    extern __shared__ float4 tile[];
    float4 me = bodies[blockIdx.x * blockDim.x + threadIdx.x];
    float ax = 0, ay = 0, az = 0;
    for (unsigned t = 0; t < n; t += blockDim.x) {
        tile[threadIdx.x] = bodies[t + threadIdx.x];
        __syncthreads();
        for (unsigned j = 0; j < blockDim.x; j++) {
            float dx = tile[j].x - me.x, dy = tile[j].y - me.y, dz = tile[j].z - me.z;
            float inv = rsqrtf(dx * dx + dy * dy + dz * dz + soft);
            float s = tile[j].w * inv * inv * inv;
            ax += dx * s;
            ay += dy * s;
            az += dz * s;
        }
        __syncthreads();
    }
    accel[blockIdx.x * blockDim.x + threadIdx.x] = make_float4(ax, ay, az, 0.0f);
}
