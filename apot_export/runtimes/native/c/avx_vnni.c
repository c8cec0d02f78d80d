/* AVX-VNNI: 32 products of levels and weights an instruction. */
#include "apot_steps.h"

#if defined(APOT_EVEX_DOT) && defined(__AVX512VNNI__) && defined(__AVX512VL__)
#define DOT _mm256_dpbusd_epi32 /* so that a processor with AVX-512 alone can test this file */
#define LEAF_7_SUBLEAF 0
#define BIT_OF(a, c) ((c) & (1u << 11))
#elif defined(__AVXVNNI__)
#define DOT _mm256_dpbusd_avx_epi32
#define LEAF_7_SUBLEAF 1
#define BIT_OF(a, c) ((a) & (1u << 4))
#endif

#ifdef DOT
#include "avx2.h"

#include <cpuid.h>

const kernels *apot_avx_vnni(void)
{
    static const kernels found = KERNELS("avx_vnni", finish_row, maximum, spread, collect, NULL);
    unsigned a = 0, b = 0, c = 0, d = 0;
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                   __get_cpuid_count(7, LEAF_7_SUBLEAF, &a, &b, &c, &d) && BIT_OF(a, c)
               ? &found
               : NULL;
}
#else
const kernels *apot_avx_vnni(void) { return NULL; }
#endif
