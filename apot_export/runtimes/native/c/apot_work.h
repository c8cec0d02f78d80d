/* What threads that run a step share. */
#ifndef APOT_WORK_H
#define APOT_WORK_H

#include "apot_steps.h"

/* A thread's share of an image: `part` of `parts`, with bytes of its own. */
typedef struct {
    const kernels *by;
    uint8_t *arena, *scratch, *ring; /* `ring`: rows that are split for products of matrices */
    const float *image;
    void *trace; /* where the sums go, [height, width, channels], or NULL */
    int64_t part, parts;
} worker;

static inline int64_t share(const worker *w, int64_t count, int64_t part)
{
    return count * part / w->parts;
}

static inline int64_t padded(int64_t channels)
{
    return (channels + LANES - 1) / LANES * LANES;
}

/* Output channels whose weights lie together. */
typedef struct {
    int64_t channel, groups; /* the first channel; groups of LANES */
    int64_t input;           /* bytes from a pixel's first channel to the first that they read */
} channel_block;

static inline channel_block channels_at(const step *s, int64_t index)
{
    int64_t lanes_of_group = padded(s->channels) / LANES / (s->blocks / s->group_blocks);
    int64_t group = index / s->group_blocks, first = index % s->group_blocks * WIDEST_BLOCK;
    int64_t groups = lanes_of_group - first < WIDEST_BLOCK ? 1 : WIDEST_BLOCK;
    return (channel_block){(group * lanes_of_group + first) * LANES, groups, group * s->group_bytes};
}

/* Write the sums of pixels of one row where the caller wants to see them. */
void apot_write_trace(
    const worker *w, const step *s, const int32_t *sums, int64_t pixels, int64_t groups,
    int64_t channel, int64_t y, int64_t x);

/* Take the sums of a step of levels as products of matrices, and finish them. */
void apot_multiply(const worker *w, const step *s, const matrix *m);

/* The same of a row of a step of floats, which goes to a ring of so many rows, or to its place for 0; returns 0,
 * and has done nothing, where their products would not be exact. `ready` is 0 before the first of rows that
 * ascend. */
int apot_multiply_row(
    const worker *w, const step *s, const matrix *m, const finishing *f, int64_t y,
    int64_t ring_rows, int64_t *ready);

#endif
