/* Convolutions as products of matrices: which steps they are, and how they are cut for the kernels. */
#include "apot_work.h"

#include <stdlib.h>
#include <string.h>

#define VECTOR_PRODUCTS 128 /* that kernels without matrices do a cycle */
#define LARGEST_KERNEL 3    /* of a convolution that is `winograd` */
#define POSITION(i, j) ((i) * 4 + (j))

/* --- which steps ------------------------------------------------------------------------------ */

static int64_t round_up(int64_t number, int64_t multiple)
{
    return (number + multiple - 1) / multiple * multiple;
}

/* Taps of the longest chunks, of 16 at most, that a step's taps are made of: they lie side by side. */
static int64_t taps_of_chunk(const int32_t *offsets, int64_t taps)
{
    int64_t common = 0;
    for (int64_t i = 0, run = 1; i < taps; i++, run++)
        if (i + 1 == taps || offsets[i + 1] != offsets[i] + 4) {
            for (int64_t other = run; other;) {
                int64_t rest = common % other;
                common = other;
                other = rest;
            }
            run = 0;
        }
    int64_t found = common < CHUNK_TAPS ? common : CHUNK_TAPS;
    while (common % found)
        found--;
    return found;
}

/* Cut the pixels of a step into runs. Where rows follow each other and it takes fewer runs, all are cut at
 * once, with what lies between them. */
static void cut(matrix *m, const step *s, const view *from)
{
    m->at = from->at;
    m->row = from->row * (s->winograd ? 1 : s->stride_y);
    m->pixel = from->pixel * (s->winograd ? 1 : s->stride_x);
    int64_t rows = s->height, columns = s->width;
    m->extent = m->pitch = columns;
    if (m->pixel > 0 && m->row % m->pixel == 0 && m->row / m->pixel >= columns) {
        int64_t pitch = m->row / m->pixel, all = (rows - 1) * pitch + columns;
        if (round_up(all, LONGEST_MATRIX_RUN) < rows * round_up(columns, LONGEST_MATRIX_RUN)) {
            m->pitch = pitch;
            m->extent = all;
            rows = 1;
        }
    }
    m->runs_of_extent = (m->extent + LONGEST_MATRIX_RUN - 1) / LONGEST_MATRIX_RUN;
    m->pixels = (m->extent + m->runs_of_extent - 1) / m->runs_of_extent;
    m->runs = m->runs_of_extent * rows;
}

/* Let a matrix read chunks of taps at these offsets. */
static int read_at(matrix *m, const int32_t *offsets, int64_t taps)
{
    m->taps = taps_of_chunk(offsets, taps);
    m->chunks = taps / m->taps;
    m->used = m->pixels * m->taps * 4 > VECTOR_PRODUCTS;
    if (!m->used)
        return APOT_OK;
    m->offsets = malloc((size_t)m->chunks * sizeof *m->offsets);
    if (!m->offsets)
        return APOT_NO_MEMORY;
    for (int64_t i = 0; i < m->chunks; i++)
        m->offsets[i] = offsets[i * m->taps];
    return APOT_OK;
}

/* Weights of a 3 x 3 kernel, from four times their transforms, which `_weights.py` takes. */
static void kernel_of(const int8_t *transforms, ptrdiff_t position, int8_t *to, ptrdiff_t tap)
{
    int t[POSITIONS], w[9];
    for (int i = 0; i < POSITIONS; i++)
        t[i] = transforms[i * position];
    w[0] = t[POSITION(0, 0)] / 4;
    w[2] = t[POSITION(0, 3)] / 4;
    w[6] = t[POSITION(3, 0)] / 4;
    w[8] = t[POSITION(3, 3)] / 4;
    w[1] = t[POSITION(0, 1)] / 2 - w[0] - w[2];
    w[3] = t[POSITION(1, 0)] / 2 - w[0] - w[6];
    w[5] = t[POSITION(1, 3)] / 2 - w[2] - w[8];
    w[7] = t[POSITION(3, 1)] / 2 - w[6] - w[8];
    w[4] = t[POSITION(1, 1)] - w[0] - w[1] - w[2] - w[3] - w[5] - w[6] - w[7] - w[8];
    for (int i = 0; i < 9; i++)
        to[i * tap] = (int8_t)w[i];
}

/* A `winograd` convolution, from the levels that the step before it transforms: matrices need no fewer
 * products, and the transforms take longer than they save. */
static int find_untransformed(matrix *m, matrix *before, const step *s, const step *spread)
{
    const int64_t inputs = s->taps, taps = LARGEST_KERNEL * LARGEST_KERNEL * inputs;
    const view *from = &spread->from;
    if (spread->kind != SPREAD || spread->finish.to.at != s->from.at || spread->rows < s->rows ||
        spread->columns < s->columns || inputs * 4 > spread->channels || s->blocks * WIDEST_BLOCK * LANES != s->channels)
        return APOT_OK;
    int32_t *offsets = malloc((size_t)taps * sizeof *offsets);
    if (!offsets)
        return APOT_NO_MEMORY;
    for (int64_t i = 0; i < taps; i++) {
        int64_t place = i / inputs, y = place / LARGEST_KERNEL, x = place % LARGEST_KERNEL;
        offsets[i] = (int32_t)(y * from->row + x * from->pixel + i % inputs * 4);
    }
    cut(m, s, from);
    int status = read_at(m, offsets, taps);
    free(offsets);
    if (status || !m->used)
        return status;
    const int64_t tap = WIDEST_BLOCK * LANES * 4, position = inputs * tap;
    m->own = aligned_alloc(PLAN_LINE, (size_t)(s->blocks * taps * tap));
    if (!m->own)
        return APOT_NO_MEMORY;
    m->weights = m->own;
    for (int64_t b = 0; b < s->blocks; b++)
        for (int64_t i = 0; i < position; i++)
            kernel_of(
                (const int8_t *)s->weights + b * POSITIONS * position + i, position,
                (int8_t *)m->own + b * taps * tap + i, position);
    before->skipped = 1;
    return APOT_OK;
}

static int find_matrix(matrix *m, const step *s)
{
    if (s->kind != CONVOLVE || !s->integers || s->pooled)
        return APOT_OK;
    if (s->winograd)
        return find_untransformed(m, m - 1, s, s - 1);
    cut(m, s, &s->from);
    m->weights = s->weights;
    m->high_weights = s->high_weights;
    return read_at(m, s->offsets, s->taps);
}

int apot_find_matrices(apot_network *n)
{
    if (!n->by->matrices)
        return APOT_OK;
    n->matrices = calloc((size_t)n->plan.steps, sizeof *n->matrices);
    int status = n->matrices ? APOT_OK : APOT_NO_MEMORY;
    for (int64_t i = 0; i < n->plan.steps && !status; i++)
        status = find_matrix(&n->matrices[i], &n->steps[i]);
    return status;
}

void apot_free_matrices(apot_network *n)
{
    for (int64_t i = 0; n->matrices && i < n->plan.steps; i++) {
        free(n->matrices[i].offsets);
        free(n->matrices[i].own);
    }
    free(n->matrices);
}

/* --- runs ------------------------------------------------------------------------------------- */

typedef int32_t run_sums[2 * LONGEST_MATRIX_RUN * WIDEST_BLOCK * LANES];

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

static int64_t runs_of_pair(const matrix *m, int64_t pair)
{
    return m->runs - 2 * pair < 2 ? 1 : 2;
}

/* Sums of a pair of runs. `part` of `parts` pairs brings its share of the next block's weights closer. */
static void multiply_pair(
    const worker *w, const step *s, const matrix *m, const channel_block *b, int64_t pair,
    const uint8_t *ahead, int64_t lines, int32_t *sums)
{
    int64_t runs = runs_of_pair(m, pair), at = b->channel * m->chunks * m->taps * 4;
    const uint8_t *from = w->arena + m->at + b->input;
    const uint8_t *first = window(from, m, place_of(m, 2 * pair).start);
    const uint8_t *second = runs > 1 ? window(from, m, place_of(m, 2 * pair + 1).start) : first;
    matrix_kernel *multiply = w->by->matrices->bytes[runs - 1][b->groups - 1];
    int64_t channels = b->groups * LANES;
    multiply(sums, first, second, m, m->offsets, m->weights + at, ahead, lines);
    if (m->high_weights) {
        run_sums high;
        multiply(high, first, second, m, m->offsets, m->high_weights + at, ahead, 0);
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
    const worker *w, const step *s, const matrix *m, const channel_block *b, int64_t pair,
    const int32_t *sums)
{
    int64_t channels = b->groups * LANES;
    for (int64_t run = 0; run < runs_of_pair(m, pair); run++, sums += m->pixels * channels) {
        place at = place_of(m, 2 * pair + run);
        int64_t pixel = at.fresh, end = at.start + m->pixels;
        while (pixel < end) {
            int64_t y = pixel / m->pitch, x = pixel % m->pitch;
            int64_t next = (y + 1) * m->pitch, inside = s->width - x;
            if (inside > end - pixel)
                inside = end - pixel;
            const int32_t *part = sums + (pixel - at.start) * channels;
            if (inside > 0 && w->trace)
                apot_write_trace(w, s, part, inside, b->groups, b->channel, y, x);
            if (inside > 0)
                w->by->finish(
                    &s->finish, w->arena, part, channels * 4, 1, inside, b->groups, b->channel, y, x);
            pixel = next;
        }
    }
}

/* Pairs of runs for a block of channels. A pair is finished while the next one is multiplied. */
static void multiply_block(
    const worker *w, const step *s, const matrix *m, int64_t index, int64_t pair, int64_t end)
{
    channel_block b = channels_at(s, index);
    run_sums sums[2];
    int64_t bytes = b.groups * LANES * m->chunks * m->taps * 4;
    const uint8_t *next = m->weights + b.channel * m->chunks * m->taps * 4 + bytes;
    const uint8_t *last = index + 1 < s->blocks ? next + bytes : next;
    int64_t lines = (bytes / 64 + m->chunks * (end - pair) - 1) / (m->chunks * (end - pair));
    for (int64_t i = pair; i < end; i++) {
        multiply_pair(w, s, m, &b, i, next, next < last ? lines : 0, sums[i & 1]);
        next += m->chunks * lines * 64;
        if (i > pair)
            finish_pair(w, s, m, &b, i - 1, sums[(i - 1) & 1]);
    }
    finish_pair(w, s, m, &b, end - 1, sums[(end - 1) & 1]);
}

void apot_multiply(const worker *w, const step *s, const matrix *m)
{
    int64_t pairs = (m->runs + 1) / 2, end = share(w, pairs * s->blocks, w->part + 1);
    int64_t i = share(w, pairs * s->blocks, w->part);
    if (i == end)
        return;
    w->by->matrices->begin(m->pixels, m->taps);
    while (i < end) {
        int64_t first = i % pairs, last = end - i < pairs - first ? first + end - i : pairs;
        multiply_block(w, s, m, i / pairs, first, last);
        i += last - first;
    }
    w->by->matrices->end();
}
