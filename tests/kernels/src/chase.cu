// SPDX-License-Identifier: Apache-2.0
// Follows real device pointers: each node holds the address of the next one and a value.
struct Node {
    const Node *next;
    unsigned long long value;
};

extern "C" __global__ void chase(const Node *const *heads, unsigned long long *sums, unsigned hops, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    const Node *node = heads[i];
    unsigned long long sum = 0;
    for (unsigned h = 0; h < hops && node; h++) {
        sum = sum * 31 + node->value;
        node = node->next;
    }
    sums[i] = sum;
}
