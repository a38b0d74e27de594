// SPDX-License-Identifier: Apache-2.0
// Open-addressing hash table: inserts (key, count) with 64-bit compare-and-swap, linear probing. Key 0 is "empty".
extern "C" __global__ void hash_insert(const unsigned *keys, unsigned long long *table, unsigned mask, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    unsigned key = keys[i], slot = (key * 0x9E3779B1u) & mask;
    for (;;) {
        unsigned long long seen = table[slot], want;
        unsigned held = (unsigned)(seen >> 32);
        if (held != 0 && held != key) {
            slot = (slot + 1) & mask;
            continue;
        }
        want = ((unsigned long long)key << 32) | ((unsigned)seen + 1);
        if (atomicCAS(&table[slot], seen, want) == seen)
            return;
    }
}
