/* A libFuzzer target: integer programs, opened and run by both builds of the interpreter.
 *
 * An input is the data of a packed file, from the first tensor to the end. The mutator changes the
 * program or what lies before it, and mends all checksums, so that the checks behind them are reached.
 * Both builds must give the same status and the same logits, and stay within the memory they were given.
 * `tests/fuzz/programs.py` compiles this with clang. */
#include "apot_integer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRAILER 16u
#define LARGEST_WORKSPACE (1u << 16)
#define LARGEST_IMAGE (1u << 16)
#define PARTS 80u /* from the start of a convolution to its first part of the data */

/* The interpreter that was compiled with APOT_NO_MULTIPLY. */
int shifts_open(apot_model *model, const uint8_t *file, size_t size);
int shifts_run(const apot_model *model, const int32_t *image, int64_t *logits, void *workspace);

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t largest);

/* --- mending ---------------------------------------------------------------------------------- */

static uint32_t word_at(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void put_word(uint8_t *p, uint32_t word)
{
    int i;
    for (i = 0; i < 4; i++)
        p[i] = (uint8_t)(word >> (8 * i));
}

static uint32_t checksum(const uint8_t *bytes, size_t size)
{
    uint32_t crc = 0xffffffffu;
    int bit;
    for (; size; size--)
        for (crc ^= *bytes++, bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    return ~crc;
}

/* Give the checksum of a part of the data, where it is one. */
static void mend_part(uint8_t *part, const uint8_t *data, size_t size)
{
    const uint64_t begin = word_at(part), length = word_at(part + 4);
    if (length && begin + length <= size)
        put_word(part + 8, checksum(data + begin, (size_t)length));
}

/* Make the trailer fit a program of so many bytes behind the data, and every convolution its parts. */
static void mend(uint8_t *data, size_t before, size_t program)
{
    uint8_t *at = data + before, *trailer = at + program;
    for (; at + PARTS + 24 <= trailer; at++)
        if (word_at(at) == 1 && word_at(at + 4) <= 3 && word_at(at + 76) <= 1 &&
            word_at(at + 72) - 1 <= 1) {
            mend_part(at + PARTS, data, before);
            if (word_at(at + 76))
                mend_part(at + PARTS + 12, data, before);
        }
    put_word(trailer, 1);
    put_word(trailer + 4, (uint32_t)(program + TRAILER));
    put_word(trailer + 8, checksum(data + before, program + 8));
    memcpy(trailer + 12, "APIN", 4);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t largest, unsigned seed)
{
    size_t program, before;
    uint8_t *copy;
    if (size < TRAILER || seed % 64 == 0)
        return LLVMFuzzerMutate(data, size, largest);
    program = word_at(data + size - TRAILER + 4);
    program = program < TRAILER || program > size ? size - TRAILER : program - TRAILER;
    before = size - TRAILER - program;
    copy = malloc(largest + TRAILER);
    memcpy(copy, data, size);
    if (seed % 4) {
        program = LLVMFuzzerMutate(copy + before, program, largest - before - TRAILER);
    } else { /* the parts of the data stay where they are */
        memcpy(copy + before, data + before, size - before);
        if (before)
            LLVMFuzzerMutate(copy, before, before);
    }
    memcpy(data, copy, before + program);
    free(copy);
    mend(data, before, program);
    return before + program + TRAILER;
}

/* --- the target ------------------------------------------------------------------------------- */

static void require(int condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "%s\n", what);
        abort();
    }
}

/* Return a file that has these bytes behind an empty header, in memory of exactly its size. */
static uint8_t *as_file(const uint8_t *data, size_t size)
{
    static const char header[56] = "{\"__metadata__\":{\"header_crc32\":\"00000000\"}}           ";
    uint8_t *file = malloc(64 + size);
    memset(file, 0, 8);
    file[0] = sizeof header;
    memcpy(file + 8, header, sizeof header);
    memcpy(file + 64, data, size);
    return file;
}

static void run(const apot_model *model)
{
    const size_t workspace = apot_workspace_bytes(model), classes = apot_classes(model);
    const size_t pixels = (size_t)apot_channels(model) * apot_height(model) * apot_width(model);
    int64_t *logits[2];
    int status[2], build;
    int32_t *image;
    size_t i;
    if (workspace > LARGEST_WORKSPACE || pixels > LARGEST_IMAGE || classes > LARGEST_IMAGE)
        return;
    image = malloc(4 * pixels);
    for (i = 0; i < pixels; i++)
        image[i] = (int32_t)((uint32_t)i * 2654435761u);
    for (build = 0; build < 2; build++) {
        int64_t *exact = calloc(workspace ? workspace : 1, 1);
        logits[build] = calloc(classes, 8);
        status[build] = (build ? shifts_run : apot_run)(model, image, logits[build], exact);
        free(exact);
    }
    require(status[0] == status[1], "the builds end with another status");
    require(status[0] == APOT_OK, "a program that was opened does not run");
    require(!memcmp(logits[0], logits[1], 8 * classes), "the builds give other logits");
    free(image);
    free(logits[0]);
    free(logits[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *file = as_file(data, size);
    apot_model model, other;
    const int status = apot_open(&model, file, 64 + size);
    require(shifts_open(&other, file, 64 + size) == status, "the builds open another status");
    require(apot_message(status)[0] != 'u', "a status without a message");
    if (status == APOT_OK)
        run(&model);
    free(file);
    return 0;
}
