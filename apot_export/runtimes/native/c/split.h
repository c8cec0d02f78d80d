/* Floats as sums of three bfloat16, which cut their bits. */
#ifndef INLINE
#define INLINE static inline __attribute__((always_inline))
#endif

/* Pixels of a row, at most STRIP, to words [pixel][channel][PARTS]; two bytes behind the last are written, too.
 * Returns whether all numbers are 0 or neither so small nor so large that their products are not exact. */
INLINE int split_channels(
    int64_t channels, const uint8_t *from, ptrdiff_t between, ptrdiff_t pixel, int64_t pixels, uint8_t *to)
{
    uint64_t words[MOST_SPLIT_CHANNELS][STRIP];
    uint32_t wrong = 0;
    for (int64_t c = 0; c < channels; c++, from += between) {
        float numbers[STRIP] = {0};
        if (pixel == sizeof(float))
            memcpy(numbers, from, (size_t)pixels * sizeof(float));
        else
            for (int64_t i = 0; i < pixels; i++)
                memcpy(&numbers[i], from + i * pixel, sizeof(float));
        uint32_t bits[STRIP];
        memcpy(bits, numbers, sizeof bits);
        for (int i = 0; i < STRIP; i++) {
            uint32_t size = bits[i] & 0x7f800000u, high = bits[i] & 0xffff0000u, middle, rest;
            float part, x = numbers[i];
            wrong |= (uint32_t)((bits[i] & 0x7fffffffu) != 0) & (size - SMALLEST_EXPONENT > EXPONENTS);
            memcpy(&part, &high, sizeof part);
            x -= part;
            memcpy(&middle, &x, sizeof x);
            middle &= 0xffff0000u;
            memcpy(&part, &middle, sizeof part);
            x -= part;
            memcpy(&rest, &x, sizeof x);
            words[c][i] = (uint64_t)rest << 16 | middle | high >> 16;
        }
    }
    /* Eight bytes have two too many, which the next ones cover. */
    for (int64_t i = 0; i < pixels; i++)
        for (int64_t c = 0; c < channels; c++, to += PARTS * 2)
            memcpy(to, &words[c][i], 8);
    return !wrong;
}

static int split(
    int64_t channels, const uint8_t *from, ptrdiff_t between, ptrdiff_t pixel, int64_t pixels, uint8_t *to)
{
    if (channels == 3)
        return split_channels(3, from, between, pixel, pixels, to);
    return split_channels(channels, from, between, pixel, pixels, to);
}
