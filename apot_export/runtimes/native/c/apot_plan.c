/* Checks a plan: after this, no step leaves the arena, its scratch or the constants, whatever the file
 * says. Numbers that could overflow are 128 bits wide. */
#include "apot_steps.h"

#include <string.h>

typedef __int128 wide;

#define MOST_EXTENT ((int64_t)1 << 31) /* of pixels, channels, taps and other counts */
#define MOST_BYTES ((int64_t)1 << 40)
#define MOST_ENTRIES 65536 /* of a table of levels */
#define SHUFFLED_CHUNKS 4
#define SPREAD_CHANNELS LANES /* which a transform takes at once */
#define SPREAD_REACH 3     /* pixels of a transform's window beyond the first */

/* What is checked, and what it may use. Checks go on after one failed; `sound` remembers it. */
typedef struct {
    const plan *plan;
    uint8_t *memory;
    int sound;
} check;

static void require(check *c, int holds)
{
    c->sound &= holds != 0;
}

static int within(int64_t number, int64_t low, int64_t high)
{
    return number >= low && number <= high;
}

static int64_t padded(int64_t channels)
{
    return (channels + LANES - 1) / LANES * LANES;
}

/* Make a pointer of the address of a constant, which is NULL or has that many bytes. */
static void point(check *c, void *address, wide bytes)
{
    int64_t at;
    const uint8_t *pointer;
    memcpy(&at, address, sizeof at);
    int fits = at >= (int64_t)sizeof(plan) && at % PLAN_LINE == 0 && at + bytes <= c->plan->steps_at;
    pointer = at && fits ? c->memory + at : NULL;
    require(c, at == 0 || fits);
    memcpy(address, &pointer, sizeof pointer);
}

/* --- places in the arena ---------------------------------------------------------------------- */

/* A view of rows of pixels of so many bytes, read or written up to `beyond` bytes further. Rows and pixels
 * do not overlap, so that their number is bounded by the arena. */
static void require_inside(
    check *c, const view *v, wide rows, wide pixels, wide bytes, wide beyond, int floats)
{
    int positive = within(v->at, 0, MOST_BYTES) && within(v->row, 0, MOST_BYTES) &&
                   within(v->pixel, 0, MOST_BYTES) && rows >= 1 && pixels >= 1 && bytes >= 0;
    require(c, positive && beyond >= 0);
    require(c, (pixels == 1 || v->pixel >= bytes) && (rows == 1 || v->row >= (pixels - 1) * v->pixel + bytes));
    require(c, !floats || (v->at % 4 == 0 && v->row % 4 == 0 && v->pixel % 4 == 0));
    if (positive) {
        wide end = v->at + (rows - 1) * v->row + (pixels - 1) * v->pixel + bytes + beyond;
        require(c, end <= c->plan->arena_bytes);
    }
}

static void require_border(check *c, const view *v, const frame *b, int64_t height, int64_t width)
{
    if (!b->rows && !b->columns)
        return;
    require(c, b->height == height && b->width == width && within(b->zero, 0, 255));
    require(c, within(b->rows, 0, MOST_EXTENT) && within(b->columns, 0, MOST_EXTENT));
    require(c, within(b->bytes, 1, MOST_BYTES));
    if (!c->sound)
        return;
    wide before = (wide)b->rows * v->row + (wide)b->columns * v->pixel;
    require(c, before <= v->at);
    view corner = {v->at - (int64_t)before, v->row, v->pixel};
    if (c->sound)
        require_inside(
            c, &corner, b->height + 2 * b->rows, 1, (wide)(b->width + 2 * b->columns) * b->bytes, 0, 0);
}

static void require_projection(
    check *c, projection *p, int64_t height, int64_t width, int64_t channels, int positive)
{
    require_inside(c, &p->to, height, width, channels, 0, 0);
    require_border(c, &p->to, &p->border, height, width);
    require(c, within(p->kind, UNIFORM, INDEXED) && (positive || p->below == 1));
    require(c, p->scale > 0 && p->scale <= 3e38f && p->first <= 0 && p->first >= -MOST_ENTRIES);
    require(c, p->last >= 0 && p->last < MOST_ENTRIES);
    if (!c->sound)
        return;
    require(c, p->first == (float)(int64_t)p->first && p->last == (float)(int64_t)p->last);
    require(c, within(p->chunks, 1, p->kind == SHUFFLED ? SHUFFLED_CHUNKS : MOST_ENTRIES / PLAN_LINE));
    require(c, p->last < (float)(p->chunks * PLAN_LINE));
    point(c, &p->table, (wide)p->chunks * PLAN_LINE);
    require(c, p->table != NULL);
}

/* What follows the sums of rows of pixels; those of a ring go elsewhere. Kernels take addresses of views
 * before they know whether they use them: those that they do not are made harmless. */
static void require_finishing(
    check *c, finishing *f, int64_t height, int64_t width, int64_t channels, int ring)
{
    const view nowhere = {0};
    int64_t all = padded(channels);
    point(c, &f->scale, (wide)all * 4);
    point(c, &f->bias, (wide)all * 4);
    require(c, !f->scale == !f->bias);
    require(c, within(f->has_addend, 0, !ring) && within(f->stored, ring, 1));
    require(c, within(f->bounds, 0, 2) && within(f->projections, 0, ring ? 0 : PROJECTIONS));
    if (f->has_addend)
        require_inside(c, &f->addend, height, width, (wide)all * 4, 0, 1);
    else
        f->addend = nowhere;
    if (f->stored && !ring) {
        require_inside(c, &f->to, height, width, (wide)all * 4, 0, 1);
        require_border(c, &f->to, &f->border, height, width);
    } else if (!ring)
        f->to = nowhere;
    for (int64_t i = f->projections < 0 ? 0 : f->projections; i < PROJECTIONS; i++)
        f->levels[i].to = nowhere;
    /* What is not below 0 needs no lower bound. */
    int positive = f->bounds && f->low >= 0 && (f->bounds == 1 || f->high >= 0);
    for (int64_t i = 0; c->sound && i < f->projections; i++)
        require_projection(c, &f->levels[i], height, width, all, positive);
}

/* --- steps ------------------------------------------------------------------------------------ */

static wide largest_offset(check *c, const step *s, int64_t multiple)
{
    wide largest = 0;
    for (int64_t i = 0; c->sound && i < s->taps; i++) {
        require(c, s->offsets[i] >= 0 && s->offsets[i] % multiple == 0);
        largest = s->offsets[i] > largest ? s->offsets[i] : largest;
    }
    return largest;
}

static void require_scratch(check *c, wide bytes)
{
    require(c, bytes <= c->plan->scratch_bytes);
}

static void require_pool(check *c, const step *s)
{
    const int64_t extents[] = {s->pool_height, s->pool_width, s->pool_kernel_y, s->pool_kernel_x,
                               s->pool_stride_y, s->pool_stride_x};
    for (size_t i = 0; i < sizeof extents / sizeof *extents; i++)
        require(c, within(extents[i], 1, MOST_EXTENT));
    require(c, within(s->pool_pad_y, 0, MOST_EXTENT) && within(s->pool_pad_x, 0, MOST_EXTENT));
}

static void require_weights(check *c, step *s, wide bytes)
{
    require(c, within(s->taps, 1, MOST_EXTENT) && within(s->integers, 0, 1));
    point(c, &s->offsets, (wide)s->taps * 4);
    point(c, &s->weights, bytes);
    point(c, &s->high_weights, bytes);
    point(c, &s->corrections, (wide)padded(s->channels) * 4 * (s->winograd ? 4 : 1));
    require(c, s->offsets && s->weights && within(s->narrow_run, 0, MOST_EXTENT));
    require(c, s->integers || (!s->high_weights && !s->corrections));
}

static void require_ring(check *c, step *s)
{
    wide pixel = (wide)padded(s->channels) * 4, row = s->width * pixel;
    require_pool(c, s);
    require(c, !s->winograd && s->finish.to.row == row && s->finish.to.pixel == pixel);
    require(c, s->ring_bytes == row * s->pool_kernel_y);
    require_scratch(c, row * s->pool_kernel_y + s->pool_width * pixel);
    require_finishing(c, &s->after, s->pool_height, s->pool_width, s->channels, 0);
}

static void check_convolution(check *c, step *s)
{
    int64_t lanes = padded(s->channels) / LANES, planes = s->winograd ? POSITIONS : 1;
    require(c, within(s->winograd, 0, 1) && within(s->pooled, 0, 1));
    require(c, within(s->rows, 1, MOST_EXTENT) && within(s->columns, 1, MOST_EXTENT));
    require(c, within(s->run, 1, LONGEST_RUN) && s->run <= s->columns);
    require(c, within(s->blocks, 1, MOST_EXTENT) && within(s->group_blocks, 1, s->blocks));
    require(c, within(s->group_bytes, 0, MOST_BYTES) && within(s->planes, 0, MOST_BYTES));
    require(c, within(s->stride_y, 1, MOST_EXTENT) && within(s->stride_x, 1, MOST_EXTENT));
    require_weights(c, s, (wide)padded(s->channels) * 4 * s->taps * planes);
    if (!c->sound)
        return;
    int64_t groups = s->blocks / s->group_blocks, each = lanes / groups;
    require(c, s->blocks % s->group_blocks == 0 && lanes % groups == 0);
    require(c, s->group_blocks == (each + WIDEST_BLOCK - 1) / WIDEST_BLOCK);
    if (s->winograd) {
        require(c, s->integers && s->corrections && !s->high_weights && s->channels % LANES == 0);
        require(c, s->rows == (s->height + 1) / 2 && s->columns == (s->width + 1) / 2);
    } else
        require(c, s->rows == s->height && s->columns == s->width);
    wide stride_y = s->winograd ? 1 : s->stride_y, stride_x = s->winograd ? 1 : s->stride_x;
    wide beyond = largest_offset(c, s, 1) + (wide)(groups - 1) * s->group_bytes +
                  (wide)(planes - 1) * s->planes;
    require_inside(
        c, &s->from, (s->rows - 1) * stride_y + 1, (s->columns - 1) * stride_x + 1, 4, beyond, 0);
    require_finishing(c, &s->finish, s->height, s->width, s->channels, (int)s->pooled);
    if (s->pooled)
        require_ring(c, s);
}

static void check_depthwise(check *c, step *s)
{
    int64_t all = padded(s->channels), item = s->integers ? 1 : 4;
    require(c, within(s->stride_y, 1, MOST_EXTENT) && within(s->stride_x, 1, MOST_EXTENT));
    require(c, !s->winograd);
    require_weights(c, s, (wide)all * 4 * s->taps);
    if (!c->sound)
        return;
    require_inside(
        c, &s->from, (s->height - 1) * (wide)s->stride_y + 1, (s->width - 1) * (wide)s->stride_x + 1,
        (wide)all * item, largest_offset(c, s, item), item == 4);
}

static void check_spread(check *c, const step *s)
{
    require(c, within(s->rows, 1, MOST_EXTENT) && within(s->columns, 1, MOST_EXTENT));
    require(c, s->channels % SPREAD_CHANNELS == 0 && within(s->planes, 0, MOST_BYTES));
    require(c, within(s->offset, 0, 255) && !s->finish.stored && !s->finish.projections);
    if (!c->sound)
        return;
    require_inside(
        c, &s->from, 2 * (s->rows - 1) + 1 + SPREAD_REACH, 2 * (s->columns - 1) + 1 + SPREAD_REACH,
        s->channels, 0, 0);
    require_inside(
        c, &s->finish.to, s->rows, s->columns, s->channels, (wide)(POSITIONS - 1) * s->planes, 0);
}

/* LOAD and PLACE: `channels` floats of each pixel, or planes of them. */
static void check_move(check *c, const step *s)
{
    const finishing *f = &s->finish;
    require(c, f->stored == 1 && !f->projections && within(s->planes, 0, MOST_BYTES));
    if (!c->sound)
        return;
    if (s->kind == LOAD) {
        const plan *p = c->plan;
        require(c, s->channels == p->channels && s->height == p->height && s->width == p->width);
    } else
        require_inside(c, &s->from, s->height, s->width, (wide)s->channels * 4, 0, 1);
    if (s->kind == PLACE || !s->planes) {
        require_inside(c, &f->to, s->height, s->width, (wide)s->channels * 4, 0, 1);
        require_border(c, &f->to, &f->border, s->height, s->width);
        return;
    }
    view last = f->to;
    wide at = last.at + (wide)(s->channels - 1) * s->planes;
    require(c, at <= MOST_BYTES);
    last.at = (int64_t)at;
    const view *ends[] = {&f->to, &last}; /* of all planes, the first and the last reach furthest */
    for (int i = 0; c->sound && i < 2; i++) {
        require_inside(c, ends[i], s->height, 1, (wide)s->width * 4, 0, 1);
        require_border(c, ends[i], &f->border, s->height, s->width);
    }
}

/* Steps that read rows of floats, and what follows. */
static void check_rows(check *c, const step *s)
{
    wide rows = s->height, columns = s->width, bytes = (wide)padded(s->channels) * 4;
    const int64_t extents[] = {s->input_height, s->input_width, s->kernel_y, s->kernel_x,
                               s->stride_y, s->stride_x};
    int used = s->kind == MAXIMUM || s->kind == UNROLL ? 2 : s->kind == REPEAT ? 4 : 6;
    for (int i = 0; s->kind != APPLY && i < used; i++)
        require(c, within(extents[i], 1, MOST_EXTENT));
    if (s->kind == MAXIMUM) {
        require_pool(c, s);
        require(c, s->pool_height == s->height && s->pool_width == s->width);
    }
    if (!c->sound)
        return;
    if (s->kind == MAXIMUM || s->kind == UNROLL) {
        rows = s->input_height;
        columns = s->input_width;
    } else if (s->kind == MEAN) {
        rows = (rows - 1) * s->stride_y + s->kernel_y;
        columns = (columns - 1) * s->stride_x + s->kernel_x;
    } else if (s->kind == REPEAT) {
        rows = (rows - 1) / s->kernel_y + 1;
        columns = (columns - 1) / s->kernel_x + 1;
    }
    if (s->kind == UNROLL) {
        require(c, s->height == 1 && s->width == 1 && s->channels % (rows * columns) == 0);
        bytes = s->channels / (rows * columns) * 4;
    }
    require_inside(c, &s->from, rows, columns, bytes, 0, 1);
}

static void check_step(check *c, step *s)
{
    require(c, within(s->kind, LOAD, SPREAD) && within(s->channels, 1, MOST_EXTENT));
    require(c, within(s->height, 1, MOST_EXTENT) && within(s->width, 1, MOST_EXTENT));
    if (!c->sound)
        return;
    if (s->kind == LOAD || s->kind == PLACE)
        check_move(c, s);
    else if (s->kind == SPREAD)
        check_spread(c, s);
    else if (s->kind == CONVOLVE)
        check_convolution(c, s);
    else {
        if (s->kind == DEPTHWISE)
            check_depthwise(c, s);
        else
            check_rows(c, s);
        if (s->kind != APPLY)
            require_scratch(c, (wide)s->width * padded(s->channels) * 4);
        require_finishing(c, &s->finish, s->height, s->width, s->channels, 0);
        require(c, !s->pooled);
    }
}

int apot_plan_is_sound(const plan *p, uint8_t *memory, step *steps)
{
    check c = {p, memory, 1};
    view output = {p->output_at, 0, 0};
    require_inside(&c, &output, 1, 1, (wide)p->outputs * 4, 0, 1);
    for (int64_t i = 0; c.sound && i < p->steps; i++)
        check_step(&c, &steps[i]);
    return c.sound;
}
