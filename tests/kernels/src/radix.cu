// SPDX-License-Identifier: Apache-2.0
// One stable pass of a radix sort over 4 bits of (key, value) pairs, one block of 256 a run of 256 pairs:
// ranks by match.any inside a warp, digit counts of all warps in shared memory, exclusive scan by one thread a digit.
extern "C" __global__ void radix_pass(const unsigned *keys, const unsigned *values, unsigned *keys_out,
                                      unsigned *values_out, unsigned shift)
{
    __shared__ unsigned count[8][16], start[16];
    unsigned tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, i = blockIdx.x * 256 + tid;
    if (tid < 128)
        count[tid / 16][tid % 16] = 0;
    __syncthreads();
    unsigned key = keys[i], value = values[i], digit = (key >> shift) & 15;
    unsigned same = __match_any_sync(0xffffffffu, digit);
    unsigned rank = __popc(same & ((1u << lane) - 1));
    if (rank == 0)
        count[warp][digit] = __popc(same);
    __syncthreads();
    if (tid < 16) {
        unsigned total = 0;
        for (unsigned w = 0; w < 8; w++) {
            unsigned c = count[w][tid];
            count[w][tid] = total;
            total += c;
        }
        unsigned sum = total;
        for (unsigned d = 1; d < 16; d <<= 1) {
            unsigned up = __shfl_up_sync(0xffffu, sum, d, 16);
            if (tid >= d)
                sum += up;
        }
        start[tid] = sum - total;
    }
    __syncthreads();
    unsigned to = blockIdx.x * 256 + start[digit] + count[warp][digit] + rank;
    keys_out[to] = key;
    values_out[to] = value;
}
