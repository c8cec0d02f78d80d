/* What model.c is made of: integer networks by additions and shifts.
 *
 * C99, which is also C++: no heap, no floating point, no division, no global that changes. Compiled with
 * APOT_NO_MULTIPLY, nothing multiplies. Sums are of unsigned numbers, modulo a power of two: exact,
 * because the exporter proved that every result fits.
 *
 * A convolution copies the inputs of a band of rows into words of several lanes: one word holds the pixels
 * of one column and several rows, far apart. Lanes are summed together, words being plain integers: a
 * borrow of a lane from the next one is undone when the lanes are taken apart. */
#ifndef APOT_KERNELS_H
#define APOT_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "model.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { APOT_U8, APOT_I8, APOT_U16, APOT_I16, APOT_I32, APOT_I64 } apot_kind;
typedef enum { APOT_STORE, APOT_REQUANTIZE, APOT_QUANTIZE } apot_how;

/* Where a value lies: bytes from the start of the workspace. */
typedef struct {
    uint32_t offset;
    uint8_t kind; /* apot_kind */
} apot_value;

/* What is done to the sums of every channel, and where the results go. */
typedef struct {
    uint8_t how;          /* apot_how */
    uint8_t shared;       /* one record for all channels */
    uint8_t added;        /* whether `other` is added */
    uint8_t clamped;      /* 1: results are at least low, 2: at most high, 3: both */
    uint8_t shift;        /* of a requantizer, after the multiplication */
    uint8_t record_bytes; /* of one threshold */
    uint8_t piece;        /* of a requantizer: see digits */
    uint16_t count;       /* thresholds, or signed digits, of a channel */
    int32_t low, high;
    apot_value to, other;
    const void *thresholds;     /* int16, int32 or int64, [channels][count] */
    const int32_t *levels;      /* [count + 1] */
    const uint8_t *downwards;   /* [channels]: 1 where levels fall as the sums rise; NULL: nowhere */
    const int64_t *offsets;     /* [channels] */
#ifdef APOT_NO_MULTIPLY
    /* [channels][count], the multiplier's canonical signed digits, lowest first: 128: subtract, 64: last of a
     * piece, 32: nothing, low five bits: shift. Every piece stands `piece` bits above the one before. */
    const uint8_t *digits;
#else
    const int32_t *multipliers; /* [channels] */
#endif
} apot_post;

/* Sums of products. Sizes are counted in numbers, not bytes, where nothing else is said. */
typedef struct {
    apot_value from;
    uint32_t groups, inputs, outputs; /* inputs, outputs: channels of a group */
    uint32_t in_height, in_width, in_plane, group_numbers; /* group_numbers: inputs * in_plane */
    uint32_t out_height, out_width, out_plane;
    uint32_t kernel;        /* kernel height * width */
    uint32_t band;          /* output rows that are computed together: lanes * lane_rows */
    uint32_t lane_rows;     /* output rows of a lane */
    uint32_t lane_sums;     /* lane_rows * out_width */
    uint32_t rows;          /* input rows of a lane */
    uint32_t columns;       /* words of a phase: columns that are `stride_x` apart */
    uint32_t phases;        /* columns of the input between two of a phase, at most the stride */
    uint32_t row_bytes;     /* phases * columns words */
    uint32_t row_step;      /* words from a packed row to that of the next output row, in bytes */
    uint32_t channel_bytes; /* rows * row_bytes */
    uint32_t lane_height;   /* input rows between two lanes */
    uint32_t lane_numbers;  /* lane_height * in_width */
    uint32_t band_height;   /* input rows between two bands */
    uint32_t band_numbers;  /* band_height * in_width */
    uint32_t band_sums;     /* band * out_width */
    uint32_t stride_x;
    int32_t top, top_numbers, left; /* of the first output: -padding, times in_width, -padding */
    uint8_t lanes, lane_bits;
    uint8_t code_bits;
    uint8_t entry_shift; /* of a code in `entries`: it has so many bytes, as a power of two */
    uint8_t term_bytes;  /* of a group in `terms` */
    uint8_t weight_groups;
    uint8_t posts;
    uint32_t chunk;   /* input channels whose sums fit a lane */
    const uint8_t *codes;     /* a dense stream, least significant bits first */
    const uint8_t *entries;   /* of every code: 1 + 2 * group for each group of its weight, one more where
                                 it is subtracted; 0: no more */
    const uint16_t *starts;   /* of every group: where the taps begin that are added, and subtracted */
    const uint8_t *terms;     /* of every group: what its sum is multiplied by: 64 + a power, 128: subtracted;
                                 0: no more */
    const apot_tap *offsets;  /* of every place of the kernel in a packed channel, in bytes */
    const apot_post *post;
    uint32_t packed, sums, taps; /* scratch memory, in bytes from the start of the workspace */
#ifdef APOT_SIGN_VECTORS
    /* An output's weights are `runs` of `run` weights each. A run is a sum of sign vectors, each times its terms;
     * `codes` are the numbers of sign vectors, and weight_groups the most sign vectors that are found at once. */
    uint32_t runs, run;
    uint8_t by_place;     /* weights in order of places of the kernel, then channels; 0: the other way round */
    const uint8_t *signs; /* a dense stream of the signs of all sign vectors, 1 where added; NULL: codes */
#endif
} apot_convolution;

/* What is done to every number of a value. */
typedef struct {
    uint32_t channels, plane;
    uint8_t kind; /* of its input */
    const apot_post *post;
} apot_map;

/* The largest number of every window, or the sum of its numbers. */
typedef struct {
    apot_value from, to;
    uint32_t channels, in_height, in_width, in_plane, out_height, out_width;
    uint32_t kernel_y, kernel_x, stride_y, stride_x, padding_y, padding_x;
    uint8_t total;
} apot_pool;

/* Every number repeated down and across. */
typedef struct {
    apot_value from, to;
    uint32_t rows, width, down, across; /* rows: of all channels */
} apot_repeat;

/* `workspace` is aligned to 8 bytes. The functions with 64 sum in 64 bits. */
void apot_convolve(const apot_convolution *c, uint8_t *workspace);
void apot_convolve64(const apot_convolution *c, uint8_t *workspace);
void apot_apply(const apot_map *m, const void *from, uint8_t *workspace);
void apot_apply64(const apot_map *m, const void *from, uint8_t *workspace);
void apot_pooled(const apot_pool *p, uint8_t *workspace);
void apot_repeated(const apot_repeat *r, uint8_t *workspace);

#ifdef __cplusplus
}
#endif

#endif
