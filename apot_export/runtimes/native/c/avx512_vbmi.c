/* AVX-512 with VNNI and VBMI (Ice Lake and Zen 4 onwards). */
#include "apot_steps.h"

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VBMI__)
#include "avx512.h"

const kernels *apot_avx512_vbmi(void)
{
    static const kernels found = KERNELS("avx512_vbmi", finish_row, maximum, spread, collect, squares);
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512vbmi")
               ? &found
               : NULL;
}
#else
const kernels *apot_avx512_vbmi(void) { return NULL; }
#endif
