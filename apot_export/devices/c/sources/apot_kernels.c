#include "apot_kernels.h"

#define BLOCK 16u /* numbers that are finished together */

#define ALL_KINDS(CASE)                                                                           \
    CASE(APOT_U8, uint8_t)                                                                        \
    CASE(APOT_I8, int8_t)                                                                         \
    CASE(APOT_U16, uint16_t)                                                                      \
    CASE(APOT_I16, int16_t)                                                                       \
    CASE(APOT_I32, int32_t)                                                                       \
    CASE(APOT_I64, int64_t)

/* Keeps compilers from turning what a loop adds up into a product. */
#ifdef __GNUC__
#define ADDED_UP(X) __asm__("" : "+r"(X))
#else
#define ADDED_UP(X) (void)0
#endif

/* Taps of equal weight: those that are added, and those that are subtracted. */
typedef struct {
    const apot_tap *added, *added_end, *subtracted, *subtracted_end;
    const uint8_t *terms;
} apot_group;

/* a * b; of sizes, not of pixels. */
static size_t times(size_t a, size_t b)
{
#ifdef APOT_NO_MULTIPLY
    size_t product = 0;
    for (; b; b >>= 1, a <<= 1)
        if (b & 1)
            product += a;
    return product;
#else
    return a * b;
#endif
}

/* x / 2^shift, rounded down. */
static int64_t shifted_right(int64_t x, unsigned shift)
{
    return x < 0 ? ~(~x >> shift) : x >> shift;
}

/* --- codes ----------------------------------------------------------------------------------- */

typedef struct {
    const uint8_t *at;
    uint32_t bits; /* that were read and not used */
    unsigned count;
} stream;

static void open_stream(stream *s, const uint8_t *at)
{
    s->at = at;
    s->bits = 0;
    s->count = 0;
}

/* Sort the weights of some input channels into groups; return the end of these. */
static const apot_group *decode(const apot_convolution *c, stream *codes, uint32_t channels,
                                apot_tap *taps, apot_group *groups)
{
    apot_tap *next[2 * APOT_LARGEST_GROUPS];
    const unsigned code_bits = c->code_bits, shift = c->entry_shift;
    const uint32_t mask = ((uint32_t)1 << code_bits) - 1;
    const uint8_t *at = codes->at;
    uint32_t bits = codes->bits;
    unsigned count = codes->count, group;
    const uint8_t *terms = c->terms;
    const uint16_t *start = c->starts;
    apot_group *g = groups;
    apot_tap base = 0;
    apot_tap **bin = next;
    for (group = c->weight_groups; group; group--) {
        ADDED_UP(start);
        *bin++ = taps + *start++;
        *bin++ = taps + *start++;
    }
    for (; channels; channels--, base = (apot_tap)(base + c->channel_bytes)) {
        const apot_tap *offset = c->offsets;
        const apot_tap *end = offset + c->kernel;
        ADDED_UP(base);
        for (; offset != end; offset++) {
            const uint8_t *entry;
            unsigned left, found;
            while (count < code_bits) {
                bits |= (uint32_t)*at++ << count;
                count += 8;
            }
            entry = c->entries + ((bits & mask) << shift);
            bits >>= code_bits;
            count -= code_bits;
            for (left = 1u << shift; left && (found = *entry++) != 0; left--)
                *next[found - 1]++ = (apot_tap)(base + *offset);
        }
    }
    codes->at = at;
    codes->bits = bits;
    codes->count = count;
    bin = next;
    start = c->starts;
    for (group = c->weight_groups; group; group--, bin += 2, start += 2, terms += c->term_bytes) {
        g->added = taps + start[0];
        g->added_end = bin[0];
        g->subtracted = taps + start[1];
        g->subtracted_end = bin[1];
        g->terms = terms;
        ADDED_UP(terms);
        if (g->added != bin[0] || g->subtracted != bin[1])
            g++;
    }
    return g;
}

#ifdef APOT_SIGN_VECTORS

/* --- sign vectors ---------------------------------------------------------------------------- */

typedef struct {
    stream counts, signs;
    const uint8_t *terms;
    uint32_t runs;         /* of the output that have not begun */
    unsigned left;         /* sign vectors of the run */
    const apot_tap *place; /* of the run's first weight: of the kernel, and of the channel in the copied inputs */
    apot_tap base;
} sign_vectors;

static unsigned next_bits(stream *s, unsigned bits)
{
    unsigned found;
    while (s->count < bits) {
        s->bits |= (uint32_t)*s->at++ << s->count;
        s->count += 8;
    }
    found = (unsigned)(s->bits & (((uint32_t)1 << bits) - 1));
    s->bits >>= bits;
    s->count -= bits;
    return found;
}

/* Sort the weights of some sign vectors of an output; return the end of these. Runs without any are passed. */
static const apot_group *decode_signs(const apot_convolution *c, sign_vectors *s, apot_tap *taps,
                                      apot_group *g)
{
    const apot_tap *const last = c->offsets + c->kernel;
    const apot_tap end = (apot_tap)times(c->inputs, c->channel_bytes);
    unsigned room = c->weight_groups;
    while (room && (s->left || s->runs)) {
        const apot_tap *place = s->place;
        apot_tap base = s->base, *added = taps, *subtracted = taps + c->run;
        uint32_t weights;
        int found;
        if (!s->left) {
            s->left = next_bits(&s->counts, c->code_bits);
            s->runs--;
        }
        found = s->left != 0;
        g->added = taps;
        g->subtracted_end = subtracted;
        for (weights = c->run; weights; weights--) {
            if (found && next_bits(&s->signs, 1))
                *added++ = (apot_tap)(base + *place);
            else
                *--subtracted = (apot_tap)(base + *place);
            if (c->by_place) {
                base = (apot_tap)(base + c->channel_bytes);
                if (base == end) {
                    base = 0;
                    place++;
                }
            } else if (++place == last) {
                place = c->offsets;
                base = (apot_tap)(base + c->channel_bytes);
            }
            ADDED_UP(base);
        }
        if (s->left > 1) {
            s->left--;
        } else {
            s->left = 0;
            s->place = place;
            s->base = base;
        }
        if (found) {
            g->added_end = added;
            g->subtracted = subtracted;
            g->terms = s->terms;
            s->terms += c->term_bytes;
            taps += c->run;
            g++;
            room--;
        }
    }
    return g;
}

#endif

/* --- words of 32 and of 64 bits -------------------------------------------------------------- */

#define WORD uint32_t
#define SIGNED int32_t
#define NAME(F) F##32
#define CONVOLVE apot_convolve
#define APPLY apot_apply
#include "apot_words.h"
#undef WORD
#undef SIGNED
#undef NAME
#undef CONVOLVE
#undef APPLY

#ifdef APOT_WIDE
#define WORD uint64_t
#define SIGNED int64_t
#define NAME(F) F##64
#define CONVOLVE apot_convolve64
#define APPLY apot_apply64
#include "apot_words.h"
#undef WORD
#undef SIGNED
#undef NAME
#undef CONVOLVE
#undef APPLY
#endif

/* --- pools and repeats ----------------------------------------------------------------------- */

static int64_t load(const void *from, unsigned kind, size_t index)
{
    switch (kind) {
#define CASE(KIND, TYPE)                                                                          \
    case KIND:                                                                                    \
        return (int64_t)((const TYPE *)from)[index];
        ALL_KINDS(CASE)
#undef CASE
    default:
        return 0;
    }
}

static void store(void *to, unsigned kind, size_t index, int64_t x)
{
    switch (kind) {
#define CASE(KIND, TYPE)                                                                          \
    case KIND:                                                                                    \
        ((TYPE *)to)[index] = (TYPE)x;                                                            \
        break;
        ALL_KINDS(CASE)
#undef CASE
    default:
        break;
    }
}

/* The largest number of a window, or the sum of its numbers. */
static int64_t of_window(const void *from, unsigned kind, size_t first, uint32_t rows,
                         uint32_t columns, size_t width, int total)
{
    int64_t largest = load(from, kind, first), sum = 0;
    for (; rows; rows--, first += width) {
        size_t x = first;
        ADDED_UP(first);
        uint32_t left;
        for (left = columns; left; left--) {
            const int64_t found = load(from, kind, x++);
            largest = found > largest ? found : largest;
            sum += found;
        }
    }
    return total ? sum : largest;
}

void apot_pooled(const apot_pool *p, uint8_t *workspace)
{
    const void *from = workspace + p->from.offset;
    void *to = workspace + p->to.offset;
    size_t channel = 0, done = 0;
    uint32_t channels, rows, columns;
    for (channels = p->channels; channels; channels--, channel += p->in_plane) {
        int32_t y = -(int32_t)p->padding_y;
        ADDED_UP(channel);
        for (rows = p->out_height; rows; rows--, y += (int32_t)p->stride_y) {
            ADDED_UP(y);
            const int32_t end_y = y + (int32_t)p->kernel_y, height = (int32_t)p->in_height;
            const uint32_t top = y < 0 ? 0 : (uint32_t)y;
            const uint32_t bottom = (uint32_t)(end_y < height ? end_y : height);
            const size_t row = channel + times(top, p->in_width);
            int32_t x = -(int32_t)p->padding_x;
            for (columns = p->out_width; columns; columns--, x += (int32_t)p->stride_x) {
                ADDED_UP(x);
                const int32_t end_x = x + (int32_t)p->kernel_x, width = (int32_t)p->in_width;
                const uint32_t left = x < 0 ? 0 : (uint32_t)x;
                const uint32_t right = (uint32_t)(end_x < width ? end_x : width);
                store(to, p->to.kind, done++,
                      of_window(from, p->from.kind, row + left, bottom - top, right - left,
                                p->in_width, p->total));
            }
        }
    }
}

void apot_repeated(const apot_repeat *r, uint8_t *workspace)
{
    const void *from = workspace + r->from.offset;
    void *to = workspace + r->to.offset;
    size_t row = 0, done = 0;
    uint32_t rows, down, across, left;
    for (rows = r->rows; rows; rows--, row += r->width)
        for (down = r->down; down; down--) {
            size_t x = row;
            ADDED_UP(row);
            ADDED_UP(done);
            for (left = r->width; left; left--, x++)
                for (across = r->across; across; across--)
                    store(to, r->to.kind, done++, load(from, r->from.kind, x));
        }
}
