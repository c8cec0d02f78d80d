/* Convolutions as products of matrices: which steps they are, and what the kernels read of them. */
#include "apot_work.h"

#include <stdlib.h>
#include <string.h>

#define VECTOR_PRODUCTS 128 /* that kernels without matrices do a cycle */
#define LARGEST_KERNEL 3    /* of a convolution that is `winograd` */
#define POSITION(i, j) ((i) * 4 + (j))
#define FEWEST_SPLIT_PIXELS 4 /* of a run: for fewer, vectors are as fast */

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
    const int64_t width = s->channels / s->blocks; /* of every block */
    const view *from = &spread->from;
    if (spread->kind != SPREAD || spread->finish.to.at != s->from.at || spread->rows < s->rows ||
        spread->columns < s->columns || inputs * 4 > spread->channels || width % LANES || width * s->blocks != s->channels)
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
    const int64_t tap = width * 4, position = inputs * tap;
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

/* --- floats ----------------------------------------------------------------------------------- */

/* Find the extents of a kernel in the offsets of a step: [row][column][channel], each at equal distances. */
static int find_kernel(matrix *m, const step *s)
{
    const int32_t *at = s->offsets;
    int64_t channels = 1, columns = 1;
    while (channels < s->taps && at[channels] != s->from.pixel)
        channels++;
    while (columns * channels < s->taps && at[columns * channels] != s->from.row)
        columns++;
    m->channels = channels;
    m->kernel_x = columns;
    m->kernel_y = s->taps / (columns * channels);
    m->between = channels > 1 ? at[1] : 4;
    if (m->kernel_y * columns * channels != s->taps || channels > MOST_SPLIT_CHANNELS ||
        columns > MOST_SPLIT_CHANNELS)
        return 0;
    for (int64_t i = 0; i < s->taps; i++) {
        int64_t c = i % channels, x = i / channels % columns, y = i / channels / columns;
        if (at[i] != y * s->from.row + x * s->from.pixel + c * m->between)
            return 0;
    }
    return 1;
}

/* Whether a weight is a bfloat16 whose products with parts of numbers are no denormal ones. */
static int is_half(float weight)
{
    uint32_t bits;
    memcpy(&bits, &weight, sizeof bits);
    float magnitude = __builtin_fabsf(weight);
    return !(bits & 0xffff) && (!bits || (magnitude >= 0x1p-20f && magnitude <= 0x1p20f));
}

/* Weights [block][chunk][pair of words][channel][2], each three times, for the parts of what it multiplies. */
static void halve_weights(const matrix *m, const step *s)
{
    int64_t words = PARTS * m->channels * m->kernel_x, of_row = m->chunks / m->kernel_y * m->taps * 2;
    for (int64_t index = 0; index < s->blocks; index++) {
        channel_block b = channels_at(s, index);
        int64_t lanes = b.groups * LANES;
        const float *from = (const float *)s->weights + b.channel * s->taps;
        uint8_t *to = m->own + b.channel * m->chunks * m->taps * 4;
        for (int64_t i = 0; i < m->kernel_y * of_row; i++) {
            int64_t y = i / of_row, word = i % of_row;
            int64_t tap = y * m->kernel_x * m->channels + word / PARTS;
            for (int64_t lane = 0; lane < lanes; lane++) {
                uint8_t *at = to + (i / 2 * lanes + lane) * 4 + i % 2 * 2;
                memset(at, 0, 2);
                if (word < words)
                    memcpy(at, (const uint8_t *)&from[tap * lanes + lane] + 2, 2);
            }
        }
    }
}

/* A convolution of floats whose weights are bfloat16: each float is the sum of three such numbers, exactly. Its
 * sums are rounded less often than there are taps. */
static int find_halves(matrix *m, apot_network *n, const step *s)
{
    int64_t weights = padded(s->channels) * s->taps;
    if (s->group_blocks != s->blocks || !find_kernel(m, s))
        return APOT_OK;
    for (int64_t i = 0; i < weights; i++)
        if (!is_half(((const float *)s->weights)[i]))
            return APOT_OK;
    int64_t pairs = (PARTS * m->channels * m->kernel_x + 1) / 2;
    int64_t chunks = (pairs + CHUNK_TAPS - 1) / CHUNK_TAPS;
    m->taps = (pairs + chunks - 1) / chunks;
    m->chunks = chunks * m->kernel_y;
    m->columns = (s->columns - 1) * s->stride_x + m->kernel_x;
    m->at = s->from.at;
    m->pixel = s->stride_x * PARTS * m->channels * 2;
    m->extent = m->pitch = s->columns;
    m->runs = m->runs_of_extent = (s->columns + LONGEST_MATRIX_RUN - 1) / LONGEST_MATRIX_RUN;
    m->pixels = (s->columns + m->runs - 1) / m->runs;
    /* Behind a row, what its last chunk reads further, and the word behind the last number. */
    m->row = round_up((m->columns * PARTS * m->channels + chunks * m->taps * 2 + 2) * 2, PLAN_LINE);
    int64_t ring = m->kernel_y * (m->row + PLAN_LINE);
    if (m->pixels < FEWEST_SPLIT_PIXELS || m->taps + m->chunks > s->taps ||
        m->chunks > MOST_SPLIT_CHUNKS || ring > 2 * n->plan.arena_bytes)
        return APOT_OK;
    m->own = aligned_alloc(PLAN_LINE, (size_t)(padded(s->channels) * m->chunks * m->taps * 4));
    if (!m->own)
        return APOT_NO_MEMORY;
    halve_weights(m, s);
    m->weights = m->own;
    m->halves = 1;
    n->ring_bytes = ring > n->ring_bytes ? ring : n->ring_bytes;
    return APOT_OK;
}

static int find_matrix(matrix *m, apot_network *n, const step *s)
{
    if (s->kind != CONVOLVE || (s->integers && s->pooled))
        return APOT_OK;
    if (!s->integers)
        return find_halves(m, n, s);
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
        status = find_matrix(&n->matrices[i], n, &n->steps[i]);
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
