/* The transforms of exact Winograd convolution, F(2 x 2, 3 x 3), on vectors of the compiler. */
#define VECTOR_BYTES 64
typedef uint8_t byte_vector __attribute__((vector_size(VECTOR_BYTES), aligned(1), may_alias));
typedef int32_t sum_vector __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

/* Levels of 4 x 4 pixels to their 16 transforms, modulo 256: `offset` makes bytes of them. */
static void spread(
    const uint8_t *from, ptrdiff_t row, ptrdiff_t pixel, int64_t channels, int offset, uint8_t *to,
    ptrdiff_t plane)
{
    byte_vector shift = (byte_vector){0} + (uint8_t)offset;
    for (int64_t c = 0; c < channels; c += VECTOR_BYTES) {
        byte_vector x[4][4], y[4][4];
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 4; j++)
                x[i][j] = *(const byte_vector *)(from + i * row + j * pixel + c);
        for (int j = 0; j < 4; j++) {
            y[0][j] = x[0][j] - x[2][j];
            y[1][j] = x[1][j] + x[2][j];
            y[2][j] = x[2][j] - x[1][j];
            y[3][j] = x[1][j] - x[3][j];
        }
        for (int i = 0; i < 4; i++) {
            uint8_t *at = to + 4 * i * plane + c;
            *(byte_vector *)at = y[i][0] - y[i][2] + shift;
            *(byte_vector *)(at + plane) = i == 1 ? y[i][1] + y[i][2] : y[i][1] + y[i][2] + shift;
            *(byte_vector *)(at + 2 * plane) = y[i][2] - y[i][1] + shift;
            *(byte_vector *)(at + 3 * plane) = y[i][1] - y[i][3] + shift;
        }
    }
}

/* Sums [16][pixels][groups of LANES] to accumulators [2][2 x pixels][groups of LANES]. */
static void collect(
    const int32_t *sums, int64_t pixels, int64_t groups, const int32_t *corrections,
    int64_t channels, int32_t *to)
{
    int64_t position = pixels * groups * LANES, row = 2 * position;
    for (int64_t p = 0; p < pixels; p++)
        for (int64_t g = 0; g < groups; g++) {
            const int32_t *from = sums + (p * groups + g) * LANES, *add = corrections + g * LANES;
            int32_t *at = to + (2 * p * groups + g) * LANES;
            sum_vector y[2][4];
            for (int j = 0; j < 4; j++) {
                sum_vector x[4];
                for (int i = 0; i < 4; i++)
                    x[i] = *(const sum_vector *)(from + (4 * i + j) * position);
                y[0][j] = x[0] + x[1] + x[2];
                y[1][j] = x[1] - x[2] - x[3];
            }
            for (int i = 0; i < 2; i++) {
                sum_vector left = y[i][0] + y[i][1] + y[i][2];
                sum_vector right = y[i][1] - y[i][2] - y[i][3];
                left += *(const sum_vector *)(add + 2 * i * channels);
                right += *(const sum_vector *)(add + (2 * i + 1) * channels);
                /* Four times the accumulators: the shift drops zeros. */
                *(sum_vector *)(at + i * row) = left >> 2;
                *(sum_vector *)(at + i * row + groups * LANES) = right >> 2;
            }
        }
}
