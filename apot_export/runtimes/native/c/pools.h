/* Maxima over windows, on vectors of NUMBERS by `larger` of the file that includes this. */
static void maximum(
    float *to, const uint8_t *from, int64_t first, int64_t rows, int64_t ring, ptrdiff_t row,
    ptrdiff_t pixel, int64_t columns, int64_t channels)
{
    for (int64_t c = 0; c < channels; c += (int64_t)(sizeof(NUMBERS) / sizeof(float))) {
        NUMBERS most, other;
        memcpy(&most, from + first * row + 4 * c, sizeof most);
        for (int64_t i = 0, slot = first; i < rows; i++, slot = slot + 1 < ring ? slot + 1 : 0)
            for (int64_t j = 0; j < columns; j++) {
                memcpy(&other, from + slot * row + j * pixel + 4 * c, sizeof other);
                most = larger(other, most);
            }
        memcpy(to + c, &most, sizeof most);
    }
}
