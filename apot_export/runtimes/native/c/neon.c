/* ARM with the dot product extension. Levels are shifted to signed bytes, and the shift's share
 * of every sum, 128 times the sum of the weights, is added again. */
#include "apot_steps.h"

#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#include <string.h>
#ifdef __linux__
#include <sys/auxv.h>
#define DOT_PRODUCT (1ul << 20) /* HWCAP_ASIMDDP */
#endif

#define PART 4
#define QUARTERS (LANES / 4)

static void integer_part(
    int pixels, int32_t *sums, int64_t between, const uint8_t *const *from, const int32_t *offsets,
    int64_t taps, const int8_t *w, int64_t next)
{
    int32x4_t sum[PART][QUARTERS], weight_sum[QUARTERS];
    for (int q = 0; q < QUARTERS; q++) {
        weight_sum[q] = vdupq_n_s32(0);
        for (int p = 0; p < PART; p++)
            sum[p][q] = vdupq_n_s32(0);
    }
    for (int64_t tap = 0; tap < taps; tap++, w += next) {
        int8x16_t weights[QUARTERS];
        for (int q = 0; q < QUARTERS; q++) {
            weights[q] = vld1q_s8(w + 16 * q);
            weight_sum[q] = vdotq_s32(weight_sum[q], vdupq_n_s8(1), weights[q]);
        }
        for (int p = 0; p < PART; p++) {
            uint32_t four;
            memcpy(&four, from[p < pixels ? p : 0] + offsets[tap], sizeof four);
            int8x16_t levels = vreinterpretq_s8_u32(vdupq_n_u32(four ^ 0x80808080u));
            for (int q = 0; q < QUARTERS; q++)
                sum[p][q] = vdotq_s32(sum[p][q], levels, weights[q]);
        }
    }
    for (int p = 0; p < pixels; p++)
        for (int q = 0; q < QUARTERS; q++)
            vst1q_s32(sums + p * between + 4 * q, vaddq_s32(sum[p][q], vshlq_n_s32(weight_sum[q], 7)));
}

static void float_part(
    int pixels, float *sums, int64_t between, const uint8_t *const *from, const int32_t *offsets,
    int64_t taps, const float *w, int64_t next)
{
    float32x4_t sum[PART][QUARTERS];
    for (int p = 0; p < PART; p++)
        for (int q = 0; q < QUARTERS; q++)
            sum[p][q] = vdupq_n_f32(0);
    for (int64_t tap = 0; tap < taps; tap++, w += next)
        for (int p = 0; p < PART; p++) {
            float one;
            memcpy(&one, from[p < pixels ? p : 0] + offsets[tap], sizeof one);
            for (int q = 0; q < QUARTERS; q++)
                sum[p][q] = vfmaq_n_f32(sum[p][q], vld1q_f32(w + 4 * q), one);
        }
    for (int p = 0; p < pixels; p++)
        for (int q = 0; q < QUARTERS; q++)
            vst1q_f32(sums + p * between + 4 * q, sum[p][q]);
}

static int windows(
    const uint8_t **from, int p, int pixels, int runs, const uint8_t *first,
    const uint8_t *second, ptrdiff_t pixel)
{
    int count = pixels * runs - p < PART ? pixels * runs - p : PART;
    for (int i = 0; i < count; i++)
        from[i] = p + i < pixels ? first + (p + i) * pixel : second + (p + i - pixels) * pixel;
    return count;
}

static void integer_tile(
    int pixels, int runs, int groups, void *sums, const uint8_t *first, const uint8_t *second,
    ptrdiff_t pixel, const int32_t *offsets, int64_t taps, int64_t narrow_run, const void *weights,
    const uint8_t *ahead)
{
    (void)narrow_run, (void)ahead;
    for (int p = 0; p < pixels * runs; p += PART) {
        const uint8_t *from[PART];
        int count = windows(from, p, pixels, runs, first, second, pixel);
        for (int g = 0; g < groups; g++)
            integer_part(
                count, (int32_t *)sums + (p * groups + g) * LANES, groups * LANES, from, offsets,
                taps, (const int8_t *)weights + g * LANES * 4, groups * LANES * 4);
    }
}

static void float_tile(
    int pixels, int runs, int groups, void *sums, const uint8_t *first, const uint8_t *second,
    ptrdiff_t pixel, const int32_t *offsets, int64_t taps, const void *weights, const uint8_t *ahead)
{
    (void)ahead;
    for (int p = 0; p < pixels * runs; p += PART) {
        const uint8_t *from[PART];
        int count = windows(from, p, pixels, runs, first, second, pixel);
        for (int g = 0; g < groups; g++)
            float_part(
                count, (float *)sums + (p * groups + g) * LANES, groups * LANES, from, offsets,
                taps, (const float *)weights + g * LANES, groups * LANES);
    }
}

#include "tiles.h"
#include "winograd.h"

static void finish_row(
    const finishing *f, uint8_t *arena, const void *sums, ptrdiff_t pixel, int integers,
    int64_t pixels, int64_t groups, int64_t channel, int64_t y, int64_t x)
{
    apot_plain()->finish(f, arena, sums, pixel, integers, pixels, groups, channel, y, x);
}

#define NUMBERS float32x4_t
static float32x4_t larger(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
#include "pools.h"

const kernels *apot_neon(void)
{
    static const kernels found = KERNELS("neon", finish_row, maximum, spread, collect, NULL);
#ifdef __linux__
    return getauxval(AT_HWCAP) & DOT_PRODUCT ? &found : NULL;
#else
    return &found;
#endif
}
#else
const kernels *apot_neon(void) { return NULL; }
#endif
