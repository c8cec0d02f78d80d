/* The convolutions of ResNet-20 on CIFAR-10 as an int8 multiply-accumulate loop, for comparison: the inputs
 * have a border of zeros, so that the inner loops have no conditions. Channels are last, as int8 kernels
 * for microcontrollers have them: the inner loop reads both operands in order. */
#include <stdint.h>

void work(void);

static int8_t from[34 * 34 * 64], to[34 * 34 * 64], weights[64 * 9 * 64];

static void convolve(int inputs, int outputs, int size, int stride)
{
    const int width = size * stride + 2;
    int y, x, o, ky, i;
    int8_t *result = to;
    for (y = 0; y < size; y++)
        for (x = 0; x < size; x++) {
            const int8_t *window = from + (y * stride * width + x * stride) * inputs;
            const int8_t *weight = weights;
            for (o = 0; o < outputs; o++) {
                int32_t sum = 0;
                const int8_t *row = window;
                for (ky = 0; ky < 3; ky++, row += width * inputs) {
                    const int8_t *pixel = row;
                    for (i = 3 * inputs; i; i--)
                        sum += *weight++ * *pixel++; /* a library multiplies faster by the smaller */
                }
                sum >>= 8;
                *result++ = (int8_t)(sum < 0 ? 0 : sum > 127 ? 127 : sum);
            }
        }
}

void work(void)
{
    static const int channels[3] = {16, 32, 64};
    int stage, layer;
    for (layer = 0; layer < (int)sizeof weights; layer++)
        weights[layer] = (int8_t)(layer * 37);
    for (layer = 0; layer < (int)sizeof from; layer++)
        from[layer] = (int8_t)(layer & 127);
    convolve(3, 16, 32, 1);
    for (stage = 0; stage < 3; stage++) {
        const int size = 32 >> stage, wide = channels[stage];
        convolve(stage ? wide / 2 : wide, wide, size, stage ? 2 : 1);
        for (layer = 0; layer < 5; layer++)
            convolve(wide, wide, size, 1);
    }
}
