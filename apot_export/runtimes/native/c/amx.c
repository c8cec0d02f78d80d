/* AMX (Sapphire Rapids onwards): products of whole matrices; AVX-512 for all that is none. */
#include "apot_steps.h"

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VBMI__)
#define VECTORS
#endif
#if (defined(__AMX_INT8__) && defined(__AMX_BF16__)) || (defined(__AMXINT8__) && defined(__AMXBF16__))
#define REGISTERS_OF_TILES /* gcc's names, and those of older clang */
#endif
#if defined(APOT_EMULATED_TILES) || (defined(__linux__) && defined(REGISTERS_OF_TILES) && defined(VECTORS))
#ifdef VECTORS
#include "avx512.h"
#else
#include "plain.h"
#endif
#include "split.h"
#include "tile_registers.h"

/* Registers 0 to 3 hold the sums of two runs of pixels by two groups of channels, 4 and 5 what is read of
 * the runs, 6 and 7 the weights of the groups. */
static void begin(int64_t pixels, int64_t taps)
{
    register_shapes shapes = {.palette = 1};
    for (int i = 0; i < REGISTERS; i++) {
        shapes.rows[i] = (uint8_t)(i < 6 ? pixels : taps);
        shapes.bytes[i] = (uint16_t)(i == 4 || i == 5 ? taps * 4 : REGISTER_BYTES);
    }
    MEMORY_IS_WRITTEN(&shapes);
    tile_configure(&shapes);
}

static void end(void) { tile_release(); }

#define MULTIPLY(of, sums, a, b) tile_multiply_##of(sums, a, b)

/* Sums of one or two runs of pixels, [run][pixel][channel]. While the registers multiply, the next weights
 * come closer. */
#define MATRIX(of, RUNS, GROUPS)                                                                \
    static void of##_##RUNS##GROUPS(                                                            \
        void *sums, const uint8_t *first, const uint8_t *second, const matrix *m,               \
        const int32_t *offsets, const uint8_t *weights, const uint8_t *ahead, int64_t lines)    \
    {                                                                                           \
        const ptrdiff_t between = (GROUPS) * REGISTER_BYTES, pixel = m->pixel;                  \
        const int64_t chunks = m->chunks, next = m->taps * between;                             \
        uint8_t *to = sums, *other = to + m->pixels * between;                                  \
        MEMORY_IS_WRITTEN(first);                                                               \
        tile_zero(0);                                                                           \
        if ((GROUPS) > 1)                                                                       \
            tile_zero(1);                                                                       \
        if ((RUNS) > 1)                                                                         \
            tile_zero(2);                                                                       \
        if ((RUNS) > 1 && (GROUPS) > 1)                                                         \
            tile_zero(3);                                                                       \
        for (int64_t i = 0; i < chunks; i++, weights += next) {                                 \
            tile_load(4, first + offsets[i], pixel);                                            \
            tile_load(6, weights, between);                                                     \
            MULTIPLY(of, 0, 4, 6);                                                              \
            if ((RUNS) > 1) {                                                                   \
                tile_load(5, second + offsets[i], pixel);                                       \
                MULTIPLY(of, 2, 5, 6);                                                          \
            }                                                                                   \
            if ((GROUPS) > 1) {                                                                 \
                tile_load(7, weights + REGISTER_BYTES, between);                                \
                MULTIPLY(of, 1, 4, 7);                                                          \
            }                                                                                   \
            if ((RUNS) > 1 && (GROUPS) > 1)                                                     \
                MULTIPLY(of, 3, 5, 7);                                                          \
            for (int64_t line = 0; line < lines; line++, ahead += REGISTER_BYTES)               \
                __builtin_prefetch(ahead, 0, 2);                                                \
        }                                                                                       \
        tile_store(0, to, between);                                                             \
        if ((GROUPS) > 1)                                                                       \
            tile_store(1, to + REGISTER_BYTES, between);                                        \
        if ((RUNS) > 1)                                                                         \
            tile_store(2, other, between);                                                      \
        if ((RUNS) > 1 && (GROUPS) > 1)                                                         \
            tile_store(3, other + REGISTER_BYTES, between);                                     \
    }
#define MATRICES(of) MATRIX(of, 1, 1) MATRIX(of, 1, 2) MATRIX(of, 2, 1) MATRIX(of, 2, 2)
MATRICES(bytes)
MATRICES(halves)

static const matrix_kernels matrices = {
    begin, end, split, {{bytes_11, bytes_12}, {bytes_21, bytes_22}},
    {{halves_11, halves_12}, {halves_21, halves_22}}};
static const kernels found = {
    .name = "amx", .integers = ALL_TILES(integers_), .floats = ALL_TILES(floats_),
    .finish = finish_row, .maximum = maximum, .spread = spread, .collect = collect,
#ifdef VECTORS
    .squares = squares,
#endif
    .matrices = &matrices};

#ifdef APOT_EMULATED_TILES
/* Products, loads and stores of registers since the last call. */
APOT_API void apot_emulated_counts(int64_t *counts)
{
    for (int i = 0; i < COUNTS; i++)
        counts[i] = __atomic_exchange_n((int64_t *)&emulated_counts[i], 0, __ATOMIC_RELAXED);
}

const kernels *apot_amx(void)
{
#ifdef VECTORS
    return apot_avx512_vbmi() ? &found : NULL;
#else
    return &found;
#endif
}
#else
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REQUEST_PERMISSION 0x1023 /* ARCH_REQ_XCOMP_PERM of arch_prctl */
#define TILE_DATA 18
#define TILE_STATE (3u << 17) /* XCR0: shapes and content of the registers */
#define SAVED_BY_SYSTEM (1u << 27)
#define NEEDED (1u << 22 | 1u << 24 | 1u << 25) /* bfloat16, registers, int8 */

const kernels *apot_amx(void)
{
    unsigned a = 0, b = 0, c = 0, d = 0, state = 0, high = 0;
    if (!apot_avx512_vbmi() || !__get_cpuid(1, &a, &b, &c, &d) || !(c & SAVED_BY_SYSTEM))
        return NULL;
    __asm__ volatile("xgetbv" : "=a"(state), "=d"(high) : "c"(0));
    if ((state & TILE_STATE) != TILE_STATE || !__get_cpuid_count(7, 0, &a, &b, &c, &d) ||
        (d & NEEDED) != NEEDED)
        return NULL;
    /* Once would do: asking again changes nothing, and needs no memory of having asked. */
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) ? NULL : &found;
}
#endif
#else
const kernels *apot_amx(void) { return NULL; }
#endif
