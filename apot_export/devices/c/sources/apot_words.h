/* The functions of apot_kernels.h for one size of words; apot_kernels.c includes it for 32 and 64 bits. */

/* Read up to BLOCK numbers of a value. */
static void NAME(read)(SIGNED *to, const void *from, unsigned kind, size_t first, size_t count)
{
    const SIGNED *end = to + count;
    switch (kind) {
#define CASE(KIND, TYPE)                                                                          \
    case KIND: {                                                                                  \
        const TYPE *at = (const TYPE *)from + first;                                              \
        while (to != end)                                                                         \
            *to++ = (SIGNED)*at++;                                                                \
        break;                                                                                    \
    }
        ALL_KINDS(CASE)
#undef CASE
    default:
        break;
    }
}

static void NAME(write)(void *to, unsigned kind, size_t first, const SIGNED *from, size_t count)
{
    const SIGNED *end = from + count;
    switch (kind) {
#define CASE(KIND, TYPE)                                                                          \
    case KIND: {                                                                                  \
        TYPE *at = (TYPE *)to + first;                                                            \
        while (from != end)                                                                       \
            *at++ = (TYPE)*from++;                                                                \
        break;                                                                                    \
    }
        ALL_KINDS(CASE)
#undef CASE
    default:
        break;
    }
}

/* --- what happens to the sums of a channel -------------------------------------------------- */

#define SEARCH(TYPE)                                                                              \
    {                                                                                             \
        const TYPE *thresholds = (const TYPE *)p->thresholds + times(record, p->count);           \
        for (; x != end; x++) {                                                                   \
            const SIGNED found = downwards ? (SIGNED)(0 - (WORD)*x) : *x;                         \
            const TYPE *first = thresholds;                                                       \
            unsigned left = p->count;                                                             \
            while (left) { /* the number of thresholds that are not above it */                   \
                const unsigned half = (left + 1) >> 1;                                            \
                if (first[half - 1] <= found)                                                     \
                    first += half;                                                                \
                left -= half;                                                                     \
            }                                                                                     \
            *to++ = p->levels[first - thresholds];                                                \
        }                                                                                         \
    }

static void NAME(quantize)(const apot_post *p, uint32_t record, const SIGNED *x,
                           const SIGNED *end, SIGNED *to)
{
    const int downwards = p->downwards && p->downwards[record];
    if (p->record_bytes == 2)
        SEARCH(int16_t)
    else if (p->record_bytes == 4)
        SEARCH(int32_t)
    else
        SEARCH(int64_t)
}
#undef SEARCH

static void NAME(requantize)(const apot_post *p, uint32_t record, const SIGNED *x,
                             const SIGNED *end, SIGNED *to)
{
    const uint64_t offset = (uint64_t)p->offsets[record];
#ifdef APOT_NO_MULTIPLY
    const uint8_t *digits = p->digits + times(record, p->count);
    const uint8_t *last = digits + p->count;
    for (; x != end; x++) {
        uint64_t sum = offset;
        WORD part = 0;
        unsigned place = 0;
        const uint8_t *digit;
        for (digit = digits; digit != last; digit++) {
            const unsigned d = *digit;
            if (!(d & 32)) {
                const WORD shifted = (WORD)*x << (d & 31);
                part = d & 128 ? part - shifted : part + shifted;
            }
            if (d & 64) {
                sum += (uint64_t)(int64_t)(SIGNED)part << place;
                place += p->piece;
                part = 0;
            }
        }
        *to++ = (SIGNED)shifted_right((int64_t)sum, p->shift);
    }
#else
    const uint64_t multiplier = (uint64_t)(int64_t)p->multipliers[record];
    for (; x != end; x++) {
        const uint64_t sum = (uint64_t)(int64_t)*x * multiplier + offset;
        *to++ = (SIGNED)shifted_right((int64_t)sum, p->shift);
    }
#endif
}

/* Finish `count` numbers of a channel, of which `first` numbers of the value lie before. */
static void NAME(finish)(const apot_post *p, uint32_t channel, const SIGNED *x, size_t count,
                         size_t first, uint8_t *workspace)
{
    const uint32_t record = p->shared ? 0 : channel;
    SIGNED found[BLOCK], others[BLOCK];
    while (count) {
        const size_t some = count < BLOCK ? count : BLOCK;
        const SIGNED *end = x + some;
        size_t i;
        if (p->how == APOT_QUANTIZE)
            NAME(quantize)(p, record, x, end, found);
        else if (p->how == APOT_REQUANTIZE)
            NAME(requantize)(p, record, x, end, found);
        else
            for (i = 0; i < some; i++)
                found[i] = x[i];
        if (p->added) {
            NAME(read)(others, workspace + p->other.offset, p->other.kind, first, some);
            for (i = 0; i < some; i++)
                found[i] = (SIGNED)((WORD)found[i] + (WORD)others[i]);
        }
        if (p->clamped & 1)
            for (i = 0; i < some; i++)
                found[i] = found[i] < p->low ? p->low : found[i];
        if (p->clamped & 2)
            for (i = 0; i < some; i++)
                found[i] = found[i] > p->high ? p->high : found[i];
        NAME(write)(workspace + p->to.offset, p->to.kind, first, found, some);
        x = end;
        first += some;
        count -= some;
    }
}

/* --- weighted sums --------------------------------------------------------------------------- */

/* Copy the inputs of a band into words. `top` is the first input row, which `numbers` precede. */
static void NAME(pack)(const apot_convolution *c, const void *from, size_t first, int32_t top,
                       int32_t numbers, WORD *to)
{
    uint32_t channels, rows, lanes, phases;
    for (channels = c->inputs; channels; channels--, first += c->in_plane) {
        int32_t row = top, before = numbers;
        for (rows = c->rows; rows; rows--, row++, before += (int32_t)c->in_width) {
            int32_t y = row, at = before;
            unsigned shift = 0;
            WORD *word = to;
            const WORD *row_end = (const WORD *)(const void *)((const uint8_t *)to + c->row_bytes);
            ADDED_UP(to);
            ADDED_UP(before);
            ADDED_UP(first);
            while (word != row_end)
                *word++ = 0;
            for (lanes = c->lanes; lanes; lanes--) {
                if (y >= 0 && y < (int32_t)c->in_height) {
                    const size_t start = first + (size_t)at;
                    int32_t column = c->left;
                    WORD *phase = to;
                    for (phases = c->phases; phases; phases--, column++, phase += c->columns) {
                        const WORD *end = phase + c->columns;
                        int32_t x = column;
                        word = phase;
                        ADDED_UP(phase);
                        while (x < 0 && word != end) {
                            x += (int32_t)c->stride_x;
                            ADDED_UP(x);
                            word++;
                        }
                        switch (c->from.kind) {
#define CASE(KIND, TYPE)                                                                          \
    case KIND: {                                                                                  \
        const TYPE *pixels = (const TYPE *)from + start;                                          \
        for (; word != end && x < (int32_t)c->in_width; x += (int32_t)c->stride_x, word++) {      \
            ADDED_UP(x);                                                                          \
            *word += (WORD)pixels[x] << shift;                                                    \
        }                                                                                         \
        break;                                                                                    \
    }
                            ALL_KINDS(CASE)
#undef CASE
                        default:
                            break;
                        }
                    }
                }
                y += (int32_t)c->lane_height;
                at += (int32_t)c->lane_numbers;
                shift += c->lane_bits;
            }
            to = (WORD *)(void *)((uint8_t *)to + c->row_bytes);
        }
    }
}

#define WORD_AT(BASE, OFFSET) ((const WORD *)(const void *)((BASE) + (OFFSET)))

/* Sum four neighbouring words, or one, over all groups of taps. */
static void NAME(sum4)(const uint8_t *base, const apot_group *g, const apot_group *end,
                       WORD *to)
{
    WORD a = 0, b = 0, c = 0, d = 0;
    for (; g != end; g++) {
        WORD s = 0, t = 0, u = 0, v = 0;
        const apot_tap *tap = g->added, *stop = g->added_end;
        const uint8_t *term;
        for (; tap != stop; tap++) {
            const WORD *at = WORD_AT(base, *tap);
            s += at[0];
            t += at[1];
            u += at[2];
            v += at[3];
        }
        for (tap = g->subtracted, stop = g->subtracted_end; tap != stop; tap++) {
            const WORD *at = WORD_AT(base, *tap);
            s -= at[0];
            t -= at[1];
            u -= at[2];
            v -= at[3];
        }
        for (term = g->terms; *term; term++) {
            const unsigned shift = *term & 63;
            if (*term & 128) {
                a -= s << shift;
                b -= t << shift;
                c -= u << shift;
                d -= v << shift;
            } else {
                a += s << shift;
                b += t << shift;
                c += u << shift;
                d += v << shift;
            }
        }
    }
    to[0] = a;
    to[1] = b;
    to[2] = c;
    to[3] = d;
}

static void NAME(sum1)(const uint8_t *base, const apot_group *g, const apot_group *end,
                       WORD *to)
{
    WORD a = 0;
    for (; g != end; g++) {
        WORD s = 0;
        const apot_tap *tap = g->added, *stop = g->added_end;
        const uint8_t *term;
        for (; tap != stop; tap++)
            s += *WORD_AT(base, *tap);
        for (tap = g->subtracted, stop = g->subtracted_end; tap != stop; tap++)
            s -= *WORD_AT(base, *tap);
        for (term = g->terms; *term; term++)
            a = *term & 128 ? a - (s << (*term & 63)) : a + (s << (*term & 63));
    }
    *to = a;
}
#undef WORD_AT

/* Take the lanes of words apart, and add them to the sums of their places. */
static void NAME(spread)(const apot_convolution *c, const WORD *words, const WORD *end, SIGNED *sums)
{
    if (c->lanes == 1)
        while (words != end) {
            *sums = (SIGNED)((WORD)*sums + *words++);
            sums++;
        }
    else if (c->lanes == 2)
        while (words != end) {
            const WORD word = *words++;
            const int16_t low = (int16_t)(word & 0xffff);
            const int16_t high = (int16_t)((word - (WORD)low) >> 16 & 0xffff);
            SIGNED *next = sums + c->lane_sums;
            *sums++ += low;
            *next += high;
        }
    else
        while (words != end) {
            WORD word = *words++;
            SIGNED *sum = sums++;
            unsigned lanes;
            for (lanes = 4; lanes; lanes--) {
                const int8_t lane = (int8_t)(word & 0xff);
                *sum += lane;
                word = (word - (WORD)lane) >> 8;
                sum += c->lane_sums;
            }
        }
}

static void NAME(sum_band)(const apot_convolution *c, const uint8_t *packed,
                           const apot_group *groups, const apot_group *end, SIGNED *sums)
{
    uint32_t rows, left;
    WORD words[4];
    for (rows = c->lane_rows; rows; rows--, packed += c->row_step) {
        const uint8_t *at = packed;
        ADDED_UP(packed);
        for (left = c->out_width; left >= 4; left -= 4, sums += 4, at += 4 * sizeof(WORD)) {
            ADDED_UP(left);
            ADDED_UP(at);
            ADDED_UP(sums);
            NAME(sum4)(at, groups, end, words);
            NAME(spread)(c, words, words + 4, sums);
        }
        for (; left; left--, sums++, at += sizeof(WORD)) {
            NAME(sum1)(at, groups, end, words);
            NAME(spread)(c, words, words + 1, sums);
        }
    }
}

void CONVOLVE(const apot_convolution *c, uint8_t *workspace)
{
    WORD *packed = (WORD *)(void *)(workspace + c->packed);
    SIGNED *sums = (SIGNED *)(void *)(workspace + c->sums);
    apot_tap *taps = (apot_tap *)(void *)(workspace + c->taps);
    apot_group found[APOT_LARGEST_GROUPS];
    const void *from = workspace + c->from.offset;
    int32_t top = c->top, numbers = c->top_numbers;
    uint32_t left = c->out_height;
    size_t before = 0; /* numbers of a channel's results in earlier bands */
    for (;;) {
        const uint32_t rows = left < c->band ? left : c->band;
        const size_t count = rows == c->band ? c->band_sums : c->out_plane - before;
        stream codes;
        uint32_t groups, channel = 0;
        size_t first = 0, done = before;
#ifdef APOT_SIGN_VECTORS
        sign_vectors signs;
        open_stream(&signs.counts, c->codes);
        open_stream(&signs.signs, c->signs);
        signs.terms = c->terms;
#endif
        open_stream(&codes, c->codes);
        ADDED_UP(top);
        ADDED_UP(numbers);
        for (groups = c->groups; groups; groups--, first += c->group_numbers) {
            uint32_t outputs;
            ADDED_UP(first);
            NAME(pack)(c, from, first, top, numbers, packed);
            for (outputs = c->outputs; outputs; outputs--, channel++, done += c->out_plane) {
                uint32_t inputs = c->inputs;
                const uint8_t *base = (const uint8_t *)packed;
                SIGNED *sum = sums;
                const SIGNED *sums_end = sums + c->band_sums;
                const apot_post *post = c->post;
                unsigned left_posts;
                ADDED_UP(channel);
                ADDED_UP(done);
                while (sum != sums_end)
                    *sum++ = 0;
#ifdef APOT_SIGN_VECTORS
                signs.runs = c->signs ? c->runs : 0;
                signs.left = 0;
                signs.place = c->offsets;
                signs.base = 0;
                while (signs.left || signs.runs) {
                    const apot_group *end = decode_signs(c, &signs, taps, found);
                    NAME(sum_band)(c, base, found, end, sums);
                }
                inputs = c->signs ? 0 : inputs;
#endif
                while (inputs) {
                    const uint32_t some = inputs < c->chunk ? inputs : c->chunk;
                    const apot_group *end = decode(c, &codes, some, taps, found);
                    NAME(sum_band)(c, base, found, end, sums);
                    base += times(some, c->channel_bytes);
                    inputs -= some;
                }
                for (left_posts = c->posts; left_posts; left_posts--, post++)
                    NAME(finish)(post, channel, sums, count, done, workspace);
            }
        }
        if (left <= c->band)
            return;
        left -= c->band;
        before += c->band_sums;
        top += (int32_t)c->band_height;
        numbers += (int32_t)c->band_numbers;
    }
}

void APPLY(const apot_map *m, const void *from, uint8_t *workspace)
{
    SIGNED x[BLOCK];
    uint32_t channel;
    size_t first = 0;
    for (channel = 0; channel != m->channels; channel++) {
        uint32_t left = m->plane;
        while (left) {
            const uint32_t some = left < BLOCK ? left : BLOCK;
            NAME(read)(x, from, m->kind, first, some);
            NAME(finish)(m->post, channel, x, some, first, workspace);
            first += some;
            left -= some;
        }
    }
}
