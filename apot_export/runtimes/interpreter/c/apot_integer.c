/* The reference interpreter of integer programs. Everything it reads is described in FORMAT.md,
 * section 8. All sums are of unsigned numbers, modulo a power of two: exact wherever the exporter
 * proved that the result fits, and defined everywhere else. */
#include "apot_integer.h"

#include <string.h>

#define VERSION 1u
#define MAGIC 0x4e495041u /* "APIN" */
#define TRAILER_BYTES 16u
#define HEADER_BYTES 8u
#define LARGEST_COUNT 0x7fffffffu
#define LARGEST_EXTENT 0xffffu
#define LARGEST_POSTS 4u
#define LARGEST_USE 64u /* times the data: bytes of all parts together */
#define SATURATED ((uint64_t)1 << 62)

enum kind { LEVELS = 0, NARROW = 1, WIDE = 2, IMAGE = 3 }; /* uint8, int32, int64, the caller's */
enum opcode { CONVOLVE = 1, MAP = 2, SUM = 3, MAXIMUM = 4, TOTAL = 5, REPEAT = 6 };
enum finishing { STORE = 0, REQUANTIZE = 1, QUANTIZE = 2 };
enum weights { CODES = 0, PLANES = 1 };

/* --- numbers --------------------------------------------------------------------------------- */

static int64_t as_signed(uint64_t x)
{
    int64_t y;
    memcpy(&y, &x, sizeof y);
    return y;
}

/* x / 2^shift, rounded down. */
static int64_t shifted_right(int64_t x, unsigned shift)
{
    return x < 0 ? ~(~x >> shift) : x >> shift;
}

/* a * b without a multiplication; more than 2^62 is 2^62. For geometry, not for pixels. */
static uint64_t product(uint64_t a, uint64_t b)
{
    uint64_t sum = 0;
    while (b && sum < SATURATED) {
        if (b & 1)
            sum += a;
        b >>= 1;
        a = a < SATURATED ? a << 1 : SATURATED;
    }
    return sum < SATURATED ? sum : SATURATED;
}

static uint64_t rounded_up(uint64_t bytes)
{
    return (bytes + 7) & ~(uint64_t)7;
}

static uint32_t checksum(const uint8_t *bytes, uint64_t size)
{
    static const uint32_t table[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4,
        0x4db26158, 0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
        0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
    uint32_t crc = 0xffffffffu;
    for (; size; size--) {
        crc ^= *bytes++;
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}

/* --- reading --------------------------------------------------------------------------------- */

static uint32_t word_at(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t wide_at(const uint8_t *p)
{
    return (uint64_t)word_at(p) | (uint64_t)word_at(p + 4) << 32;
}

typedef struct {
    const uint8_t *at;
    const uint8_t *end;
    int bad;
} reader;

/* The next bytes; NULL, and a bad reader, where there are not so many. */
static const uint8_t *take(reader *r, uint64_t size)
{
    const uint8_t *found = r->at;
    if (r->bad || size > (uint64_t)(r->end - r->at)) {
        r->bad = 1;
        return NULL;
    }
    r->at += size;
    return found;
}

static uint32_t word(reader *r)
{
    const uint8_t *p = take(r, 4);
    return p ? word_at(p) : 0;
}

static uint64_t wide(reader *r)
{
    const uint8_t *p = take(r, 8);
    return p ? wide_at(p) : 0;
}

/* A word in a range; a bad reader where it is not. */
static uint32_t bounded(reader *r, uint32_t low, uint32_t high)
{
    uint32_t found = word(r);
    if (found < low || found > high)
        r->bad = 1;
    return r->bad ? low : found;
}

/* --- values ---------------------------------------------------------------------------------- */

typedef struct {
    uint32_t kind;
    uint64_t offset; /* bytes from the start of the workspace */
    uint8_t *at;     /* NULL while a program is only checked */
} value;

typedef struct {
    const apot_model *model;
    const int32_t *image;
    uint8_t *workspace; /* NULL while a program is only checked */
    uint64_t *unread;   /* bytes that parts may still have then: many can be the same ones */
} machine;

static unsigned size_log2(uint32_t kind)
{
    return kind == LEVELS ? 0 : kind == WIDE ? 3 : 2;
}

static int64_t load(const void *base, uint32_t kind, size_t index)
{
    if (kind == LEVELS)
        return ((const uint8_t *)base)[index];
    if (kind == WIDE)
        return ((const int64_t *)base)[index];
    return ((const int32_t *)base)[index];
}

static void store(void *base, uint32_t kind, size_t index, int64_t x)
{
    if (kind == LEVELS)
        ((uint8_t *)base)[index] = (uint8_t)x;
    else if (kind == WIDE)
        ((int64_t *)base)[index] = x;
    else
        ((uint32_t *)base)[index] = (uint32_t)x;
}

/* Read where a value lies. It has room for so many numbers. */
static value read_value(reader *r, const machine *m, uint64_t count, uint32_t largest_kind)
{
    value found;
    found.kind = bounded(r, 0, largest_kind);
    found.offset = word(r);
    found.at = NULL;
    if (count > LARGEST_COUNT || found.offset & (((uint64_t)1 << size_log2(found.kind)) - 1))
        r->bad = 1;
    else if (found.kind == IMAGE) {
        if (count > m->model->image_count || found.offset)
            r->bad = 1;
    } else if (found.offset > m->model->values_size ||
               count << size_log2(found.kind) > m->model->values_size - found.offset)
        r->bad = 1;
    if (!r->bad && m->workspace && found.kind != IMAGE)
        found.at = m->workspace + found.offset;
    return found;
}

static const void *start(const machine *m, const value *v)
{
    return v->kind == IMAGE ? (const void *)m->image : (const void *)v->at;
}

/* --- what happens to a channel of results ---------------------------------------------------- */

typedef struct {
    uint32_t how;
    value to;
    const uint8_t *record; /* of the current channel */
    uint32_t step;         /* from a channel's record to the next one's; 0: all share one */
    uint32_t shift;
    uint32_t digits;
    uint32_t thresholds;
    uint32_t threshold_bytes;
    const uint8_t *levels;
    int64_t low, high;
} post;

/* A record's multiplier as 64 bits. */
static uint64_t multiplier_at(const uint8_t *record)
{
    const uint64_t sign = 0x80000000u;
    return (word_at(record) ^ sign) - sign;
}

/* Every record's signed digits must sum to its multiplier. */
static void check_digits(reader *r, const post *p, uint32_t records)
{
    const uint8_t *record = p->record;
    for (; records; records--, record += p->step) {
        const uint8_t *digit = record + 12;
        uint32_t left = p->digits;
        uint64_t sum = 0;
        for (; left && *digit; left--, digit++) {
            const uint64_t part = (uint64_t)1 << (*digit & 63);
            sum += *digit & 128 ? 0 - part : part;
        }
        if (sum != multiplier_at(record))
            r->bad = 1;
    }
}

static void read_post(reader *r, const machine *m, post *p, uint32_t channels, uint64_t plane)
{
    uint32_t records;
    memset(p, 0, sizeof *p);
    p->how = bounded(r, STORE, QUANTIZE);
    p->to = read_value(r, m, product(channels, plane), WIDE);
    if (p->how == STORE) {
        p->low = as_signed(wide(r));
        p->high = as_signed(wide(r));
        return;
    }
    records = word(r);
    if (records != 1 && records != channels)
        r->bad = 1;
    if (p->how == REQUANTIZE) {
        p->shift = bounded(r, 0, 62);
        p->digits = bounded(r, 0, 32);
        p->step = 12 + p->digits;
        p->record = take(r, product(records, p->step));
        if (!m->workspace && !r->bad)
            check_digits(r, p, records);
    } else {
        p->thresholds = bounded(r, 0, LARGEST_EXTENT);
        p->threshold_bytes = bounded(r, 1, 8);
        p->levels = take(r, ((uint64_t)p->thresholds + 1) << 2);
        p->step = 1 + (uint32_t)product(p->thresholds, p->threshold_bytes);
        p->record = take(r, product(records, p->step));
    }
    if (records == 1)
        p->step = 0;
}

/* What a post-operation needs of the scratch memory: its channel's thresholds. */
static uint64_t post_scratch(const post *p)
{
    return (uint64_t)p->thresholds << 3;
}

static void store_plane(post *p, const void *from, uint32_t kind, size_t plane)
{
    size_t x;
    for (x = 0; x < plane; x++) {
        int64_t found = load(from, kind, x);
        found = found < p->low ? p->low : found > p->high ? p->high : found;
        store(p->to.at, p->to.kind, x, found);
    }
}

static void requantize_plane(post *p, const void *from, uint32_t kind, size_t plane)
{
    const uint64_t offset = wide_at(p->record + 4);
    size_t x;
#ifdef APOT_NO_MULTIPLY
    /* The multiplier's signed digits, a byte each: 64 is set in all, 128 in negative ones. */
    const uint8_t *digits = p->record + 12;
    const uint8_t *end = digits;
    while (end < digits + p->digits && *end)
        end++;
    for (x = 0; x < plane; x++) {
        const uint64_t found = (uint64_t)load(from, kind, x);
        uint64_t sum = offset;
        const uint8_t *digit;
        for (digit = digits; digit < end; digit++) {
            uint64_t part = found << (*digit & 63);
            sum += *digit & 128 ? 0 - part : part;
        }
        store(p->to.at, p->to.kind, x, shifted_right(as_signed(sum), p->shift));
    }
#else
    const uint64_t multiplier = multiplier_at(p->record);
    for (x = 0; x < plane; x++) {
        uint64_t sum = (uint64_t)load(from, kind, x) * multiplier + offset;
        store(p->to.at, p->to.kind, x, shifted_right(as_signed(sum), p->shift));
    }
#endif
}

/* thresholds: room for the channel's thresholds. */
static void quantize_plane(post *p, const void *from, uint32_t kind, size_t plane,
                           int64_t *thresholds)
{
    const unsigned sign_bit = (p->threshold_bytes << 3) - 1;
    const uint64_t sign = (uint64_t)1 << sign_bit;
    const uint8_t *at = p->record + 1;
    const int downwards = p->record[0];
    uint32_t k;
    size_t x;
    for (k = 0; k < p->thresholds; k++) {
        uint64_t bits = 0;
        unsigned place;
        for (place = 0; place <= sign_bit; place += 8)
            bits |= (uint64_t)*at++ << place;
        thresholds[k] = as_signed((bits ^ sign) - sign);
    }
    for (x = 0; x < plane; x++) {
        int64_t found = load(from, kind, x);
        const int64_t *first = thresholds;
        uint32_t left = p->thresholds;
        if (downwards)
            found = as_signed(0 - (uint64_t)found);
        while (left) { /* the number of thresholds that are not above it */
            uint32_t half = (left + 1) >> 1;
            first += first[half - 1] <= found ? half : 0;
            left -= half;
        }
        store(p->to.at, p->to.kind, x, word_at(p->levels + ((size_t)(first - thresholds) << 2)));
    }
}

/* Finish one channel and go to the next one. */
static void finish(post *p, const void *from, uint32_t kind, size_t plane, int64_t *thresholds)
{
    if (p->how == STORE)
        store_plane(p, from, kind, plane);
    else if (p->how == REQUANTIZE)
        requantize_plane(p, from, kind, plane);
    else
        quantize_plane(p, from, kind, plane, thresholds);
    if (p->step) /* a plain store has no records */
        p->record += p->step;
    p->to.at += plane << size_log2(p->to.kind);
}

/* --- weighted sums --------------------------------------------------------------------------- */

/* One kernel row or column: which outputs it reaches, and where the first of them reads. Outputs
 * and inputs are counted in numbers, not bytes. */
typedef struct {
    uint32_t out;
    uint32_t count;
    uint32_t in;
} tap;

typedef struct {
    uint32_t rows, columns;
    size_t in_step, out_step; /* from row to row */
    size_t stride;            /* from column to column of the input */
} window;

typedef void adder(void *to, const void *from, const window *w, unsigned shift, int negative);

#define ADDER(NAME, TO, FROM)                                                                     \
    static void NAME(void *to, const void *from, const window *w, unsigned shift, int negative)   \
    {                                                                                             \
        TO *row = (TO *)to;                                                                       \
        const FROM *in = (const FROM *)from;                                                      \
        const uint32_t columns = w->columns;                                                      \
        const size_t stride = w->stride;                                                          \
        uint32_t y, x;                                                                            \
        for (y = w->rows; y; y--) {                                                               \
            if (stride == 1 && negative)                                                          \
                for (x = 0; x < columns; x++)                                                     \
                    row[x] -= (TO)in[x] << shift;                                                 \
            else if (stride == 1)                                                                 \
                for (x = 0; x < columns; x++)                                                     \
                    row[x] += (TO)in[x] << shift;                                                 \
            else {                                                                                \
                const FROM *pixel = in;                                                           \
                TO *sum = row;                                                                    \
                for (x = columns; x; x--, pixel += stride, sum++)                                 \
                    *sum += negative ? 0 - ((TO)*pixel << shift) : (TO)*pixel << shift;           \
            }                                                                                     \
            row += w->out_step;                                                                   \
            in += w->in_step;                                                                     \
        }                                                                                         \
    }

ADDER(add_levels_narrow, uint32_t, uint8_t)
ADDER(add_narrow_narrow, uint32_t, int32_t)
ADDER(add_wide_narrow, uint32_t, int64_t)
ADDER(add_levels_wide, uint64_t, uint8_t)
ADDER(add_narrow_wide, uint64_t, int32_t)
ADDER(add_wide_wide, uint64_t, int64_t)

static adder *chosen_adder(uint32_t from, uint32_t to)
{
    if (to == WIDE)
        return from == LEVELS ? add_levels_wide : from == WIDE ? add_wide_wide : add_narrow_wide;
    return from == LEVELS ? add_levels_narrow : from == WIDE ? add_wide_narrow : add_narrow_narrow;
}

/* A dense stream of codes, least significant bits first. */
typedef struct {
    const uint8_t *at;
    const uint8_t *end;
    unsigned bit;
} stream;

static unsigned next_code(stream *s, unsigned bits)
{
    uint32_t found = s->at < s->end ? s->at[0] : 0;
    if (s->bit + bits > 8 && s->end - s->at > 1)
        found |= (uint32_t)s->at[1] << 8;
    if (s->bit + bits > 16 && s->end - s->at > 2)
        found |= (uint32_t)s->at[2] << 16;
    found = found >> s->bit & (((uint32_t)1 << bits) - 1);
    s->bit += bits;
    s->at += s->bit >> 3;
    s->bit &= 7;
    return found;
}

static void skip_bits(stream *s, uint64_t bits)
{
    bits += s->bit;
    s->at += bits >> 3;
    s->bit = (unsigned)(bits & 7);
}

typedef struct {
    value from;
    uint32_t groups, inputs, outputs; /* channels of a group */
    uint32_t in_height, in_width, out_height, out_width;
    uint32_t kernel[2], stride[2], padding[2], dilation[2];
    uint32_t sum_kind;
    uint32_t weight_kind;
    uint64_t in_plane, out_plane;
    stream weights;
    /* codes */
    uint32_t bits, is_signed, tables;
    const uint8_t *addends;
    /* sign vectors */
    uint32_t group_size, weight_groups, count_bits, position_major, terms;
    int32_t fraction_bits;
    stream counts;
    const uint8_t *coordinates;
    uint32_t posts;
    post ends[LARGEST_POSTS];
    /* scratch memory */
    int64_t *thresholds;
    uint8_t *sums, *part;
    tap *taps[2];
    adder *add, *add_part;
    window reach;
} convolution;

/* A part of the file's data, its checksum verified when a program is opened. */
static const uint8_t *read_part(reader *r, const machine *m, uint32_t *size, int *damaged)
{
    uint32_t offset = word(r);
    uint32_t expected;
    *size = word(r);
    expected = word(r);
    if (r->bad || offset > m->model->data_size || *size > m->model->data_size - offset) {
        r->bad = 1;
        return NULL;
    }
    if (!m->workspace) {
        if (*size > *m->unread) {
            r->bad = 1;
            return NULL;
        }
        *m->unread -= *size;
        if (checksum(m->model->data + offset, *size) != expected)
            *damaged = 1;
    }
    return m->model->data + offset;
}

/* An addend: 0 is nothing, others are plus or minus (bit 7) 2^(low seven bits - bias). */
static void check_addend(reader *r, uint8_t addend, int32_t bias, uint32_t sum_kind)
{
    int32_t shift = (int32_t)(addend & 127) - bias;
    if (addend && (shift < 0 || shift > (sum_kind == WIDE ? 63 : 31)))
        r->bad = 1;
}

static void read_codes(reader *r, const machine *m, convolution *c, uint64_t count, int *damaged)
{
    uint32_t size, table, bits = 0;
    const uint8_t *packed = read_part(r, m, &size, damaged);
    c->is_signed = bounded(r, 0, 1);
    c->tables = bounded(r, 0, 16);
    c->addends = r->at;
    for (table = 0; table < c->tables && !r->bad; table++) {
        const uint8_t *width = take(r, 1);
        uint32_t entries, i;
        if (!width || *width < 1 || *width > 16) {
            r->bad = 1;
            return;
        }
        entries = (uint32_t)1 << *width;
        bits += *width;
        if (take(r, entries))
            for (i = 1; i <= entries; i++)
                check_addend(r, width[i], 64, c->sum_kind);
    }
    c->bits = bits + c->is_signed;
    if (r->bad || c->bits < 1 || c->bits > 16 || size != (product(count, c->bits) + 7) >> 3) {
        r->bad = 1;
        return;
    }
    c->weights.at = packed;
    c->weights.end = packed + size;
}

static void read_planes(reader *r, const machine *m, convolution *c, uint64_t count, int *damaged)
{
    uint32_t size, coordinates, i;
    uint64_t bases = 0, head;
    const uint8_t *packed = read_part(r, m, &size, damaged);
    c->coordinates = read_part(r, m, &coordinates, damaged);
    c->group_size = bounded(r, 1, LARGEST_COUNT);
    c->weight_groups = bounded(r, 1, LARGEST_COUNT);
    c->count_bits = bounded(r, 1, 8);
    c->position_major = bounded(r, 0, 1);
    c->terms = bounded(r, 0, 255);
    c->fraction_bits = (int32_t)bounded(r, 0, 127);
    head = (product(c->weight_groups, c->count_bits) + 7) >> 3;
    if (r->bad || product(c->group_size, c->weight_groups) != count || size < head) {
        r->bad = 1;
        return;
    }
    c->counts.at = packed;
    c->counts.end = packed + head;
    c->weights.at = packed + head;
    c->weights.end = packed + size;
    if (!m->workspace) {
        stream counts = c->counts;
        for (i = 0; i < c->weight_groups; i++)
            bases += next_code(&counts, c->count_bits);
        if (size - head != (product(bases, c->group_size) + 7) >> 3 ||
            coordinates != product(bases, c->terms))
            r->bad = 1;
        for (i = 0; i < coordinates; i++)
            check_addend(r, c->coordinates[i], 64 - c->fraction_bits, c->sum_kind);
    }
}

static int fits(uint32_t in, uint32_t out, uint32_t kernel, uint32_t stride, uint32_t padding,
                uint32_t dilation)
{
    uint64_t extent = (uint64_t)in + padding + padding;
    uint64_t reach = product(kernel - 1, dilation) + 1;
    return reach <= extent && product(out - 1, stride) <= extent - reach &&
           product(out, stride) > extent - reach;
}

static uint64_t read_convolution(reader *r, const machine *m, convolution *c, int *damaged)
{
    uint64_t scratch = 0, sums, taps, channels;
    uint32_t i;
    reader source = *r;
    memset(c, 0, sizeof *c);
    take(r, 8);
    c->groups = bounded(r, 1, LARGEST_COUNT);
    c->inputs = bounded(r, 1, LARGEST_COUNT);
    c->outputs = bounded(r, 1, LARGEST_COUNT);
    c->in_height = bounded(r, 1, LARGEST_EXTENT);
    c->in_width = bounded(r, 1, LARGEST_EXTENT);
    c->out_height = bounded(r, 1, LARGEST_EXTENT);
    c->out_width = bounded(r, 1, LARGEST_EXTENT);
    for (i = 0; i < 2; i++)
        c->kernel[i] = bounded(r, 1, LARGEST_EXTENT);
    for (i = 0; i < 2; i++)
        c->stride[i] = bounded(r, 1, LARGEST_EXTENT);
    for (i = 0; i < 2; i++)
        c->padding[i] = bounded(r, 0, LARGEST_EXTENT);
    for (i = 0; i < 2; i++)
        c->dilation[i] = bounded(r, 1, LARGEST_EXTENT);
    c->sum_kind = bounded(r, NARROW, WIDE);
    c->weight_kind = bounded(r, CODES, PLANES);
    if (r->bad || !fits(c->in_height, c->out_height, c->kernel[0], c->stride[0], c->padding[0],
                        c->dilation[0]) ||
        !fits(c->in_width, c->out_width, c->kernel[1], c->stride[1], c->padding[1],
              c->dilation[1])) {
        r->bad = 1;
        return 0;
    }
    c->in_plane = product(c->in_height, c->in_width);
    c->out_plane = product(c->out_height, c->out_width);
    c->from = read_value(&source, m, product(product(c->groups, c->inputs), c->in_plane), IMAGE);
    r->bad |= source.bad;
    channels = product(c->groups, c->outputs);
    if (c->out_plane > LARGEST_COUNT || channels > LARGEST_COUNT)
        r->bad = 1;
    {
        uint64_t kernel = product(c->kernel[0], c->kernel[1]);
        uint64_t count = product(product(channels, c->inputs), kernel);
        if (c->weight_kind == CODES)
            read_codes(r, m, c, count, damaged);
        else
            read_planes(r, m, c, count, damaged);
    }
    c->posts = bounded(r, 1, LARGEST_POSTS);
    {
        post *p;
        for (p = c->ends, i = 0; i < c->posts && !r->bad; i++, p++) {
            read_post(r, m, p, (uint32_t)channels, c->out_plane);
            if (post_scratch(p) > scratch)
                scratch = post_scratch(p);
        }
    }
    sums = rounded_up(c->out_plane << size_log2(c->sum_kind));
    taps = (uint64_t)c->kernel[0] + c->kernel[1];
    taps = rounded_up((taps << 3) + (taps << 2));
    if (r->bad)
        return 0;
    if (m->workspace) {
        uint8_t *at = m->workspace + m->model->values_size;
        c->thresholds = (int64_t *)(void *)at;
        at += scratch;
        c->sums = at;
        at += sums;
        c->part = at;
        if (c->weight_kind == PLANES)
            at += sums;
        c->taps[0] = (tap *)(void *)at;
        c->taps[1] = c->taps[0] + c->kernel[0];
        c->add = chosen_adder(c->from.kind, c->sum_kind);
        c->add_part = c->sum_kind == WIDE ? add_wide_wide : add_narrow_narrow;
    }
    return scratch + sums + (c->weight_kind == PLANES ? sums : 0) + taps;
}

static void find_taps(tap *taps, const convolution *c, unsigned axis, uint32_t in, uint32_t out,
                      uint32_t in_unit, uint32_t out_unit)
{
    int64_t first = -(int64_t)c->padding[axis];
    const tap *end = taps + c->kernel[axis];
    for (; taps < end; taps++, first += c->dilation[axis]) {
        int64_t at = first;
        uint32_t left = out;
        taps->out = taps->count = taps->in = 0;
        for (; left && at < 0; left--, at += c->stride[axis])
            taps->out += out_unit;
        if (left && at < in)
            taps->in = (uint32_t)product((uint64_t)at, in_unit);
        for (; left && at < in; left--, at += c->stride[axis])
            taps->count++;
    }
}

/* Add one input channel, shifted as a position of the kernel says. */
static void add_window(convolution *c, adder *add, void *sums, const uint8_t *channel,
                       const tap *row, const tap *column, unsigned shift, int negative)
{
    if (!row->count || !column->count)
        return;
    c->reach.rows = row->count;
    c->reach.columns = column->count;
    add((uint8_t *)sums + (((size_t)row->out + column->out) << size_log2(c->sum_kind)),
        channel + (((size_t)row->in + column->in) << size_log2(c->from.kind)), &c->reach, shift,
        negative);
}

/* A position in an output's weights. */
typedef struct {
    const uint8_t *channel;
    const tap *row, *column;
    const uint8_t *first_channel, *end_channel;
} place;

static void advance(const convolution *c, place *p)
{
    const size_t plane = (size_t)c->in_plane << size_log2(c->from.kind);
    if (c->position_major) {
        p->channel += plane;
        if (p->channel != p->end_channel)
            return;
        p->channel = p->first_channel;
    }
    if (++p->column != c->taps[1] + c->kernel[1])
        return;
    p->column = c->taps[1];
    if (++p->row != c->taps[0] + c->kernel[0])
        return;
    p->row = c->taps[0];
    if (!c->position_major)
        p->channel += plane;
}

static void add_coded(convolution *c, place p, uint64_t weights)
{
    for (; weights; weights--, advance(c, &p)) {
        unsigned code = next_code(&c->weights, c->bits);
        const unsigned negated = c->is_signed ? code >> (c->bits - 1) : 0;
        const uint8_t *table = c->addends;
        uint32_t left;
        for (left = c->tables; left; left--) {
            const unsigned width = *table++;
            const unsigned mask = ((unsigned)1 << width) - 1;
            const uint8_t addend = table[code & mask];
            if (addend)
                add_window(c, c->add, c->sums, p.channel, p.row, p.column,
                           (addend & 127u) - 64u, (addend >> 7) ^ (int)negated);
            code >>= width;
            table += mask;
            table++;
        }
    }
}

/* Where the sign vectors of the current group are. */
typedef struct {
    stream signs; /* of the group's first sign vector */
    const uint8_t *coordinates;
    unsigned bases;
    uint32_t done; /* weights of the group that are behind */
} group;

static void add_signs(convolution *c, group *g, place p, uint64_t weights)
{
    const window whole = {1, (uint32_t)c->out_plane, 0, 0, 1};
    while (weights) {
        place next = p;
        uint32_t i, run = c->group_size - g->done;
        stream signs = g->signs;
        const uint8_t *term = g->coordinates;
        unsigned basis;
        if (run > weights)
            run = (uint32_t)weights;
        for (basis = 0; basis < g->bases; basis++) {
            stream sign = signs;
            skip_bits(&sign, g->done);
            memset(c->part, 0, (size_t)c->out_plane << size_log2(c->sum_kind));
            next = p;
            for (i = 0; i < run; i++, advance(c, &next))
                add_window(c, c->add, c->part, next.channel, next.row, next.column, 0,
                           !next_code(&sign, 1));
            for (i = 0; i < c->terms; i++, term++)
                if (*term)
                    c->add_part(c->sums, c->part, &whole,
                                (unsigned)((int32_t)(*term & 127) - 64 + c->fraction_bits),
                                *term >> 7);
            skip_bits(&signs, c->group_size);
        }
        if (!g->bases)
            for (i = 0; i < run; i++)
                advance(c, &next);
        p = next;
        weights -= run;
        g->done += run;
        if (g->done == c->group_size) {
            g->done = 0;
            g->signs = signs;
            g->coordinates = term;
            g->bases = next_code(&c->counts, c->count_bits);
        }
    }
}

static void convolve(convolution *c, const machine *m)
{
    const uint8_t *channel = (const uint8_t *)start(m, &c->from);
    const uint64_t per_output =
        product(c->inputs, product(c->kernel[0], c->kernel[1]));
    const size_t group_bytes =
        (size_t)product(c->inputs, c->in_plane) << size_log2(c->from.kind);
    group g;
    uint32_t groups, outputs;
    find_taps(c->taps[0], c, 0, c->in_height, c->out_height, c->in_width, c->out_width);
    find_taps(c->taps[1], c, 1, c->in_width, c->out_width, 1, 1);
    c->reach.stride = c->stride[1];
    c->reach.in_step = (size_t)product(c->stride[0], c->in_width);
    c->reach.out_step = c->out_width;
    g.signs = c->weights;
    g.coordinates = c->coordinates;
    g.done = 0;
    g.bases = c->weight_kind == PLANES ? next_code(&c->counts, c->count_bits) : 0;
    for (groups = c->groups; groups; groups--, channel += group_bytes)
        for (outputs = c->outputs; outputs; outputs--) {
            post *p = c->ends;
            uint32_t left;
            place first;
            first.channel = first.first_channel = channel;
            first.end_channel = channel + group_bytes;
            first.row = c->taps[0];
            first.column = c->taps[1];
            memset(c->sums, 0, (size_t)c->out_plane << size_log2(c->sum_kind));
            if (c->weight_kind == CODES)
                add_coded(c, first, per_output);
            else
                add_signs(c, &g, first, per_output);
            for (left = c->posts; left; left--, p++)
                finish(p, c->sums, c->sum_kind, (size_t)c->out_plane, c->thresholds);
        }
}

/* --- the other instructions ------------------------------------------------------------------ */

/* Every instruction returns how many bytes of scratch memory it needs, and runs if it may. */

static uint64_t do_convolve(reader *r, const machine *m, int *damaged)
{
    convolution c;
    uint64_t scratch = read_convolution(r, m, &c, damaged);
    if (!r->bad && m->workspace && scratch <= m->model->scratch_size)
        convolve(&c, m);
    return scratch;
}

static uint64_t do_map(reader *r, const machine *m)
{
    reader source = *r;
    value from;
    post p;
    uint32_t channels, plane;
    take(r, 8);
    channels = bounded(r, 1, LARGEST_COUNT);
    plane = bounded(r, 1, LARGEST_COUNT);
    from = read_value(&source, m, product(channels, plane), IMAGE);
    r->bad |= source.bad;
    read_post(r, m, &p, channels, plane);
    if (r->bad)
        return 0;
    if (m->workspace && post_scratch(&p) <= m->model->scratch_size) {
        const uint8_t *at = (const uint8_t *)start(m, &from);
        int64_t *thresholds = (int64_t *)(void *)(m->workspace + m->model->values_size);
        for (; channels; channels--, at += (size_t)plane << size_log2(from.kind))
            finish(&p, at, from.kind, plane, thresholds);
    }
    return post_scratch(&p);
}

static void do_sum(reader *r, const machine *m)
{
    uint32_t count = bounded(r, 1, LARGEST_COUNT);
    value a = read_value(r, m, count, IMAGE);
    value b = read_value(r, m, count, IMAGE);
    value to = read_value(r, m, count, WIDE);
    size_t x;
    if (r->bad || !m->workspace)
        return;
    for (x = 0; x < count; x++) {
        uint64_t sum = (uint64_t)load(start(m, &a), a.kind, x);
        sum += (uint64_t)load(start(m, &b), b.kind, x);
        store(to.at, to.kind, x, as_signed(sum));
    }
}

/* The largest number of a window, or the sum of its numbers. */
static int64_t pooled(const void *from, uint32_t kind, size_t first, size_t rows, size_t columns,
                      size_t width, int total)
{
    int64_t largest = load(from, kind, first);
    uint64_t sum = 0;
    for (; rows; rows--, first += width) {
        size_t x;
        for (x = first; x < first + columns; x++) {
            int64_t found = load(from, kind, x);
            largest = found > largest ? found : largest;
            sum += (uint64_t)found;
        }
    }
    return total ? as_signed(sum) : largest;
}

static void do_pool(reader *r, const machine *m, int total)
{
    reader values = *r;
    value from, to;
    uint32_t channels, extent[4], window[2], stride[2], padding[2], i;
    take(r, 16);
    channels = bounded(r, 1, LARGEST_COUNT);
    for (i = 0; i < 4; i++)
        extent[i] = bounded(r, 1, LARGEST_EXTENT);
    for (i = 0; i < 2; i++)
        window[i] = bounded(r, 1, LARGEST_EXTENT);
    for (i = 0; i < 2; i++)
        stride[i] = bounded(r, 1, LARGEST_EXTENT);
    for (i = 0; i < 2; i++) {
        padding[i] = bounded(r, 0, window[i] - 1);
        if (r->bad || !fits(extent[i], extent[i + 2], window[i], stride[i], padding[i], 1))
            r->bad = 1;
    }
    from = read_value(&values, m, product(channels, product(extent[0], extent[1])), IMAGE);
    to = read_value(&values, m, product(channels, product(extent[2], extent[3])), WIDE);
    r->bad |= values.bad;
    if (r->bad || !m->workspace)
        return;
    {
        const void *base = start(m, &from);
        const size_t plane = (size_t)product(extent[0], extent[1]);
        size_t channel = 0, done = 0;
        for (; channels; channels--, channel += plane) {
            int64_t y = -(int64_t)padding[0];
            uint32_t rows, columns;
            for (rows = extent[2]; rows; rows--, y += stride[0]) {
                const uint64_t top = y < 0 ? 0 : (uint64_t)y;
                const int64_t bottom = y + window[0] < extent[0] ? y + window[0] : extent[0];
                const size_t row = channel + (size_t)product(top, extent[1]);
                int64_t x = -(int64_t)padding[1];
                for (columns = extent[3]; columns; columns--, x += stride[1]) {
                    const uint64_t left = x < 0 ? 0 : (uint64_t)x;
                    const int64_t right = x + window[1] < extent[1] ? x + window[1] : extent[1];
                    store(to.at, to.kind, done++,
                          pooled(base, from.kind, row + (size_t)left,
                                 (size_t)(bottom - (int64_t)top),
                                 (size_t)(right - (int64_t)left), extent[1], total));
                }
            }
        }
    }
}

static void do_repeat(reader *r, const machine *m)
{
    reader values = *r;
    value from, to;
    uint32_t channels, height, width, down, across;
    uint64_t rows;
    take(r, 16);
    channels = bounded(r, 1, LARGEST_COUNT);
    height = bounded(r, 1, LARGEST_EXTENT);
    width = bounded(r, 1, LARGEST_EXTENT);
    down = bounded(r, 1, LARGEST_EXTENT);
    across = bounded(r, 1, LARGEST_EXTENT);
    rows = product(channels, height);
    from = read_value(&values, m, product(rows, width), IMAGE);
    to = read_value(&values, m, product(product(rows, width), product(down, across)), WIDE);
    r->bad |= values.bad;
    if (r->bad || !m->workspace)
        return;
    {
        size_t row = 0, done = 0;
        for (; rows; rows--, row += width) {
            uint32_t y, z;
            size_t x;
            for (y = down; y; y--)
                for (x = row; x < row + width; x++)
                    for (z = across; z; z--)
                        store(to.at, to.kind, done++, load(start(m, &from), from.kind, x));
        }
    }
}

/* Run all instructions, or only check them where there is no workspace. */
static int execute(const machine *m)
{
    reader r;
    uint32_t left;
    int damaged = 0;
    r.at = m->model->code;
    r.end = r.at + m->model->code_size;
    r.bad = 0;
    for (left = m->model->instructions; left; left--) {
        uint64_t scratch = 0;
        switch (bounded(&r, CONVOLVE, REPEAT)) {
        case CONVOLVE:
            scratch = do_convolve(&r, m, &damaged);
            break;
        case MAP:
            scratch = do_map(&r, m);
            break;
        case SUM:
            do_sum(&r, m);
            break;
        case MAXIMUM:
            do_pool(&r, m, 0);
            break;
        case TOTAL:
            do_pool(&r, m, 1);
            break;
        default:
            do_repeat(&r, m);
        }
        if (r.bad || scratch > m->model->scratch_size)
            return APOT_MALFORMED;
        if (damaged)
            return APOT_DAMAGED;
    }
    return r.at == r.end ? APOT_OK : APOT_MALFORMED;
}

/* --- the interface --------------------------------------------------------------------------- */

int apot_open(apot_model *model, const uint8_t *file, size_t size)
{
    static const char start_of_header[] = "{\"__metadata__\":{\"header_crc32\":\"";
    const size_t marked = sizeof start_of_header - 1;
    const uint8_t *trailer;
    uint64_t header, section, count, unread;
    machine m;
    reader r;
    value output;
    memset(model, 0, sizeof *model);
    if (size < HEADER_BYTES + marked || memcmp(file + HEADER_BYTES, start_of_header, marked) != 0)
        return APOT_NOT_PACKED;
    header = wide_at(file);
    if (header > size - HEADER_BYTES)
        return APOT_NOT_PACKED;
    model->data = file + HEADER_BYTES + header;
    model->data_size = size - HEADER_BYTES - header;
    if (model->data_size < TRAILER_BYTES)
        return APOT_NO_PROGRAM;
    trailer = model->data + model->data_size - TRAILER_BYTES;
    if (word_at(trailer + 12) != MAGIC)
        return APOT_NO_PROGRAM;
    if (word_at(trailer) != VERSION)
        return APOT_VERSION;
    section = word_at(trailer + 4);
    if (section < TRAILER_BYTES || section > model->data_size)
        return APOT_MALFORMED;
    model->data_size -= section;
    r.at = model->data + model->data_size;
    r.end = trailer;
    r.bad = 0;
    if (checksum(r.at, section - 8) != word_at(trailer + 8))
        return APOT_DAMAGED;
    model->shape[0] = bounded(&r, 1, LARGEST_COUNT);
    model->shape[1] = bounded(&r, 1, LARGEST_EXTENT);
    model->shape[2] = bounded(&r, 1, LARGEST_EXTENT);
    model->image_bits = word(&r);
    model->stream_bits = word(&r);
    model->logit_scale = wide(&r);
    model->values_size = word(&r);
    model->scratch_size = word(&r);
    model->classes = bounded(&r, 1, LARGEST_COUNT);
    count = product(product(model->shape[0], model->shape[1]), model->shape[2]);
    m.model = model;
    m.image = NULL;
    m.workspace = NULL;
    unread = product(model->data_size, LARGEST_USE);
    m.unread = &unread;
    output = read_value(&r, &m, model->classes, WIDE);
    model->output_kind = output.kind;
    model->output_offset = output.offset;
    model->instructions = word(&r);
    if (r.bad || count > LARGEST_COUNT || model->values_size & 7 || model->scratch_size & 7 ||
        model->values_size + model->scratch_size > (uint64_t)(size_t)-1)
        return APOT_MALFORMED;
    model->image_count = (uint32_t)count;
    model->code = r.at;
    model->code_size = (uint64_t)(r.end - r.at);
    return execute(&m);
}

const char *apot_message(int status)
{
    switch (status) {
    case APOT_OK:
        return "no error";
    case APOT_NOT_PACKED:
        return "the bytes are no packed file, or the file is cut";
    case APOT_NO_PROGRAM:
        return "the file has no integer program, or is cut";
    case APOT_VERSION:
        return "the integer program has another version";
    case APOT_DAMAGED:
        return "a checksum is wrong";
    case APOT_MALFORMED:
        return "the integer program is malformed";
    case APOT_MISALIGNED:
        return "there is no workspace, or it does not begin at a multiple of 8";
    default:
        return "unknown status";
    }
}

size_t apot_model_bytes(void) { return sizeof(apot_model); }

size_t apot_workspace_bytes(const apot_model *model)
{
    return (size_t)(model->values_size + model->scratch_size);
}

uint32_t apot_channels(const apot_model *model) { return model->shape[0]; }
uint32_t apot_height(const apot_model *model) { return model->shape[1]; }
uint32_t apot_width(const apot_model *model) { return model->shape[2]; }
uint32_t apot_image_fraction_bits(const apot_model *model) { return model->image_bits; }
uint32_t apot_fraction_bits(const apot_model *model) { return model->stream_bits; }
uint32_t apot_classes(const apot_model *model) { return model->classes; }
uint64_t apot_logit_scale(const apot_model *model) { return model->logit_scale; }

int apot_run(const apot_model *model, const int32_t *image, int64_t *logits, void *workspace)
{
    machine m;
    int status;
    size_t i;
    if (!workspace || (uintptr_t)workspace & 7)
        return APOT_MISALIGNED;
    m.model = model;
    m.image = image;
    m.workspace = (uint8_t *)workspace;
    m.unread = NULL;
    status = execute(&m);
    for (i = 0; i < model->classes && status == APOT_OK; i++)
        logits[i] = load(m.workspace + model->output_offset, model->output_kind, i);
    return status;
}
