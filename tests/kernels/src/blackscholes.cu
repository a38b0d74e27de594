// SPDX-License-Identifier: Apache-2.0
// Price of a European call: expf, logf, sqrtf, erfcf.
extern "C" __global__ void black_scholes(const float *spot, const float *strike, const float *years, float *call,
                                         float rate, float vol, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    float s = spot[i], k = strike[i], t = years[i], sq = sqrtf(t);
    float d1 = (logf(s / k) + (rate + 0.5f * vol * vol) * t) / (vol * sq), d2 = d1 - vol * sq;
    float n1 = 0.5f * erfcf(-0.70710678f * d1), n2 = 0.5f * erfcf(-0.70710678f * d2);
    call[i] = s * n1 - k * expf(-rate * t) * n2;
}
