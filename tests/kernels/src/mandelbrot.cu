// SPDX-License-Identifier: Apache-2.0
// Escape counts; every rounding is written out, so that a host repeats it bit for bit.
extern "C" __global__ void mandelbrot(unsigned *out, unsigned width, unsigned height, float x0, float y0, float step,
                                      unsigned limit)
{
    unsigned px = blockIdx.x * blockDim.x + threadIdx.x, py = blockIdx.y * blockDim.y + threadIdx.y;
    if (px >= width || py >= height)
        return;
    float cx = fmaf((float)px, step, x0), cy = fmaf((float)py, step, y0), x = 0, y = 0;
    unsigned i = 0;
    for (; i < limit; i++) {
        float xx = __fmul_rn(x, x), yy = __fmul_rn(y, y);
        if (__fadd_rn(xx, yy) > 4.0f)
            break;
        y = fmaf(__fmul_rn(2.0f, x), y, cy);
        x = __fadd_rn(__fsub_rn(xx, yy), cx);
    }
    out[py * width + px] = i;
}
