/* 512-bit kernels: 64 products of levels and weights an instruction. Tables of levels are permuted
 * by bytes where the including file has VBMI, else by pairs of bytes. */
#include "apot_steps.h"

#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define LINE 64 /* bytes of a cache line */
#define MOST_COLUMN 6 /* vectors of sums of a plane, of which four are in registers */

INLINE void integer_tile(
    int pixels, int runs, int groups, void *sums, const uint8_t *first, const uint8_t *second,
    ptrdiff_t pixel, const int32_t *offsets, int64_t taps, int64_t narrow_run, const void *weights,
    const uint8_t *ahead)
{
    __m512i sum[2 * LONGEST_RUN][WIDEST_BLOCK];
    const int8_t *w = weights;
    int32_t *to = sums;
    (void)narrow_run;
#pragma GCC unroll 14
    for (int p = 0; p < pixels * runs; p++)
        sum[p][0] = sum[p][1] = _mm512_setzero_si512();
    for (int64_t tap = 0; tap < taps; tap++) {
        const uint8_t *a = first + offsets[tap], *b = second + offsets[tap];
        __m512i low = _mm512_loadu_si512(w), high = low;
        _mm_prefetch((const char *)(ahead + tap * LINE), _MM_HINT_T1);
        if (groups > 1)
            high = _mm512_loadu_si512(w + 64);
        w += 64 * groups;
#pragma GCC unroll 14
        for (int p = 0; p < pixels * runs; p++) {
            int32_t four;
            memcpy(&four, p < pixels ? a + p * pixel : b + (p - pixels) * pixel, sizeof four);
            __m512i levels = _mm512_set1_epi32(four);
            sum[p][0] = _mm512_dpbusd_epi32(sum[p][0], levels, low);
            if (groups > 1)
                sum[p][1] = _mm512_dpbusd_epi32(sum[p][1], levels, high);
        }
    }
#pragma GCC unroll 14
    for (int p = 0; p < pixels * runs; p++)
#pragma GCC unroll 2
        for (int g = 0; g < groups; g++)
            _mm512_storeu_si512(to + (p * groups + g) * LANES, sum[p][g]);
}

INLINE void float_tile(
    int pixels, int runs, int groups, void *sums, const uint8_t *first, const uint8_t *second,
    ptrdiff_t pixel, const int32_t *offsets, int64_t taps, const void *weights, const uint8_t *ahead)
{
    __m512 sum[2 * LONGEST_RUN][WIDEST_BLOCK];
    const float *w = weights;
    float *to = sums;
#pragma GCC unroll 14
    for (int p = 0; p < pixels * runs; p++)
        sum[p][0] = sum[p][1] = _mm512_setzero_ps();
    for (int64_t tap = 0; tap < taps; tap++) {
        const uint8_t *a = first + offsets[tap], *b = second + offsets[tap];
        __m512 low = _mm512_loadu_ps(w), high = low;
        _mm_prefetch((const char *)(ahead + tap * LINE), _MM_HINT_T1);
        if (groups > 1)
            high = _mm512_loadu_ps(w + LANES);
        w += LANES * groups;
#pragma GCC unroll 14
        for (int p = 0; p < pixels * runs; p++) {
            float one;
            memcpy(&one, p < pixels ? a + p * pixel : b + (p - pixels) * pixel, sizeof one);
            __m512 value = _mm512_set1_ps(one);
            sum[p][0] = _mm512_fmadd_ps(value, low, sum[p][0]);
            if (groups > 1)
                sum[p][1] = _mm512_fmadd_ps(value, high, sum[p][1]);
        }
    }
#pragma GCC unroll 14
    for (int p = 0; p < pixels * runs; p++)
#pragma GCC unroll 2
        for (int g = 0; g < groups; g++)
            _mm512_storeu_ps(to + (p * groups + g) * LANES, sum[p][g]);
}

/* Entries of up to 128 bytes of a table, each in the lowest byte of its 32 bits. */
INLINE __m512i looked_up(__m512i index, __m512i low, __m512i high)
{
#ifdef __AVX512VBMI__
    return _mm512_permutex2var_epi8(low, index, high);
#else
    __m512i pairs = _mm512_permutex2var_epi16(low, _mm512_srli_epi32(index, 1), high);
    __m512i odd = _mm512_slli_epi32(_mm512_and_si512(index, _mm512_set1_epi32(1)), 3);
    return _mm512_srlv_epi32(_mm512_and_si512(pairs, _mm512_set1_epi32(0xffff)), odd);
#endif
}

/* What a projection reads for every vector, in registers. */
typedef struct {
    __m512 scale, first, last;
    __m512i table[4];
    uint8_t *to;
    ptrdiff_t pixel;
} levels_of;

INLINE levels_of levels_at(
    const projection *by, uint8_t *arena, int64_t channel, int64_t y, int64_t x)
{
    levels_of found = {
        _mm512_set1_ps(by->scale), _mm512_set1_ps(by->first), _mm512_set1_ps(by->last), {{0}},
        arena + by->to.at + y * by->to.row + x * by->to.pixel + channel, by->to.pixel};
    for (int chunk = 0; by->kind == SHUFFLED && chunk < 4; chunk++)
        found.table[chunk] = _mm512_loadu_si512(by->table + 64 * (chunk < by->chunks ? chunk : 0));
    return found;
}

/* A table of at most 128 entries for numbers that are not negative. */
INLINE int is_short(const projection *by)
{
    return by->kind == SHUFFLED && by->chunks <= 2 && by->first == 0 && !by->below;
}

INLINE __m512i any_level(const projection *by, const levels_of *l, __m512i index)
{
    if (by->kind == UNIFORM)
        return _mm512_srli_epi32(_mm512_add_epi32(index, _mm512_set1_epi32(1)), 1);
    if (by->kind == SHUFFLED) {
        __m512i level = looked_up(index, l->table[0], l->table[1]);
        if (by->chunks <= 2)
            return level;
        __mmask16 above = _mm512_cmpgt_epi32_mask(index, _mm512_set1_epi32(127));
        __m512i rest = _mm512_and_si512(index, _mm512_set1_epi32(127));
        return _mm512_mask_blend_epi32(above, level, looked_up(rest, l->table[2], l->table[3]));
    }
    int32_t indices[LANES];
    _mm512_storeu_si512(indices, index);
    for (int lane = 0; lane < LANES; lane++)
        indices[lane] = by->table[indices[lane]];
    return _mm512_loadu_si512(indices);
}

INLINE void project(const projection *by, int fast, const levels_of *l, __m512 x, int64_t at)
{
    x = _mm512_mul_ps(x, l->scale);
    if (!fast && by->first < 0)
        x = _mm512_sub_ps(
            _mm512_roundscale_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC), l->first);
    if (!fast && by->below)
        x = _mm512_max_ps(x, _mm512_setzero_ps());
    __m512i index = _mm512_cvttps_epi32(_mm512_min_ps(x, l->last));
    index = fast ? looked_up(index, l->table[0], l->table[1]) : any_level(by, l, index);
    _mm_storeu_si128((__m128i *)(l->to + at), _mm512_cvtepi32_epi8(index));
}

/* `fast`: integers and a scale, no upper bound, a short table; the other flags are those of
 * `finish`. Where they are constants, the loop has no branches. */
INLINE void finish_pixels(
    const finishing *f, uint8_t *arena, const uint8_t *sums, ptrdiff_t pixel, int fast, int integers,
    int has_addend, int stored, int64_t projections, int64_t pixels, int64_t groups, int64_t channel,
    int64_t y, int64_t x)
{
    const uint8_t *addend = arena + f->addend.at + y * f->addend.row + x * f->addend.pixel;
    uint8_t *to = arena + f->to.at + y * f->to.row + x * f->to.pixel;
    const ptrdiff_t addend_pixel = f->addend.pixel, to_pixel = f->to.pixel;
    const int affine = fast || f->scale, low_bound = f->bounds > 0, high_bound = !fast && f->bounds > 1;
    levels_of one = {0}, two = {0};
    if (projections > 0)
        one = levels_at(&f->levels[0], arena, channel, y, x);
    if (projections > 1)
        two = levels_at(&f->levels[1], arena, channel, y, x);
    __m512 low = _mm512_set1_ps(f->low), high = _mm512_set1_ps(f->high);
    for (int64_t g = 0; g < groups; g++) {
        int64_t c = channel + g * LANES;
        __m512 scale = low, bias = low;
        if (affine) {
            scale = _mm512_loadu_ps(f->scale + c);
            bias = _mm512_loadu_ps(f->bias + c);
        }
#pragma GCC unroll 2
        for (int64_t p = 0; p < pixels; p++) {
            const uint8_t *from = sums + p * pixel + g * LANES * 4;
            __m512 v = integers ? _mm512_cvtepi32_ps(_mm512_loadu_si512(from))
                                : _mm512_loadu_ps(from);
            if (affine)
                v = _mm512_add_ps(_mm512_mul_ps(v, scale), bias);
            if (has_addend)
                v = _mm512_add_ps(v, _mm512_loadu_ps(addend + p * addend_pixel + 4 * c));
            if (low_bound)
                v = _mm512_max_ps(v, low);
            if (high_bound)
                v = _mm512_min_ps(v, high);
            if (stored)
                _mm512_storeu_ps(to + p * to_pixel + 4 * c, v);
            if (projections > 0)
                project(&f->levels[0], fast, &one, v, p * one.pixel + g * LANES);
            if (projections > 1)
                project(&f->levels[1], fast, &two, v, p * two.pixel + g * LANES);
        }
    }
}

static void finish_row(
    const finishing *f, uint8_t *arena, const void *sums, ptrdiff_t pixel, int integers,
    int64_t pixels, int64_t groups, int64_t channel, int64_t y, int64_t x)
{
    int fast = integers && f->scale && f->bounds < 2 && f->projections < 2 &&
               (!f->projections || is_short(&f->levels[0]));
#define WHERE(a, s, n)                                                                          \
    if (fast && f->has_addend == a && f->stored == s && f->projections == n) {                  \
        finish_pixels(                                                                          \
            f, arena, sums, pixel, 1, 1, a, s, n, pixels, groups, channel, y, x);               \
        return;                                                                                 \
    }
    WHERE(0, 0, 1) WHERE(0, 1, 0) WHERE(0, 1, 1) WHERE(1, 0, 1) WHERE(1, 1, 0) WHERE(1, 1, 1)
#undef WHERE
    finish_pixels(
        f, arena, sums, pixel, 0, integers, (int)f->has_addend, (int)f->stored, f->projections,
        pixels, groups, channel, y, x);
}

#define NUMBERS __m512
INLINE __m512 larger(__m512 a, __m512 b) { return _mm512_max_ps(a, b); }
#include "pools.h"

#include "tiles.h"
#include "winograd.h"

/* _mm512_dpbusd_epi32, whose sums GCC 12 moves between registers and memory here. */
#define DOT(sum, levels, weights)                                                               \
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(levels), "v"(weights))

/* One column of the 4 x 4 planes for some 2 x 2 pixels: sums down the column, [2][4][pixels][groups]. */
INLINE void column_sums(
    int pixels, int groups, const uint8_t *from, ptrdiff_t plane, ptrdiff_t pixel, const int32_t *offsets,
    int64_t taps, const int8_t *w, int64_t column, __m512i *to)
{
    __m512i sum[4][MOST_COLUMN];
    const ptrdiff_t position = taps * groups * LINE;
    const int count = pixels * groups;
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
#pragma GCC unroll 6
        for (int n = 0; n < count; n++)
            sum[i][n] = _mm512_setzero_si512();
    from += column * plane;
    w += column * position;
    for (int64_t tap = 0; tap < taps; tap++, w += groups * LINE) {
        const uint8_t *at = from + offsets[tap];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            __m512i low = _mm512_loadu_si512(w + 4 * i * position), high = low;
            if (groups > 1)
                high = _mm512_loadu_si512(w + 4 * i * position + LINE);
#pragma GCC unroll 6
            for (int p = 0; p < pixels; p++) {
                int32_t four;
                memcpy(&four, at + 4 * i * plane + p * pixel, sizeof four);
                __m512i levels = _mm512_set1_epi32(four);
                DOT(sum[i][p * groups], levels, low);
                if (groups > 1)
                    DOT(sum[i][p * groups + 1], levels, high);
            }
        }
    }
#pragma GCC unroll 6
    for (int n = 0; n < count; n++) {
        to[column * MOST_COLUMN + n] = _mm512_add_epi32(_mm512_add_epi32(sum[0][n], sum[1][n]), sum[2][n]);
        to[(4 + column) * MOST_COLUMN + n] =
            _mm512_sub_epi32(_mm512_sub_epi32(sum[1][n], sum[2][n]), sum[3][n]);
    }
}

INLINE void some_squares(
    int pixels, int groups, const uint8_t *from, ptrdiff_t plane, ptrdiff_t pixel, const int32_t *offsets,
    int64_t taps, const int8_t *w, const int32_t *corrections, int64_t channels, int32_t *to, int64_t row)
{
    __m512i y[8 * MOST_COLUMN];
    for (int64_t column = 0; column < 4; column++)
        column_sums(pixels, groups, from, plane, pixel, offsets, taps, w, column, y);
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++)
#pragma GCC unroll 2
        for (int g = 0; g < groups; g++) {
            const int32_t *add = corrections + 2 * i * channels + g * LANES;
            __m512i add_left = _mm512_loadu_si512(add), add_right = _mm512_loadu_si512(add + channels);
#pragma GCC unroll 6
            for (int p = 0; p < pixels; p++) {
                const __m512i *a = y + 4 * i * MOST_COLUMN + p * groups + g;
                __m512i left = _mm512_add_epi32(_mm512_add_epi32(a[0], a[MOST_COLUMN]), a[2 * MOST_COLUMN]);
                __m512i right = _mm512_sub_epi32(
                    _mm512_sub_epi32(a[MOST_COLUMN], a[2 * MOST_COLUMN]), a[3 * MOST_COLUMN]);
                int32_t *at = to + i * row + (2 * p * groups + g) * LANES;
                /* Four times the accumulators: the shift drops zeros. */
                _mm512_storeu_si512(at, _mm512_srai_epi32(_mm512_add_epi32(left, add_left), 2));
                _mm512_storeu_si512(
                    at + groups * LANES, _mm512_srai_epi32(_mm512_add_epi32(right, add_right), 2));
            }
        }
}

static void squares(
    const uint8_t *from, ptrdiff_t plane, ptrdiff_t pixel, int64_t pixels, int64_t groups,
    const int32_t *offsets, int64_t taps, const void *weights, const int32_t *corrections, int64_t channels,
    int32_t *to)
{
    const int64_t row = 2 * pixels * groups * LANES, most = MOST_COLUMN / groups;
    const int64_t parts = (pixels + most - 1) / most;
    for (int64_t part = 0; part < parts; part++) {
        int64_t first = pixels * part / parts, count = pixels * (part + 1) / parts - first;
        const uint8_t *at = from + first * pixel;
        int32_t *sums = to + 2 * first * groups * LANES;
#define SQUARES(P, G)                                                                           \
    if (count == P && groups == G)                                                              \
        some_squares(P, G, at, plane, pixel, offsets, taps, weights, corrections, channels, sums, row);
        SQUARES(1, 1) SQUARES(2, 1) SQUARES(3, 1) SQUARES(4, 1) SQUARES(5, 1) SQUARES(6, 1)
        SQUARES(1, 2) SQUARES(2, 2) SQUARES(3, 2)
#undef SQUARES
    }
}
