/* AVX2 without VNNI: pair sums in 16 bits where a layer's bound allows, else 16-bit factors. */
#include "apot_steps.h"

#if defined(__AVX2__) && defined(__FMA__)
#include "avx2.h"

const kernels *apot_avx2(void)
{
    static const kernels found = KERNELS("avx2", finish_row, maximum, spread, collect, NULL);
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &found : NULL;
}
#else
const kernels *apot_avx2(void) { return NULL; }
#endif
