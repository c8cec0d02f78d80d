/* Runs steps: cuts values into tiles and rows, shares them among threads. */
#include "apot_work.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK 8                  /* runs whose sums are finished together */
#define KEPT_WEIGHTS (256 << 10) /* bytes of weights that stay in a core's cache */
#define NEAR_WEIGHTS (32 << 10)  /* bytes of a block's weights that stay nearest */
#define FAR_FLOATS (512 << 10)   /* bytes of a value that do not */
#define SPINS 2000 /* looks at a barrier before the processor is given to others */

/* --- borders --------------------------------------------------------------------------------- */

static void clear_border(uint8_t *arena, const view *v, const frame *b)
{
    if (!b->rows && !b->columns)
        return;
    int64_t row = (b->width + 2 * b->columns) * b->bytes;
    uint8_t *corner = arena + v->at - b->rows * v->row - b->columns * v->pixel;
    for (int64_t y = 0; y < b->height + 2 * b->rows; y++) {
        uint8_t *at = corner + y * v->row;
        if (y < b->rows || y >= b->rows + b->height) {
            memset(at, (int)b->zero, (size_t)row);
        } else {
            memset(at, (int)b->zero, (size_t)(b->columns * b->bytes));
            memset(
                at + (b->width + b->columns) * b->bytes, (int)b->zero,
                (size_t)(b->columns * b->bytes));
        }
    }
}

static void clear_borders(uint8_t *arena, const finishing *f)
{
    if (f->stored)
        clear_border(arena, &f->to, &f->border);
    for (int64_t i = 0; i < f->projections; i++)
        clear_border(arena, &f->levels[i].to, &f->levels[i].border);
}

/* --- convolutions ---------------------------------------------------------------------------- */

void apot_write_trace(
    const worker *w, const step *s, const int32_t *sums, int64_t pixels, int64_t groups, int64_t channel, int64_t y,
    int64_t x)
{
    int32_t *to = (int32_t *)w->trace + (y * s->width + x) * s->channels;
    for (int64_t p = 0; p < pixels; p++)
        for (int64_t c = 0; c < groups * LANES && channel + c < s->channels; c++)
            memcpy(to + p * s->channels + channel + c, sums + p * groups * LANES + c, 4);
}

static int64_t weight_bytes(const step *s)
{
    return 4 * s->taps * (s->winograd ? POSITIONS : 1) * padded(s->channels);
}

/* Where a block of output channels lies, and what it reads. */
typedef struct {
    int64_t channel, groups; /* the first channel; groups of LANES */
    const uint8_t *from, *weights, *high_weights;
    const uint8_t *ahead, *end; /* weights of the block after it: those to fetch next */
    tile_kernel *tiles[2]; /* by runs - 1 */
} block;

static block block_at(const worker *w, const step *s, int64_t index)
{
    channel_block of = channels_at(s, index);
    int64_t lane_bytes = 4 * s->taps * (s->winograd ? POSITIONS : 1), at = of.channel * lane_bytes;
    block b = {.channel = of.channel, .groups = of.groups};
    b.from = w->arena + s->from.at + of.input;
    b.weights = (const uint8_t *)s->weights + at;
    b.high_weights = s->high_weights ? (const uint8_t *)s->high_weights + at : NULL;
    b.ahead = index + 1 < s->blocks ? b.weights + of.groups * LANES * lane_bytes : b.weights;
    b.end = b.ahead + of.groups * LANES * lane_bytes;
    for (int runs = 0; runs < 2; runs++)
        b.tiles[runs] = s->integers ? w->by->integers[s->run - 1][runs][of.groups - 1]
                                    : w->by->floats[s->run - 1][runs][of.groups - 1];
    return b;
}

/* Weights that a tile of so many taps is to fetch: a line a tap. */
static const uint8_t *fetched_by_tile(block *b, int64_t taps)
{
    const uint8_t *found = b->ahead;
    b->ahead = found + 64 * taps < b->end ? found + 64 * taps : b->weights;
    return found;
}

/* A run of pixels: its row, and its first pixel. */
typedef struct {
    int64_t y, x;
} place_of_run;

static place_of_run next_run(const step *s, place_of_run at)
{
    if (at.x + s->run >= s->columns)
        return (place_of_run){at.y + 1, 0};
    /* The last run of a row begins within the one before. */
    return (place_of_run){at.y, at.x + 2 * s->run <= s->columns ? at.x + s->run : s->columns - s->run};
}

/* The first of some runs that does not follow the one before it in a row. */
static int64_t runs_together(const step *s, const place_of_run *at, int64_t first, int64_t runs)
{
    int64_t next = first + 1;
    while (next < runs && at[next].y == at[first].y && at[next].x == at[next - 1].x + s->run)
        next++;
    return next;
}

/* Fetch the floats that what follows the sums of a run reads and writes. */
static void fetch_floats(
    const worker *w, const finishing *f, const block *b, int64_t pixels, int64_t y, int64_t x)
{
    const uint8_t *addend = w->arena + f->addend.at + y * f->addend.row + x * f->addend.pixel;
    const uint8_t *to = w->arena + f->to.at + y * f->to.row + x * f->to.pixel;
    for (int64_t p = 0; p < pixels; p++)
        for (int64_t line = b->channel * 4; line < (b->channel + b->groups * LANES) * 4; line += 64) {
            if (f->has_addend)
                __builtin_prefetch(addend + p * f->addend.pixel + line);
            if (f->stored)
                __builtin_prefetch(to + p * f->to.pixel + line, 1);
        }
}

/* Some tiles of a block, and what follows the sums of each row that they hold. */
static void convolve_runs(
    const worker *w, const step *s, const finishing *f, block *b, const place_of_run *at,
    int64_t runs, int64_t ring_rows)
{
    int32_t sums[CHUNK / 2 * TILE_NUMBERS], high[TILE_NUMBERS];
    int64_t row = s->stride_y * s->from.row, pixel = s->stride_x * s->from.pixel;
    int64_t width = b->groups * LANES, numbers = s->run * width;
    int far = s->height * (f->has_addend ? f->addend.row : f->to.row) > FAR_FLOATS;
    for (int64_t i = 0; far && i < runs; i++)
        fetch_floats(w, f, b, s->run, ring_rows ? at[i].y % ring_rows : at[i].y, at[i].x);
    for (int64_t i = 0; i < runs; i += 2) {
        int64_t both = runs - i > 1 ? 2 : 1;
        const uint8_t *first = b->from + at[i].y * row + at[i].x * pixel;
        const uint8_t *second = both > 1 ? b->from + at[i + 1].y * row + at[i + 1].x * pixel : first;
        int32_t *to = sums + i * numbers;
        tile_kernel *tile = b->tiles[both - 1];
        const uint8_t *ahead = fetched_by_tile(b, s->taps);
        tile(to, first, second, pixel, s->offsets, s->taps, s->narrow_run, b->weights, ahead);
        if (b->high_weights) {
            tile(high, first, second, pixel, s->offsets, s->taps, s->narrow_run, b->high_weights, ahead);
            for (int64_t n = 0; n < both * numbers; n++)
                to[n] = (int32_t)((uint32_t)to[n] + (uint32_t)high[n] * 256u);
        }
        for (int64_t n = 0; s->corrections && n < both * numbers; n++)
            to[n] += s->corrections[b->channel + n % width];
    }
    for (int64_t i = 0, next; i < runs; i = next) {
        next = runs_together(s, at, i, runs);
        int64_t pixels = (next - i) * s->run;
        if (w->trace)
            apot_write_trace(w, s, sums + i * numbers, pixels, b->groups, b->channel, at[i].y, at[i].x);
        w->by->finish(
            f, w->arena, sums + i * numbers, width * 4, (int)s->integers, pixels, b->groups,
            b->channel, ring_rows ? at[i].y % ring_rows : at[i].y, at[i].x);
    }
}

/* What follows the sums of 2 x 2 pixels in a row, some of which may lie beyond an odd image. */
static void finish_squares(
    const worker *w, const step *s, const finishing *f, const block *b, const int32_t *pixels,
    int64_t row, int64_t count, place_of_run at)
{
    int64_t x = 2 * at.x, inside = s->width - x < 2 * count ? s->width - x : 2 * count;
    for (int64_t y = 2 * at.y; y < 2 * at.y + 2 && y < s->height; y++, pixels += row) {
        if (w->trace)
            apot_write_trace(w, s, pixels, inside, b->groups, b->channel, y, x);
        w->by->finish(
            f, w->arena, pixels, b->groups * LANES * 4, 1, inside, b->groups, b->channel, y, x);
    }
}

/* The same of a Winograd convolution: one or two tiles of each plane, then 2 x 2 pixels of their sums. */
static void convolve_planes(
    const worker *w, const step *s, const finishing *f, block *b, const place_of_run *at,
    int64_t runs)
{
    int32_t sums[POSITIONS * TILE_NUMBERS], pixels[4 * TILE_NUMBERS];
    int64_t width = b->groups * LANES, count = runs * s->run, pixel = s->from.pixel;
    const uint8_t *first = b->from + at[0].y * s->from.row + at[0].x * pixel;
    const uint8_t *second = runs > 1 ? b->from + at[1].y * s->from.row + at[1].x * pixel : first;
    for (int64_t i = 0; i < POSITIONS; i++)
        b->tiles[runs - 1](
            sums + i * count * width, first + i * s->planes, second + i * s->planes, pixel, s->offsets,
            s->taps, s->narrow_run, b->weights + i * s->taps * width * 4, fetched_by_tile(b, s->taps));
    w->by->collect(sums, count, b->groups, s->corrections + b->channel, s->channels, pixels);
    for (int64_t i = 0; i < runs; i++)
        finish_squares(
            w, s, f, b, pixels + 2 * i * s->run * width, 2 * count * width, s->run, at[i]);
}

/* The same, by kernels that take all planes of a few 2 x 2 pixels at once. */
static void convolve_squares(
    const worker *w, const step *s, const finishing *f, const block *b, const place_of_run *at,
    int64_t runs)
{
    int32_t pixels[2 * CHUNK * TILE_NUMBERS];
    for (int64_t i = 0, next; i < runs; i = next) {
        next = runs_together(s, at, i, runs);
        int64_t count = (next - i) * s->run;
        w->by->squares(
            b->from + at[i].y * s->from.row + at[i].x * s->from.pixel, s->planes, s->from.pixel, count,
            b->groups, s->offsets, s->taps, b->weights, s->corrections + b->channel, s->channels, pixels);
        finish_squares(w, s, f, b, pixels, 2 * count * b->groups * LANES, count, at[i]);
    }
}

static void spread_rows(const worker *w, const step *s)
{
    for (int64_t y = share(w, s->rows, w->part); y < share(w, s->rows, w->part + 1); y++)
        w->by->spread(
            w->arena + s->from.at + 2 * y * s->from.row, s->from.row, s->from.pixel, s->channels,
            (int)s->offset, w->arena + s->finish.to.at + y * s->finish.to.row, s->planes,
            s->finish.to.pixel, s->columns);
}

/* Some runs of a block. The first tiles fetch the weights of the block after it. */
static void convolve_block(
    const worker *w, const step *s, const finishing *f, int64_t index, place_of_run from,
    int64_t runs, int64_t ring_rows)
{
    block b = block_at(w, s, index);
    int64_t weights = 4 * s->taps * POSITIONS * b.groups * LANES;
    int squares = s->winograd && w->by->squares && weights <= NEAR_WEIGHTS;
    int64_t most = s->winograd && !squares ? 2 : CHUNK;
    while (runs > 0) {
        place_of_run at[CHUNK];
        int64_t count = 0;
        for (; count < most && count < runs; count++, from = next_run(s, from))
            at[count] = from;
        if (squares)
            convolve_squares(w, s, f, &b, at, count);
        else if (s->winograd)
            convolve_planes(w, s, f, &b, at, count);
        else
            convolve_runs(w, s, f, &b, at, count, ring_rows);
        runs -= count;
    }
}

/* All tiles of all blocks. Weights that stay in the cache are read again for every strip of tiles, so that
 * its pixels are; others are read once. */
static void convolve(const worker *w, const step *s)
{
    int64_t runs_of_row = (s->columns + s->run - 1) / s->run, runs = runs_of_row * s->rows;
    int64_t pairs = (runs + 1) / 2, end = share(w, pairs * s->blocks, w->part + 1);
    int64_t strip = weight_bytes(s) <= KEPT_WEIGHTS && pairs > CHUNK / 2 ? CHUNK / 2 : pairs, count;
    for (int64_t i = share(w, pairs * s->blocks, w->part); i < end; i += count) {
        int64_t first = i / (strip * s->blocks) * strip, rest = i - first * s->blocks;
        int64_t length = pairs - first < strip ? pairs - first : strip;
        int64_t pair = first + rest % length, run = pair * 2;
        count = length - rest % length < end - i ? length - rest % length : end - i;
        int64_t x = run % runs_of_row * s->run;
        place_of_run from = {run / runs_of_row, x <= s->columns - s->run ? x : s->columns - s->run};
        int64_t part = runs - run < count * 2 ? runs - run : count * 2;
        convolve_block(w, s, &s->finish, rest / length, from, part, 0);
    }
}

/* A row, to a ring of so many rows or, for 0, to its place. */
static void convolve_row(
    const worker *w, const step *s, const matrix *m, const finishing *f, int64_t y, int64_t ring,
    int64_t *ready)
{
    if (m && m->halves && apot_multiply_row(w, s, m, f, y, ring, ready))
        return;
    int64_t runs = (s->columns + s->run - 1) / s->run;
    for (int64_t index = 0; index < s->blocks; index++)
        convolve_block(w, s, f, index, (place_of_run){y, 0}, runs, ring);
}

static void convolve_rows(const worker *w, const step *s, const matrix *m)
{
    int64_t ready = 0;
    for (int64_t y = share(w, s->height, w->part); y < share(w, s->height, w->part + 1); y++)
        convolve_row(w, s, m, &s->finish, y, 0, &ready);
}

/* --- rows of other steps --------------------------------------------------------------------- */

static void maximum_row(
    const worker *w, const step *s, const uint8_t *from, const view *v, int64_t ring, int64_t y, int64_t height,
    int64_t width, float *to)
{
    int64_t channels = padded(s->channels);
    int64_t top = y * s->pool_stride_y - s->pool_pad_y, end = top + s->pool_kernel_y;
    top = top > 0 ? top : 0;
    end = end < height ? end : height;
    for (int64_t x = 0; x < s->pool_width; x++, to += channels) {
        int64_t left = x * s->pool_stride_x - s->pool_pad_x, right = left + s->pool_kernel_x;
        left = left > 0 ? left : 0;
        right = right < width ? right : width;
        if (top < end && left < right)
            w->by->maximum(
                to, from + left * v->pixel, ring ? top % ring : top, end - top, ring ? ring : end,
                v->row, v->pixel, right - left, channels);
        else /* a window of padding alone, which is minus infinity */
            for (int64_t c = 0; c < channels; c++)
                to[c] = -__builtin_inff();
    }
}

static void mean_row(const step *s, const uint8_t *arena, int64_t y, float *to)
{
    int64_t channels = padded(s->channels);
    double count = (double)(s->kernel_y * s->kernel_x);
    for (int64_t x = 0; x < s->width; x++, to += channels)
        for (int64_t first = 0; first < channels; first += LANES) {
            double sum[LANES] = {0};
            for (int64_t i = 0; i < s->kernel_y; i++)
                for (int64_t j = 0; j < s->kernel_x; j++) {
                    const float *a = (const float *)(arena + s->from.at +
                                                     (y * s->stride_y + i) * s->from.row +
                                                     (x * s->stride_x + j) * s->from.pixel);
                    for (int c = 0; c < LANES; c++)
                        sum[c] += a[first + c];
                }
            for (int c = 0; c < LANES; c++)
                to[first + c] = (float)(sum[c] / count);
        }
}

/* Weights [tap][padded channels]: int32 of levels, or floats; `offsets` without channels. */
static void depthwise_row(const step *s, const uint8_t *arena, int64_t y, void *to)
{
    int64_t channels = padded(s->channels);
    for (int64_t x = 0; x < s->width; x++) {
        const uint8_t *from = arena + s->from.at + y * s->stride_y * s->from.row +
                              x * s->stride_x * s->from.pixel;
        for (int64_t first = 0; first < channels; first += LANES) {
            int32_t whole[LANES] = {0};
            float sum[LANES] = {0};
            if (s->corrections)
                memcpy(whole, s->corrections + first, sizeof whole);
            for (int64_t tap = 0; tap < s->taps; tap++) {
                const uint8_t *a = from + s->offsets[tap];
                int64_t at = tap * channels + first;
                if (s->integers)
                    for (int c = 0; c < LANES; c++)
                        whole[c] += a[first + c] * ((const int32_t *)s->weights)[at + c];
                else
                    for (int c = 0; c < LANES; c++)
                        sum[c] += ((const float *)a)[first + c] * ((const float *)s->weights)[at + c];
            }
            memcpy((float *)to + x * channels + first, s->integers ? (void *)whole : sum, sizeof sum);
        }
    }
}

static void repeat_row(const step *s, const uint8_t *arena, int64_t y, float *to)
{
    int64_t channels = padded(s->channels);
    const uint8_t *row = arena + s->from.at + y / s->kernel_y * s->from.row;
    for (int64_t x = 0; x < s->width; x++)
        memcpy(to + x * channels, row + x / s->kernel_x * s->from.pixel, (size_t)channels * 4);
}

static void unroll(const step *s, const uint8_t *arena, float *to)
{
    int64_t inputs = s->channels / (s->input_height * s->input_width), at = 0;
    for (int64_t c = 0; c < inputs; c++)
        for (int64_t y = 0; y < s->input_height; y++)
            for (int64_t x = 0; x < s->input_width; x++)
                memcpy(to + at++, arena + s->from.at + y * s->from.row + x * s->from.pixel + 4 * c, 4);
    memset(to + at, 0, (size_t)(padded(s->channels) - at) * 4);
}

static void rows(const worker *w, const step *s)
{
    int64_t channels = padded(s->channels);
    for (int64_t y = share(w, s->height, w->part); y < share(w, s->height, w->part + 1); y++) {
        const uint8_t *sums = w->scratch;
        int64_t pixel = channels * 4;
        if (s->kind == APPLY) {
            sums = w->arena + s->from.at + y * s->from.row;
            pixel = s->from.pixel;
        } else if (s->kind == MAXIMUM)
            maximum_row(
                w, s, w->arena + s->from.at, &s->from, 0, y, s->input_height, s->input_width,
                (float *)w->scratch);
        else if (s->kind == MEAN)
            mean_row(s, w->arena, y, (float *)w->scratch);
        else if (s->kind == DEPTHWISE)
            depthwise_row(s, w->arena, y, w->scratch);
        else if (s->kind == REPEAT)
            repeat_row(s, w->arena, y, (float *)w->scratch);
        else
            unroll(s, w->arena, (float *)w->scratch);
        if (w->trace)
            apot_write_trace(w, s, (const int32_t *)sums, s->width, channels / LANES, 0, y, 0);
        w->by->finish(
            &s->finish, w->arena, sums, pixel, s->kind == DEPTHWISE && s->integers, s->width,
            channels / LANES, 0, y, 0);
    }
}

/* A convolution whose rows go to a ring, from which the pool after it takes its windows. */
static void convolve_and_pool(const worker *w, const step *s, const matrix *m)
{
    finishing f = s->finish;
    worker untraced = *w; /* threads share rows of the ring's edges, and must not both write their sums */
    uint8_t *pooled = w->scratch + s->ring_bytes;
    int64_t channels = padded(s->channels), next = 0, traced = 0, ready = 0;
    f.to.at = w->scratch - w->arena;
    untraced.trace = NULL;
    if (w->trace) /* also the sums of rows that no window reaches */
        for (int64_t y = share(w, s->height, w->part); y < share(w, s->height, w->part + 1); y++)
            convolve_row(w, s, m, &f, y, s->pool_kernel_y, &traced);
    for (int64_t y = share(w, s->pool_height, w->part); y < share(w, s->pool_height, w->part + 1); y++) {
        int64_t first = y * s->pool_stride_y - s->pool_pad_y, last = first + s->pool_kernel_y;
        next = next > first ? next : first > 0 ? first : 0;
        for (; next < last && next < s->height; next++)
            convolve_row(&untraced, s, m, &f, next, s->pool_kernel_y, &ready);
        maximum_row(
            w, s, w->scratch, &f.to, s->pool_kernel_y, y, s->height, s->width, (float *)pooled);
        w->by->finish(
            &s->after, w->arena, pooled, channels * 4, 0, s->pool_width, channels / LANES, 0, y, 0);
    }
}

static void load(const worker *w, const step *s)
{
    const view *to = &s->finish.to;
    for (int64_t y = share(w, s->height, w->part); y < share(w, s->height, w->part + 1); y++)
        for (int64_t c = 0; c < s->channels; c++) {
            const float *from = w->image + (c * s->height + y) * s->width;
            uint8_t *row = w->arena + to->at + y * to->row;
            if (s->planes)
                memcpy(row + c * s->planes, from, (size_t)s->width * 4);
            else
                for (int64_t x = 0; x < s->width; x++)
                    memcpy(row + x * to->pixel + 4 * c, from + x, 4);
        }
    if (s->planes && w->part == 0)
        for (int64_t c = 0; c < s->channels; c++) {
            view plane = *to;
            plane.at += c * s->planes;
            clear_border(w->arena, &plane, &s->finish.border);
        }
}

static void place(const worker *w, const step *s)
{
    const view *to = &s->finish.to;
    for (int64_t y = share(w, s->height, w->part); y < share(w, s->height, w->part + 1); y++)
        for (int64_t x = 0; x < s->width; x++)
            memmove(
                w->arena + to->at + y * to->row + x * to->pixel,
                w->arena + s->from.at + y * s->from.row + x * s->from.pixel, (size_t)s->channels * 4);
}

static void run_step(const worker *w, const step *s, const matrix *m)
{
    if (m && m->skipped)
        return;
    if (w->part == 0 && !(s->kind == LOAD && s->planes)) {
        if (!s->pooled)
            clear_borders(w->arena, &s->finish);
        else
            clear_borders(w->arena, &s->after);
    }
    if (s->kind == LOAD)
        load(w, s);
    else if (s->kind == PLACE)
        place(w, s);
    else if (m && m->used)
        apot_multiply(w, s, m);
    else if (s->kind == SPREAD)
        spread_rows(w, s);
    else if (s->kind == CONVOLVE && s->pooled)
        convolve_and_pool(w, s, m);
    else if (m && m->halves)
        convolve_rows(w, s, m);
    else if (s->kind == CONVOLVE)
        convolve(w, s);
    else
        rows(w, s);
}

/* --- threads --------------------------------------------------------------------------------- */

/* What the threads of a run share. */
typedef struct {
    const apot_network *network;
    const step *steps;
    const matrix *matrices; /* of the steps, or NULL */
    int64_t count, images, threads;
    const float *pixels;
    float *outputs;
    void *trace;
    uint8_t *workspace;
    atomic_long arrived;
} job;

typedef struct {
    job *job;
    int64_t index;
} thread;

static int64_t bytes_of_thread(const apot_network *n)
{
    return n->plan.arena_bytes + n->plan.scratch_bytes + n->ring_bytes;
}

/* Wait until every thread came here as often as this one. */
static void meet(job *j, long *times)
{
    if (j->threads == 1)
        return;
    long all = ++*times * (long)j->threads;
    atomic_fetch_add_explicit(&j->arrived, 1, memory_order_acq_rel);
    for (int spins = 0; atomic_load_explicit(&j->arrived, memory_order_acquire) < all; spins++)
        if (spins > SPINS)
            sched_yield();
}

static void run_image(job *j, worker *w, int64_t image, long *times)
{
    const plan *p = &j->network->plan;
    w->image = j->pixels + image * p->channels * p->height * p->width;
    for (int64_t i = 0; i < j->count; i++) {
        run_step(w, &j->steps[i], j->matrices ? &j->matrices[i] : NULL);
        if (w->parts > 1)
            meet(j, times);
    }
    if (w->part == 0 && j->outputs)
        memcpy(j->outputs + image * p->outputs, w->arena + p->output_at, (size_t)p->outputs * 4);
    if (w->parts > 1)
        meet(j, times);
}

/* A thread's images, each for itself, then its rows of those that are left over. */
static void *work(void *given)
{
    const thread *t = given;
    job *j = t->job;
    const apot_network *n = j->network;
    uint8_t *own = j->workspace + t->index * bytes_of_thread(n);
    uint8_t *scratch = own + n->plan.arena_bytes;
    worker w = {n->by, own, scratch, scratch + n->plan.scratch_bytes, NULL, j->trace, 0, 1};
    int64_t alone = j->images - j->images % j->threads;
    long times = 0;
    for (int64_t i = t->index; i < alone; i += j->threads)
        run_image(j, &w, i, &times);
    meet(j, &times); /* the first thread's values are everybody's from here on */
    w.arena = j->workspace;
    w.part = t->index;
    w.parts = j->threads;
    for (int64_t i = alone; i < j->images; i++)
        run_image(j, &w, i, &times);
    return NULL;
}

static int run_job(job *j)
{
    thread threads[APOT_MOST_THREADS];
    pthread_t others[APOT_MOST_THREADS];
    int64_t started = 1;
    for (int64_t i = 0; i < j->threads; i++)
        threads[i] = (thread){j, i};
    while (started < j->threads && !pthread_create(&others[started], NULL, work, &threads[started]))
        started++;
    int all = started == j->threads;
    if (all)
        work(&threads[0]);
    else /* nobody waits for those that are missing */
        atomic_fetch_add(&j->arrived, (long)1 << 40);
    for (int64_t i = 1; i < started; i++)
        pthread_join(others[i], NULL);
    return all ? APOT_OK : APOT_NO_THREADS;
}

/* Run a job in a workspace that begins with a cache line, which the caller's may not. */
static int run_in(job *j, void *workspace)
{
    size_t size = apot_workspace_bytes(j->network, (int)j->threads);
    uint8_t *own = workspace ? NULL : malloc(size);
    if (!workspace && !own)
        return APOT_NO_MEMORY;
    uint8_t *start = workspace ? workspace : own;
    j->workspace = start + (-(uintptr_t)start & (PLAN_LINE - 1));
    int status = run_job(j);
    free(own);
    return status;
}

/* --- what the library exports ---------------------------------------------------------------- */

const kernels *apot_find_kernels(int index)
{
    typedef const kernels *getter(void);
    getter *const all[] = {
        apot_amx, apot_avx512_vbmi, apot_avx512, apot_avx_vnni, apot_avx2, apot_neon, apot_plain};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const kernels *found = all[i]();
        if (found && index-- == 0)
            return found;
    }
    return NULL;
}

const char *apot_kernels_at(int index)
{
    const kernels *found = index < 0 ? NULL : apot_find_kernels(index);
    return found ? found->name : NULL;
}

static int threads_are_possible(int threads)
{
    return threads >= 1 && threads <= APOT_MOST_THREADS;
}

size_t apot_workspace_bytes(const apot_network *n, int threads)
{
    if (!n || !threads_are_possible(threads))
        return 0;
    return (size_t)(bytes_of_thread(n) * threads + PLAN_LINE);
}

int apot_run(
    const apot_network *n, const float *images, int64_t count, float *outputs, int threads,
    void *workspace)
{
    if (!n || count < 0 || (count && (!images || !outputs)) || !threads_are_possible(threads))
        return APOT_BAD_ARGUMENT;
    job j = {.network = n, .steps = n->steps, .matrices = n->matrices, .count = n->plan.steps,
             .images = count, .threads = threads, .pixels = images, .outputs = outputs};
    return count ? run_in(&j, workspace) : APOT_OK;
}

int apot_run_step(
    const apot_network *n, int64_t index, const float *image, void *sums, int threads,
    void *workspace)
{
    if (!n || !image || !workspace || index < 0 || index >= n->plan.steps ||
        !threads_are_possible(threads))
        return APOT_BAD_ARGUMENT;
    job j = {.network = n, .steps = n->steps + index, .count = 1, .images = 1, .threads = threads,
             .pixels = image, .trace = sums};
    j.matrices = n->matrices ? n->matrices + index : NULL;
    return run_in(&j, workspace);
}
