/* 256-bit kernels; products of levels and weights by VNNI where the including file has it. */
#include "apot_steps.h"

#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define PART 4 /* pixels whose sums stay in registers */

INLINE __m256i four_levels(const uint8_t *at)
{
    int32_t four;
    memcpy(&four, at, sizeof four);
    return _mm256_set1_epi32(four);
}

#ifdef DOT
/* A part of a tile: pixels x LANES sums. `from` are the pixels' windows. */
INLINE void integer_part(
    int pixels, int32_t *sums, int64_t between, const uint8_t *const *from, const int32_t *offsets,
    int64_t taps, int64_t narrow_run, const int8_t *w, int64_t next)
{
    __m256i low[PART], high[PART];
    (void)narrow_run;
    for (int p = 0; p < pixels; p++)
        low[p] = high[p] = _mm256_setzero_si256();
    for (int64_t tap = 0; tap < taps; tap++, w += next) {
        __m256i left = _mm256_loadu_si256((const __m256i *)w);
        __m256i right = _mm256_loadu_si256((const __m256i *)(w + 32));
#pragma GCC unroll 4
        for (int p = 0; p < pixels; p++) {
            __m256i levels = four_levels(from[p] + offsets[tap]);
            low[p] = DOT(low[p], levels, left);
            high[p] = DOT(high[p], levels, right);
        }
    }
    for (int p = 0; p < pixels; p++) {
        _mm256_storeu_si256((__m256i *)(sums + p * between), low[p]);
        _mm256_storeu_si256((__m256i *)(sums + p * between + 8), high[p]);
    }
}
#else
/* Sums of pairs of products stay in 16 bits for as many taps as the bound of the layer allows. */
INLINE void narrow_part(
    int pixels, __m256i *low, __m256i *high, const uint8_t *const *from, const int32_t *offsets,
    int64_t taps, const int8_t *w, int64_t next)
{
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i left_sum[PART], right_sum[PART];
    for (int p = 0; p < pixels; p++)
        left_sum[p] = right_sum[p] = _mm256_setzero_si256();
    for (int64_t tap = 0; tap < taps; tap++, w += next) {
        __m256i left = _mm256_loadu_si256((const __m256i *)w);
        __m256i right = _mm256_loadu_si256((const __m256i *)(w + 32));
#pragma GCC unroll 4
        for (int p = 0; p < pixels; p++) {
            __m256i levels = four_levels(from[p] + offsets[tap]);
            left_sum[p] = _mm256_add_epi16(left_sum[p], _mm256_maddubs_epi16(levels, left));
            right_sum[p] = _mm256_add_epi16(right_sum[p], _mm256_maddubs_epi16(levels, right));
        }
    }
    for (int p = 0; p < pixels; p++) {
        low[p] = _mm256_add_epi32(low[p], _mm256_madd_epi16(left_sum[p], ones));
        high[p] = _mm256_add_epi32(high[p], _mm256_madd_epi16(right_sum[p], ones));
    }
}

/* Levels and weights as 16-bit numbers, those of even and of odd places apart. */
INLINE __m256i wide_products(__m256i levels, __m256i weights)
{
    __m256i even = _mm256_and_si256(levels, _mm256_set1_epi16(255));
    __m256i odd = _mm256_srli_epi16(levels, 8);
    __m256i even_weights = _mm256_srai_epi16(_mm256_slli_epi16(weights, 8), 8);
    return _mm256_add_epi32(
        _mm256_madd_epi16(even, even_weights),
        _mm256_madd_epi16(odd, _mm256_srai_epi16(weights, 8)));
}

INLINE void integer_part(
    int pixels, int32_t *sums, int64_t between, const uint8_t *const *from, const int32_t *offsets,
    int64_t taps, int64_t narrow_run, const int8_t *w, int64_t next)
{
    __m256i low[PART], high[PART];
    for (int p = 0; p < pixels; p++)
        low[p] = high[p] = _mm256_setzero_si256();
    if (narrow_run > 0)
        for (int64_t tap = 0; tap < taps; tap += narrow_run) {
            int64_t rest = taps - tap < narrow_run ? taps - tap : narrow_run;
            narrow_part(pixels, low, high, from, offsets + tap, rest, w + tap * next, next);
        }
    else
        for (int64_t tap = 0; tap < taps; tap++, w += next) {
            __m256i left = _mm256_loadu_si256((const __m256i *)w);
            __m256i right = _mm256_loadu_si256((const __m256i *)(w + 32));
            for (int p = 0; p < pixels; p++) {
                __m256i levels = four_levels(from[p] + offsets[tap]);
                low[p] = _mm256_add_epi32(low[p], wide_products(levels, left));
                high[p] = _mm256_add_epi32(high[p], wide_products(levels, right));
            }
        }
    for (int p = 0; p < pixels; p++) {
        _mm256_storeu_si256((__m256i *)(sums + p * between), low[p]);
        _mm256_storeu_si256((__m256i *)(sums + p * between + 8), high[p]);
    }
}
#endif

INLINE void float_part(
    int pixels, float *sums, int64_t between, const uint8_t *const *from, const int32_t *offsets,
    int64_t taps, const float *w, int64_t next)
{
    __m256 low[PART], high[PART];
    for (int p = 0; p < pixels; p++)
        low[p] = high[p] = _mm256_setzero_ps();
    for (int64_t tap = 0; tap < taps; tap++, w += next) {
        __m256 left = _mm256_loadu_ps(w), right = _mm256_loadu_ps(w + 8);
#pragma GCC unroll 4
        for (int p = 0; p < pixels; p++) {
            float one;
            memcpy(&one, from[p] + offsets[tap], sizeof one);
            low[p] = _mm256_fmadd_ps(_mm256_set1_ps(one), left, low[p]);
            high[p] = _mm256_fmadd_ps(_mm256_set1_ps(one), right, high[p]);
        }
    }
    for (int p = 0; p < pixels; p++) {
        _mm256_storeu_ps(sums + p * between, low[p]);
        _mm256_storeu_ps(sums + p * between + 8, high[p]);
    }
}

/* A part by its number of pixels, so that every loop over pixels has a constant length. */
#define BY_PIXELS(part, pixels, ...)                                                            \
    do {                                                                                        \
        if ((pixels) == 4)                                                                      \
            part(4, __VA_ARGS__);                                                               \
        else if ((pixels) == 3)                                                                 \
            part(3, __VA_ARGS__);                                                               \
        else if ((pixels) == 2)                                                                 \
            part(2, __VA_ARGS__);                                                               \
        else                                                                                    \
            part(1, __VA_ARGS__);                                                               \
    } while (0)

static void all_integers(
    int pixels, int runs, int groups, int32_t *sums, const uint8_t *first, const uint8_t *second,
    ptrdiff_t pixel, const int32_t *offsets, int64_t taps, int64_t narrow_run, const int8_t *w)
{
    for (int p = 0; p < pixels * runs; p += PART) {
        const uint8_t *from[PART];
        int count = pixels * runs - p < PART ? pixels * runs - p : PART;
        for (int i = 0; i < count; i++)
            from[i] = p + i < pixels ? first + (p + i) * pixel : second + (p + i - pixels) * pixel;
        for (int g = 0; g < groups; g++)
            BY_PIXELS(
                integer_part, count, sums + (p * groups + g) * LANES, groups * LANES, from,
                offsets, taps, narrow_run, w + g * LANES * 4, groups * LANES * 4);
    }
}

static void all_floats(
    int pixels, int runs, int groups, float *sums, const uint8_t *first, const uint8_t *second,
    ptrdiff_t pixel, const int32_t *offsets, int64_t taps, const float *w)
{
    for (int p = 0; p < pixels * runs; p += PART) {
        const uint8_t *from[PART];
        int count = pixels * runs - p < PART ? pixels * runs - p : PART;
        for (int i = 0; i < count; i++)
            from[i] = p + i < pixels ? first + (p + i) * pixel : second + (p + i - pixels) * pixel;
        for (int g = 0; g < groups; g++)
            BY_PIXELS(
                float_part, count, sums + (p * groups + g) * LANES, groups * LANES, from, offsets,
                taps, w + g * LANES, groups * LANES);
    }
}

#define integer_tile(P, R, G, sums, first, second, pixel, offsets, taps, run, weights, ahead)    \
    all_integers(P, R, G, sums, first, second, pixel, offsets, taps, run, weights)
#define float_tile(P, R, G, sums, first, second, pixel, offsets, taps, weights, ahead)           \
    all_floats(P, R, G, sums, first, second, pixel, offsets, taps, weights)

/* Bytes of two registers of 32-bit numbers from 0 to 255, in order. */
INLINE __m128i to_bytes(__m256i low, __m256i high)
{
    __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
    return _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}

INLINE __m256i half_steps(const projection *by, __m256 x)
{
    x = _mm256_mul_ps(x, _mm256_set1_ps(by->scale));
    if (by->first < 0)
        x = _mm256_sub_ps(_mm256_floor_ps(x), _mm256_set1_ps(by->first));
    x = _mm256_max_ps(x, _mm256_setzero_ps());
    return _mm256_cvttps_epi32(_mm256_min_ps(x, _mm256_set1_ps(by->last)));
}

INLINE __m128i project(const projection *by, __m256 x, __m256 y)
{
    __m256i low = half_steps(by, x), high = half_steps(by, y), one = _mm256_set1_epi32(1);
    if (by->kind == UNIFORM) {
        low = _mm256_srli_epi32(_mm256_add_epi32(low, one), 1);
        high = _mm256_srli_epi32(_mm256_add_epi32(high, one), 1);
        return to_bytes(low, high);
    }
    if (by->kind == SHUFFLED) {
        /* 16 entries at a time; an index outside of them gets its highest bit set: level 0. */
        __m128i index = to_bytes(low, high), level = _mm_setzero_si128();
        for (int entry = 0; entry <= (int)by->last; entry += 16) {
            __m128i near = _mm_sub_epi8(index, _mm_set1_epi8((char)entry));
            near = _mm_adds_epu8(near, _mm_set1_epi8(0x70));
            __m128i table = _mm_loadu_si128((const __m128i *)(by->table + entry));
            level = _mm_or_si128(level, _mm_shuffle_epi8(table, near));
        }
        return level;
    }
    int32_t indices[LANES];
    uint8_t levels[LANES];
    _mm256_storeu_si256((__m256i *)indices, low);
    _mm256_storeu_si256((__m256i *)(indices + 8), high);
    for (int lane = 0; lane < LANES; lane++)
        levels[lane] = by->table[indices[lane]];
    return _mm_loadu_si128((const __m128i *)levels);
}

INLINE __m256 before_projection(
    const finishing *f, const uint8_t *from, int integers, int64_t c, const uint8_t *addend)
{
    __m256 v = integers ? _mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i *)from))
                        : _mm256_loadu_ps((const float *)from);
    if (f->scale) {
        v = _mm256_mul_ps(v, _mm256_loadu_ps(f->scale + c));
        v = _mm256_add_ps(v, _mm256_loadu_ps(f->bias + c));
    }
    if (f->has_addend)
        v = _mm256_add_ps(v, _mm256_loadu_ps((const float *)(addend + 4 * c)));
    if (f->bounds)
        v = _mm256_max_ps(v, _mm256_set1_ps(f->low));
    if (f->bounds > 1)
        v = _mm256_min_ps(v, _mm256_set1_ps(f->high));
    return v;
}

static void finish_row(
    const finishing *f, uint8_t *arena, const void *sums, ptrdiff_t pixel, int integers,
    int64_t pixels, int64_t groups, int64_t channel, int64_t y, int64_t x)
{
    const uint8_t *addend = arena + f->addend.at + y * f->addend.row + x * f->addend.pixel;
    uint8_t *to = arena + f->to.at + y * f->to.row + x * f->to.pixel;
    for (int64_t p = 0; p < pixels; p++, addend += f->addend.pixel, to += f->to.pixel)
        for (int64_t c = channel; c < channel + groups * LANES; c += LANES) {
            const uint8_t *from = (const uint8_t *)sums + p * pixel + (c - channel) * 4;
            __m256 low = before_projection(f, from, integers, c, addend);
            __m256 high = before_projection(f, from + 32, integers, c + 8, addend);
            if (f->stored) {
                _mm256_storeu_ps((float *)(to + 4 * c), low);
                _mm256_storeu_ps((float *)(to + 4 * c + 32), high);
            }
            for (int64_t i = 0; i < f->projections; i++) {
                const view *at = &f->levels[i].to;
                uint8_t *levels = arena + at->at + y * at->row + (x + p) * at->pixel + c;
                _mm_storeu_si128((__m128i *)levels, project(&f->levels[i], low, high));
            }
        }
}

#define NUMBERS __m256
INLINE __m256 larger(__m256 a, __m256 b) { return _mm256_max_ps(a, b); }
#include "pools.h"

#include "tiles.h"
#include "winograd.h"
