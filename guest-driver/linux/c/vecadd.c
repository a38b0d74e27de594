/* Adds two vectors on the mediated GPU, from C. Build (README of docs/vfio-user.md):
 *   cc vecadd.c -I../include -L<target dir> -l:libturnstile_linux.a -lpthread -ldl -lm -static
 * Usage: vecadd MODULE.ptx   (tests/kernels/ptx/vecadd.ptx) */
#include <stdio.h>
#include <stdlib.h>
#include "turnstile.h"

enum { N = 4096 };

static char *slurp(const char *path, size_t *bytes) {
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    size_t room = 1 << 20;
    char *text = malloc(room);
    *bytes = text ? fread(text, 1, room, file) : 0;
    fclose(file);
    return text;
}

int main(int argc, char **argv) {
    static float a[N], b[N], sum[N];
    uint32_t n = N;
    TurnstileLaunch launch = {0};
    launch.ptx = argc > 1 ? slurp(argv[1], &launch.ptx_bytes) : NULL;
    if (!launch.ptx) {
        fprintf(stderr, "usage: vecadd MODULE.ptx\n");
        return 2;
    }
    for (int i = 0; i < N; i++) {
        a[i] = (float)i;
        b[i] = (float)(2 * i);
    }
    TurnstileArgument arguments[] = {
        {TURNSTILE_IN, a, sizeof a},
        {TURNSTILE_IN, b, sizeof b},
        {TURNSTILE_OUT, sum, sizeof sum},
        {TURNSTILE_VALUE, &n, sizeof n},
    };
    launch.kernel = "vecadd";
    launch.blocks[0] = (N + 255) / 256;
    launch.blocks[1] = launch.blocks[2] = 1;
    launch.threads[0] = 256;
    launch.threads[1] = launch.threads[2] = 1;
    launch.timeout_ns = 10000000000u;
    launch.arguments = arguments;
    launch.argument_count = sizeof arguments / sizeof *arguments;

    TurnstileDevice *device = turnstile_open(NULL);
    if (!device || turnstile_launch(device, &launch) != TURNSTILE_OK) {
        fprintf(stderr, "vecadd: %s\n", turnstile_error());
        return 1;
    }
    turnstile_close(device);
    for (int i = 0; i < N; i++) {
        if (sum[i] != (float)(3 * i)) {
            fprintf(stderr, "vecadd: element %d is %f\n", i, (double)sum[i]);
            return 1;
        }
    }
    printf("result: pass: %d sums from C\n", N);
    return 0;
}
