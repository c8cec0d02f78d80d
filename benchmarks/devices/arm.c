/* Runs every step of a plan of the native kernels, then the convolutions of the same network in int8.
 *
 *     arm network.apot STEPS < layers
 *
 * A line of `layers` is a convolution in int8: taps, channels, outputs, places. Marks (see arm_plugin.c) number
 * what was counted: the steps from 1, then the layers. */
#include "apot.h"

#include <arm_neon.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PIXELS = 4, OUTPUTS = 16, AT_ONCE = 8 };

int apot_run_step(const apot_network *, int64_t, const float *, void *, int, void *);

static void mark(long number) { syscall(SYS_getppid, number); }

/* The kernel that XNNPACK has for these processors (igemm, 4x16c4, neondot): 4 pixels and 16 outputs in
 * registers, levels read through pointers, sums scaled in float32 and rounded to int8. */
static void igemm(
    const int8_t *const *rows, long taps, long channels, const int8_t *weights, const float *scale, int8_t *to,
    long next)
{
    int32x4_t sum[PIXELS][4];
    for (int q = 0; q < 4; q++, weights += 16)
        for (int p = 0; p < PIXELS; p++)
            sum[p][q] = vreinterpretq_s32_s8(vld1q_s8(weights));
    for (long tap = 0; tap < taps; tap++, rows += PIXELS) {
        const int8_t *row[PIXELS] = {rows[0], rows[1], rows[2], rows[3]};
        for (long k = 0; k < channels; k += AT_ONCE, weights += AT_ONCE * OUTPUTS) {
            int8x8_t level[PIXELS];
            for (int p = 0; p < PIXELS; p++) {
                level[p] = vld1_s8(row[p]);
                row[p] += AT_ONCE;
            }
            for (int q = 0; q < 4; q++) {
                int8x16_t w = vld1q_s8(weights + 16 * q);
                for (int p = 0; p < PIXELS; p++)
                    sum[p][q] = vdotq_lane_s32(sum[p][q], w, level[p], 0);
            }
            for (int q = 0; q < 4; q++) {
                int8x16_t w = vld1q_s8(weights + 64 + 16 * q);
                for (int p = 0; p < PIXELS; p++)
                    sum[p][q] = vdotq_lane_s32(sum[p][q], w, level[p], 1);
            }
        }
    }
    for (int p = 0; p < PIXELS; p++) {
        int16x4_t part[4];
        for (int q = 0; q < 4; q++)
            part[q] = vqmovn_s32(vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(sum[p][q]), vld1q_f32(scale + 4 * q))));
        int16x8_t low = vqaddq_s16(vcombine_s16(part[0], part[1]), vdupq_n_s16(3));
        int16x8_t high = vqaddq_s16(vcombine_s16(part[2], part[3]), vdupq_n_s16(3));
        int8x16_t all = vcombine_s8(vqmovn_s16(low), vqmovn_s16(high));
        vst1q_s8(to + p * next, vminq_s8(vmaxq_s8(all, vdupq_n_s8(-128)), vdupq_n_s8(127)));
    }
}

static void *zeros(size_t bytes)
{
    void *found = calloc(1, bytes);
    if (!found)
        exit(3);
    return found;
}

static void int8_layer(long taps, long channels, long outputs, long places, long number)
{
    channels += -channels & (AT_ONCE - 1);
    long groups = (outputs + OUTPUTS - 1) / OUTPUTS, blocks = (places + PIXELS - 1) / PIXELS;
    long packed = OUTPUTS * (4 + taps * channels);
    int8_t *weights = zeros((size_t)(groups * packed)), *level = zeros((size_t)channels);
    int8_t *to = zeros((size_t)(blocks * PIXELS * groups * OUTPUTS));
    float *scale = zeros((size_t)(groups * OUTPUTS) * sizeof *scale);
    const int8_t **rows = zeros((size_t)(taps * PIXELS) * sizeof *rows);
    for (long i = 0; i < taps * PIXELS; i++)
        rows[i] = level;
    mark(1000000);
    for (long b = 0; b < blocks; b++)
        for (long g = 0; g < groups; g++)
            igemm(
                rows, taps, channels, weights + g * packed, scale + g * OUTPUTS,
                to + b * PIXELS * groups * OUTPUTS + g * OUTPUTS, groups * OUTPUTS);
    mark(number);
    free(weights), free(level), free(to), free(scale), free(rows);
}

int main(int words, char **word)
{
    apot_network *network;
    if (words != 3 || apot_open(&network, word[1], NULL))
        return 2;
    long steps = atol(word[2]), number = 0;
    void *workspace = zeros(apot_workspace_bytes(network, 1));
    size_t numbers = (size_t)(apot_channels(network) * apot_height(network) * apot_width(network));
    float *image = zeros(numbers * sizeof *image);
    for (size_t i = 0; i < numbers; i++)
        image[i] = (float)(i * 7919 % 2003) / 1000 - 1;
    for (long i = 0; i < steps; i++) {
        mark(1000000);
        if (apot_run_step(network, i, image, NULL, 1, workspace))
            return 4;
        mark(++number);
    }
    long taps, channels, outputs, places;
    while (scanf("%ld %ld %ld %ld", &taps, &channels, &outputs, &places) == 4)
        int8_layer(taps, channels, outputs, places, ++number);
    fprintf(stderr, "%s\n", apot_kernels(network));
    return 0;
}
