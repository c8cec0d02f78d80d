/* The transforms of exact Winograd convolution, F(2 x 2, 3 x 3), on vectors of the compiler. */
typedef uint8_t wide_bytes __attribute__((vector_size(64), aligned(1), may_alias));
typedef uint8_t few_bytes __attribute__((vector_size(LANES), aligned(1), may_alias));
typedef int32_t sum_vector __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

/* Neighbours share two of their four columns. */
#define SPREAD(vector)                                                                          \
    for (; c + (int64_t)sizeof(vector) <= channels; c += (int64_t)sizeof(vector)) {             \
        vector shift = (vector){0} + (uint8_t)offset, y[4][4];                                  \
        for (int64_t p = 0; p < pixels; p++) {                                                  \
            uint8_t *at = to + p * to_pixel + c;                                                \
            for (int j = 0; j < 4; j++) {                                                       \
                vector x[4];                                                                    \
                if (p && j < 2) {                                                               \
                    for (int i = 0; i < 4; i++)                                                 \
                        y[i][j] = y[i][j + 2];                                                  \
                    continue;                                                                   \
                }                                                                               \
                for (int i = 0; i < 4; i++)                                                     \
                    x[i] = *(const vector *)(from + i * row + (2 * p + j) * pixel + c);         \
                y[0][j] = x[0] - x[2];                                                          \
                y[1][j] = x[1] + x[2];                                                          \
                y[2][j] = x[2] - x[1];                                                          \
                y[3][j] = x[1] - x[3];                                                          \
            }                                                                                   \
            for (int i = 0; i < 4; i++, at += 4 * plane) {                                      \
                *(vector *)at = y[i][0] - y[i][2] + shift;                                      \
                *(vector *)(at + plane) = i == 1 ? y[i][1] + y[i][2] : y[i][1] + y[i][2] + shift;\
                *(vector *)(at + 2 * plane) = y[i][2] - y[i][1] + shift;                        \
                *(vector *)(at + 3 * plane) = y[i][1] - y[i][3] + shift;                        \
            }                                                                                   \
        }                                                                                       \
    }

/* Levels of 4 x 4 pixels to their 16 transforms, modulo 256: `offset` makes bytes of them. So many in a
 * row, two pixels apart. */
static void spread(
    const uint8_t *from, ptrdiff_t row, ptrdiff_t pixel, int64_t channels, int offset, uint8_t *to,
    ptrdiff_t plane, ptrdiff_t to_pixel, int64_t pixels)
{
    int64_t c = 0;
    SPREAD(wide_bytes)
    SPREAD(few_bytes)
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
