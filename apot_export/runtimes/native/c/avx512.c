/* AVX-512 with VNNI (Cascade Lake onwards). */
#include "apot_steps.h"

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#include "avx512.h"

const kernels *apot_avx512(void)
{
    static const kernels found = KERNELS("avx512", finish_row, maximum, spread, collect, squares);
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") ? &found
                                                                                        : NULL;
}
#else
const kernels *apot_avx512(void) { return NULL; }
#endif
