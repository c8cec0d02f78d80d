/* Kernels in plain C. */
#include "apot_steps.h"

#include <string.h>

static void integer_tile(
    int pixels, int runs, int groups, void *sums, const uint8_t *first, const uint8_t *second,
    ptrdiff_t pixel, const int32_t *offsets, int64_t taps, int64_t narrow_run, const void *weights,
    const uint8_t *ahead)
{
    (void)narrow_run, (void)ahead;
    for (int p = 0; p < pixels * runs; p++) {
        const uint8_t *from = p < pixels ? first + p * pixel : second + (p - pixels) * pixel;
        for (int g = 0; g < groups; g++) {
            int32_t sum[LANES] = {0};
            for (int64_t tap = 0; tap < taps; tap++) {
                const uint8_t *a = from + offsets[tap];
                const int8_t *w = (const int8_t *)weights + (tap * groups + g) * LANES * 4;
                for (int lane = 0; lane < LANES; lane++)
                    sum[lane] += a[0] * w[4 * lane] + a[1] * w[4 * lane + 1] +
                                 a[2] * w[4 * lane + 2] + a[3] * w[4 * lane + 3];
            }
            memcpy((int32_t *)sums + (p * groups + g) * LANES, sum, sizeof sum);
        }
    }
}

static void float_tile(
    int pixels, int runs, int groups, void *sums, const uint8_t *first, const uint8_t *second,
    ptrdiff_t pixel, const int32_t *offsets, int64_t taps, const void *weights, const uint8_t *ahead)
{
    (void)ahead;
    for (int p = 0; p < pixels * runs; p++) {
        const uint8_t *from = p < pixels ? first + p * pixel : second + (p - pixels) * pixel;
        for (int g = 0; g < groups; g++) {
            float sum[LANES] = {0};
            for (int64_t tap = 0; tap < taps; tap++) {
                const float *w = (const float *)weights + (tap * groups + g) * LANES;
                float a;
                memcpy(&a, from + offsets[tap], sizeof a);
                for (int lane = 0; lane < LANES; lane++)
                    sum[lane] += a * w[lane];
            }
            memcpy((float *)sums + (p * groups + g) * LANES, sum, sizeof sum);
        }
    }
}

static void project(const projection *by, const float *values, uint8_t *to)
{
    for (int lane = 0; lane < LANES; lane++) {
        float x = values[lane] * by->scale, last = by->first + by->last;
        x = x > by->first ? x : by->first;
        x = x < last ? x : last;
        int32_t whole = (int32_t)x;
        to[lane] = by->table[whole - ((float)whole > x) - (int32_t)by->first];
    }
}

static void finish_row(
    const finishing *f, uint8_t *arena, const void *sums, ptrdiff_t pixel, int integers,
    int64_t pixels, int64_t groups, int64_t channel, int64_t y, int64_t x)
{
    for (int64_t p = 0; p < pixels; p++)
        for (int64_t g = 0; g < groups; g++) {
            const uint8_t *from = (const uint8_t *)sums + p * pixel + g * LANES * 4;
            int64_t c = channel + g * LANES;
            float v[LANES], other[LANES];
            int32_t whole[LANES];
            memcpy(v, from, sizeof v);
            memcpy(whole, from, sizeof whole);
            if (integers)
                for (int lane = 0; lane < LANES; lane++)
                    v[lane] = (float)whole[lane];
            if (f->scale)
                for (int lane = 0; lane < LANES; lane++) {
                    float scaled = v[lane] * f->scale[c + lane];
                    v[lane] = scaled + f->bias[c + lane];
                }
            if (f->has_addend) {
                const view *a = &f->addend;
                memcpy(other, arena + a->at + y * a->row + (x + p) * a->pixel + 4 * c, sizeof v);
                for (int lane = 0; lane < LANES; lane++)
                    v[lane] += other[lane];
            }
            for (int lane = 0; f->bounds && lane < LANES; lane++) {
                v[lane] = v[lane] > f->low ? v[lane] : f->low;
                if (f->bounds > 1)
                    v[lane] = v[lane] < f->high ? v[lane] : f->high;
            }
            if (f->stored)
                memcpy(arena + f->to.at + y * f->to.row + (x + p) * f->to.pixel + 4 * c, v, sizeof v);
            for (int64_t i = 0; i < f->projections; i++) {
                const view *to = &f->levels[i].to;
                project(&f->levels[i], v, arena + to->at + y * to->row + (x + p) * to->pixel + c);
            }
        }
}

typedef struct {
    float lanes[LANES];
} numbers;
static numbers larger(numbers a, numbers b)
{
    for (int lane = 0; lane < LANES; lane++)
        b.lanes[lane] = a.lanes[lane] > b.lanes[lane] ? a.lanes[lane] : b.lanes[lane];
    return b;
}
#define NUMBERS numbers
#include "pools.h"

#include "tiles.h"
#include "winograd.h"
