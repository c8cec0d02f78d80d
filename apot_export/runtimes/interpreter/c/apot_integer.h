/* Runs the integer program of a packed file: see FORMAT.md, section 8.
 *
 * C99 with <stdint.h>, <stddef.h> and <string.h> alone: no floating point, no heap, no globals that
 * change. Weights are applied by shifts and additions. Compiled with APOT_NO_MULTIPLY, the source has no
 * product of pixels and no division. Compilers may still make products of its loops and of a shift that is
 * added if a bit is set: gcc 12 makes none for x86-64 at -O2, but some at -Os and -O3, and for ARM at every
 * level (umlal, __aeabi_lmul). `apot-export emit c` writes a program that has none.
 *
 *     apot_model model;
 *     int status = apot_open(&model, file, size);
 *     void *workspace = status ? NULL : malloc(apot_workspace_bytes(&model));
 *     status = apot_run(&model, image, logits, workspace);
 *
 * Runs of one model may go on at the same time if each has a workspace of its own.
 */
#ifndef APOT_INTEGER_H
#define APOT_INTEGER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum apot_status {
    APOT_OK = 0,
    APOT_NOT_PACKED = 1,  /* the bytes are no packed file, or the file is cut */
    APOT_NO_PROGRAM = 2,  /* the file has no integer program, or was cut behind its start */
    APOT_VERSION = 3,     /* the program has a version that this library does not know */
    APOT_DAMAGED = 4,     /* a checksum is wrong */
    APOT_MALFORMED = 5,   /* the program breaks a rule of FORMAT.md, section 8 */
    APOT_MISALIGNED = 6   /* there is no workspace, or it is not at a multiple of 8 */
};

/* A program that was opened. It points into the file's bytes: keep those, and unchanged, as long as it is
 * used. Its members are for the library alone. */
typedef struct {
    const uint8_t *data;
    uint64_t data_size;
    const uint8_t *code;
    uint64_t code_size;
    uint64_t values_size;
    uint64_t scratch_size;
    uint64_t logit_scale;
    uint32_t shape[3];
    uint32_t image_count;
    uint32_t image_bits;
    uint32_t stream_bits;
    uint32_t instructions;
    uint32_t classes;
    uint32_t output_kind;
    uint64_t output_offset;
} apot_model;

/* sizeof(apot_model), for callers in other languages. */
size_t apot_model_bytes(void);

/* Open a packed file, given as bytes, and check all that a run depends on. */
int apot_open(apot_model *model, const uint8_t *file, size_t size);

/* A sentence about a status. */
const char *apot_message(int status);

/* What apot_run needs: bytes of a workspace, which must begin at a multiple of 8. It holds integers of
 * several types in turn: give it memory of malloc, or of an array in another translation unit. */
size_t apot_workspace_bytes(const apot_model *model);

/* The image's channels, height and width, and how many fraction bits its numbers have. */
uint32_t apot_channels(const apot_model *model);
uint32_t apot_height(const apot_model *model);
uint32_t apot_width(const apot_model *model);
uint32_t apot_image_fraction_bits(const apot_model *model);

/* Fraction bits of the residual stream. */
uint32_t apot_fraction_bits(const apot_model *model);

/* How many logits a run writes. */
uint32_t apot_classes(const apot_model *model);

/* Real value of one unit of a logit: the bits of an IEEE 754 binary64 number. */
uint64_t apot_logit_scale(const apot_model *model);

/* Run one image: channels * height * width fixed-point numbers, floor(x * 2^bits + 1/2). Numbers
 * outside the network's input range count as its nearest end. */
int apot_run(const apot_model *model, const int32_t *image, int64_t *logits, void *workspace);

#ifdef __cplusplus
}
#endif

#endif
