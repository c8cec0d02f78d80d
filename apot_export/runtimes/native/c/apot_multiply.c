/* Products of matrices: cut into runs of pixels for the kernels, shared by threads, and finished. */
#include "apot_work.h"

#include <string.h>

typedef int32_t run_sums[2 * LONGEST_MATRIX_RUN * WIDEST_BLOCK * LANES];

/* What is multiplied: the whole of a step, or one row of it. */
typedef struct {
    const worker *w;
    const step *s;
    const matrix *m;
    matrix_kernel *const (*kernels)[WIDEST_BLOCK];
    const uint8_t *from;
    const int32_t *offsets; /* of chunks */
    const finishing *finish;
    int64_t y, ring_rows, runs; /* the first row; rows of the ring that they go to, or 0; runs of all */
} product;

/* Place of a run: its first pixel, and the first that the run before it has not. */
typedef struct {
    int64_t start, fresh;
} place;

static place place_of(const matrix *m, int64_t run)
{
    int64_t row = run / m->runs_of_extent, x = run % m->runs_of_extent * m->pixels;
    int64_t start = x <= m->extent - m->pixels ? x : m->extent - m->pixels;
    return (place){row * m->pitch + start, row * m->pitch + x};
}

static const uint8_t *window(const uint8_t *from, const matrix *m, int64_t pixel)
{
    return from + pixel / m->pitch * m->row + pixel % m->pitch * m->pixel;
}

static int64_t runs_of_pair(const product *p, int64_t pair)
{
    return p->runs - 2 * pair < 2 ? 1 : 2;
}

/* Sums of a pair of runs; meanwhile, so many lines a chunk of what lies ahead come closer. */
static void multiply_pair(
    const product *p, const channel_block *b, int64_t pair, const uint8_t *ahead, int64_t lines,
    int32_t *sums)
{
    const step *s = p->s;
    const matrix *m = p->m;
    int64_t runs = runs_of_pair(p, pair), at = b->channel * m->chunks * m->taps * 4;
    const uint8_t *from = p->from + b->input;
    const uint8_t *first = window(from, m, place_of(m, 2 * pair).start);
    const uint8_t *second = runs > 1 ? window(from, m, place_of(m, 2 * pair + 1).start) : first;
    matrix_kernel *multiply = p->kernels[runs - 1][b->groups - 1];
    int64_t channels = b->groups * LANES;
    multiply(sums, first, second, m, p->offsets, m->weights + at, ahead, lines);
    if (m->high_weights) {
        run_sums high;
        multiply(high, first, second, m, p->offsets, m->high_weights + at, ahead, 0);
        for (int64_t i = 0; i < runs * m->pixels * channels; i++)
            sums[i] = (int32_t)((uint32_t)sums[i] + (uint32_t)high[i] * 256u);
    }
    /* Those of a `winograd` step belong to its transforms. */
    for (int64_t i = 0; s->corrections && !s->winograd && i < runs * m->pixels * channels; i += channels)
        for (int64_t c = 0; c < channels; c++)
            sums[i + c] += s->corrections[b->channel + c];
}

/* What follows the sums of a pair of runs, row by row. */
static void finish_pair(
    const product *p, const channel_block *b, int64_t pair, const int32_t *sums)
{
    const worker *w = p->w;
    const matrix *m = p->m;
    int64_t channels = b->groups * LANES;
    for (int64_t run = 0; run < runs_of_pair(p, pair); run++, sums += m->pixels * channels) {
        place at = place_of(m, 2 * pair + run);
        int64_t next, end = at.start + m->pixels;
        for (int64_t pixel = at.fresh; pixel < end; pixel = next) {
            int64_t x = pixel % m->pitch, y = p->y + pixel / m->pitch, inside = p->s->width - x;
            next = pixel - x + m->pitch;
            inside = inside < end - pixel ? inside : end - pixel;
            if (inside <= 0)
                continue;
            const int32_t *part = sums + (pixel - at.start) * channels;
            if (w->trace)
                apot_write_trace(w, p->s, part, inside, b->groups, b->channel, y, x);
            w->by->finish(
                p->finish, w->arena, part, channels * 4, (int)p->s->integers, inside, b->groups,
                b->channel, p->ring_rows ? y % p->ring_rows : y, x);
        }
    }
}

/* Pairs of runs for a block of channels. A pair is finished while the next one is multiplied. */
static void multiply_block(const product *p, int64_t index, int64_t pair, int64_t end)
{
    const matrix *m = p->m;
    channel_block b = channels_at(p->s, index);
    run_sums sums[2];
    int64_t bytes = b.groups * LANES * m->chunks * m->taps * 4, steps = m->chunks * (end - pair);
    const uint8_t *next = m->weights + b.channel * m->chunks * m->taps * 4 + bytes;
    const uint8_t *last = index + 1 < p->s->blocks ? next + bytes : next;
    int64_t lines = (bytes / PLAN_LINE + steps - 1) / steps;
    for (int64_t i = pair; i < end; i++) {
        multiply_pair(p, &b, i, next, next < last ? lines : 0, sums[i & 1]);
        next += m->chunks * lines * PLAN_LINE;
        if (i > pair)
            finish_pair(p, &b, i - 1, sums[(i - 1) & 1]);
    }
    finish_pair(p, &b, end - 1, sums[(end - 1) & 1]);
}

void apot_multiply(const worker *w, const step *s, const matrix *m)
{
    product p = {w, s, m, w->by->matrices->bytes, w->arena + m->at, m->offsets, &s->finish, 0, 0, m->runs};
    int64_t pairs = (m->runs + 1) / 2, end = share(w, pairs * s->blocks, w->part + 1);
    int64_t i = share(w, pairs * s->blocks, w->part);
    if (i == end)
        return;
    w->by->matrices->begin(m->pixels, m->taps);
    while (i < end) {
        int64_t first = i % pairs, last = end - i < pairs - first ? first + end - i : pairs;
        multiply_block(&p, i / pairs, first, last);
        i += last - first;
    }
    w->by->matrices->end();
}

/* --- floats ----------------------------------------------------------------------------------- */

/* Split the rows of a step's input that a row of its output reads and that are not yet in the ring; return
 * whether the products of all are exact. */
static int split_rows(const worker *w, const step *s, const matrix *m, int64_t y, int64_t *ready)
{
    uint8_t *sound = w->ring + m->kernel_y * m->row;
    int64_t first = y * s->stride_y, all = 1;
    for (int64_t row = *ready > first ? *ready : first; row < first + m->kernel_y; row++) {
        int64_t slot = row % m->kernel_y, exact = 1;
        const uint8_t *from = w->arena + m->at + row * s->from.row;
        uint8_t *to = w->ring + slot * m->row;
        for (int64_t x = 0; x < m->columns; x += STRIP) {
            int64_t pixels = m->columns - x < STRIP ? m->columns - x : STRIP;
            exact &= w->by->matrices->split(
                m->channels, from + x * s->from.pixel, m->between, s->from.pixel, pixels,
                to + x * m->channels * PARTS * 2);
        }
        int64_t end = m->columns * m->channels * PARTS * 2;
        memset(to + end, 0, (size_t)(m->row - end));
        sound[slot] = (uint8_t)exact;
    }
    *ready = first + m->kernel_y;
    for (int64_t i = 0; i < m->kernel_y; i++)
        all &= sound[i];
    return (int)all;
}

int apot_multiply_row(
    const worker *w, const step *s, const matrix *m, const finishing *f, int64_t y,
    int64_t ring_rows, int64_t *ready)
{
    int32_t offsets[MOST_SPLIT_CHUNKS];
    int64_t of_row = m->chunks / m->kernel_y, first = y * s->stride_y;
    if (!split_rows(w, s, m, y, ready))
        return 0;
    for (int64_t i = 0; i < m->chunks; i++)
        offsets[i] = (int32_t)((first + i / of_row) % m->kernel_y * m->row + i % of_row * m->taps * 4);
    product p = {w, s, m, w->by->matrices->halves, w->ring, offsets, f, y, ring_rows, m->runs};
    w->by->matrices->begin(m->pixels, m->taps);
    for (int64_t index = 0; index < s->blocks; index++)
        multiply_block(&p, index, 0, (m->runs + 1) / 2);
    w->by->matrices->end();
    return 1;
}
