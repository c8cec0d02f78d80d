/* Runs the embedded samples, prints their logits, and PASS where all are those of the PC. */
#include "model.h"
#include "platform.h"
#include "samples.h"

/* Print a number: without a division, which small processors do not have. */
static void print_number(int32_t number)
{
    static const uint32_t powers[] = {1000000000u, 100000000u, 10000000u, 1000000u, 100000u,
                                      10000u,      1000u,      100u,      10u,      1u};
    char text[13];
    uint32_t left = number < 0 ? 0u - (uint32_t)number : (uint32_t)number;
    unsigned place, length = 0;
    text[length++] = ' ';
    if (number < 0)
        text[length++] = '-';
    for (place = 0; place < 10; place++) {
        char digit = '0';
        while (left >= powers[place]) {
            left -= powers[place];
            digit++;
        }
        if (digit != '0' || place == 9 || text[length - 1] >= '0')
            text[length++] = digit;
    }
    text[length] = '\0';
    platform_print(text);
}

static int differs(int sample)
{
    static int32_t logits[APOT_CLASSES];
    int i;
    apot_run(apot_samples[sample], logits);
    platform_print("logits");
    for (i = 0; i < APOT_CLASSES; i++)
        print_number(logits[i]);
    platform_print("\n");
    for (i = 0; i < APOT_CLASSES; i++)
        if (logits[i] != apot_expected[sample][i]) {
            platform_print("FAIL: sample");
            print_number(sample);
            platform_print(", logit");
            print_number(i);
            platform_print(": expected");
            print_number(apot_expected[sample][i]);
            platform_print(", got");
            print_number(logits[i]);
            platform_print("\n");
            return 1;
        }
    return 0;
}

int main(void)
{
    int sample;
    for (sample = 0; sample < APOT_SAMPLES; sample++)
        if (differs(sample))
            return 1;
    platform_print("PASS\n");
    return 0;
}
