/* Steps of a planned network and the kernels that run them. `_structs.py` has the same layouts.
 *
 * Values lie in one arena, row by row, channels innermost and padded to a multiple of 16 (LANES).
 * Addresses of values are offsets into the arena. Addresses of constants are offsets into the plan
 * while it is a file, 0 for none; `apot_open` makes pointers of them. */
#ifndef APOT_STEPS_H
#define APOT_STEPS_H

#include "apot.h"

#if __SIZEOF_POINTER__ != 8 || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "libapot needs a 64-bit little-endian processor"
#endif

#define LANES 16
#define LONGEST_RUN 7 /* pixels of one row that a tile holds; a tile has one or two such runs */
#define WIDEST_BLOCK 2 /* groups of LANES output channels that a tile holds */
#define TILE_NUMBERS (2 * LONGEST_RUN * WIDEST_BLOCK * LANES)
#define PROJECTIONS 2
#define POSITIONS 16 /* planes of a Winograd convolution */

/* Where a value lies: bytes from the arena's start to its first pixel, between rows, pixels. */
typedef struct {
    int64_t at, row, pixel;
} view;

/* Zeros around a value: rows above and below, pixels left and right. */
typedef struct {
    int64_t height, width, rows, columns, bytes; /* of the value; of the border; of a pixel */
    int64_t zero;                                /* the byte that stands for 0 */
} frame;

enum table_kind { UNIFORM = 0, SHUFFLED = 1, INDEXED = 2 };

/* Floats to levels: table[clip(floor(x * scale) - first, 0, last)], levels counted from the lowest. */
typedef struct {
    view to;
    frame border;
    const uint8_t *table; /* a multiple of 64 bytes; a UNIFORM one has (i + 1) / 2 */
    int64_t kind, chunks; /* runs of 64 bytes of the table, 1 to 4 where it is SHUFFLED */
    float scale, first, last;
    int64_t below; /* whether x can be below 0 */
} projection;

/* What happens to a sum: scale, bias, another value, bounds, then where it goes. */
typedef struct {
    const float *scale, *bias; /* by channel; NULL: neither */
    int64_t has_addend, bounds, stored, projections;
    view addend, to;
    frame border;
    projection levels[PROJECTIONS];
    float low, high; /* bounds 1: low alone; 2: both */
} finishing;

enum step_kind {
    LOAD = 0,      /* the caller's image, planes of rows, to planes or to pixels */
    CONVOLVE = 1,  /* levels or floats through tiles */
    DEPTHWISE = 2, /* one input channel an output channel */
    APPLY = 3,     /* only what follows a sum */
    MAXIMUM = 4,
    MEAN = 5,
    REPEAT = 6, /* pixels over blocks */
    PLACE = 7,  /* channels to a place among others */
    UNROLL = 8, /* channels, rows, columns to channels of one pixel */
    SPREAD = 9  /* levels to the 16 planes of a convolution that is `winograd` */
};

typedef struct {
    int64_t kind;
    int64_t integers;                        /* levels times int8 weights, or floats */
    int64_t height, width, channels;         /* of the output; of a LOAD the image's */
    int64_t input_height, input_width;       /* where windows are cut at the edge */
    view from;                               /* the input; of a convolution's border's corner */
    int64_t stride_y, stride_x;
    int64_t kernel_y, kernel_x, pad_y, pad_x; /* windows of pools; factors of REPEAT */
    const int32_t *offsets;                  /* bytes from a pixel's window to each tap */
    int64_t taps;                            /* of offsets; four levels, or one float, a tap */
    const void *weights;                     /* [block][tap][LANES x groups][4 or 1] */
    const void *high_weights;                /* their multiples of 256, or NULL */
    int64_t group_blocks, group_bytes;       /* blocks of the same input channels; to the next */
    int64_t blocks, run;                     /* blocks of channels; pixels of a run */
    int64_t narrow_run;                      /* taps whose pair sums fit int16; 0: not even one */
    int64_t planes;                          /* bytes between planes; LOAD: 0 is to pixels */
    int64_t rows, columns;                   /* of what a tile computes: pixels, or 2 x 2 of them */
    int64_t winograd, offset;                /* 1: 16 planes to 2 x 2 pixels; of their levels */
    const int32_t *corrections;              /* what offsets of levels add, negated, or NULL:
                                              * [channels], of a winograd step [4][channels] */
    finishing finish;
    int64_t pooled;    /* MAXIMUM of the finished rows, which lie in a ring, then `after` */
    int64_t pool_height, pool_width, pool_kernel_y, pool_kernel_x, pool_stride_y, pool_stride_x;
    int64_t pool_pad_y, pool_pad_x, ring_bytes;
    finishing after;
} step;

/* Sums of one or two runs of pixels, [pixel][channel]. `ahead`: weights that are wanted soon, a
 * cache line a tap. */
typedef void tile_kernel(
    void *sums, const uint8_t *first, const uint8_t *second, ptrdiff_t pixel,
    const int32_t *offsets, int64_t taps, int64_t narrow_run, const void *weights,
    const uint8_t *ahead);

/* What follows the sums of pixels of one row, for some groups of LANES channels. */
typedef void finish_kernel(
    const finishing *finish, uint8_t *arena, const void *sums, ptrdiff_t pixel, int integers,
    int64_t pixels, int64_t groups, int64_t channel, int64_t y, int64_t x);

/* Largest numbers of the pixels of a window, by channel: of some rows from the first on, behind the last row of
 * a ring its row 0. */
typedef void maximum_kernel(
    float *to, const uint8_t *from, int64_t first, int64_t rows, int64_t ring, ptrdiff_t row,
    ptrdiff_t pixel, int64_t columns, int64_t channels);

/* The transforms of `winograd.h`. */
typedef void spread_kernel(
    const uint8_t *from, ptrdiff_t row, ptrdiff_t pixel, int64_t channels, int offset, uint8_t *to,
    ptrdiff_t plane, ptrdiff_t to_pixel, int64_t pixels);
typedef void collect_kernel(
    const int32_t *sums, int64_t pixels, int64_t groups, const int32_t *corrections,
    int64_t channels, int32_t *to);

/* A Winograd convolution of 2 x 2 pixels in a row: of their 16 planes, [2][2 x pixels][groups of LANES]. */
typedef void squares_kernel(
    const uint8_t *from, ptrdiff_t plane, ptrdiff_t pixel, int64_t pixels, int64_t groups,
    const int32_t *offsets, int64_t taps, const void *weights, const int32_t *corrections, int64_t channels,
    int32_t *to);

/* A step whose sums are products of matrices: `pixels` by `taps` at a time, runs of pixels two by two. A
 * run lies in one row, or in all rows at once where they follow each other: then some of its pixels are those
 * between the rows, whose sums nobody takes. */
typedef struct {
    int64_t used, halves;               /* whether the step is one; whether of floats */
    int64_t skipped;                    /* whether the step prepares for one that does without */
    int64_t at, row, pixel;             /* bytes: to the first window, between rows, between pixels */
    int64_t pixels, extent, pitch;      /* of a run; of what is cut into runs; between rows */
    int64_t runs_of_extent, runs;       /* of what is cut; of all */
    int64_t chunks, taps;               /* products of a sum: chunks of taps that lie side by side */
    int32_t *offsets;                   /* bytes from a window to each chunk */
    const uint8_t *weights, *high_weights; /* [block][chunk][tap][LANES x groups][4] */
    uint8_t *own;                       /* memory of the weights, where the plan has others */
    int64_t channels, between;          /* `halves`: of the input; bytes between them */
    int64_t columns, kernel_y, kernel_x; /* pixels that a row of the output reads; its kernel */
} matrix;

/* Sums of one or two runs for a block of channels, [run][pixel][channel]. `ahead`: weights that are wanted
 * soon, so many cache lines a chunk. */
typedef void matrix_kernel(
    void *sums, const uint8_t *first, const uint8_t *second, const matrix *m, const int32_t *offsets,
    const uint8_t *weights, const uint8_t *ahead, int64_t lines);

/* Pixels of floats to three bfloat16 a number: `split.h`. */
typedef int split_kernel(
    int64_t channels, const uint8_t *from, ptrdiff_t between, ptrdiff_t pixel, int64_t pixels, uint8_t *to);

#define STRIP 64 /* pixels that are split together */
#define LONGEST_MATRIX_RUN 16
#define CHUNK_TAPS 16
#define PARTS 3 /* of a float, as bfloat16 */
#define MOST_SPLIT_CHANNELS 64
#define MOST_SPLIT_CHUNKS 256
/* Exponents of numbers whose parts, by weights from 2^-20 to 2^20, have products that are exact. */
#define SMALLEST_EXPONENT ((127u - 60) << 23)
#define EXPONENTS (120u << 23)

/* Kernels by runs - 1, groups - 1: of levels by int8, of bfloat16. Each thread that runs them begins and
 * ends. */
typedef struct {
    void (*begin)(int64_t pixels, int64_t taps);
    void (*end)(void);
    split_kernel *split;
    matrix_kernel *bytes[2][WIDEST_BLOCK], *halves[2][WIDEST_BLOCK];
} matrix_kernels;

/* Kernels of one kind of processor: tiles by pixels of a run - 1, runs - 1, groups - 1. */
typedef struct {
    const char *name;
    tile_kernel *integers[LONGEST_RUN][2][WIDEST_BLOCK];
    tile_kernel *floats[LONGEST_RUN][2][WIDEST_BLOCK];
    finish_kernel *finish;
    maximum_kernel *maximum;
    spread_kernel *spread;
    collect_kernel *collect;
    squares_kernel *squares; /* NULL: tiles of each plane, then `collect` */
    const matrix_kernels *matrices; /* NULL where the processor multiplies no matrices */
} kernels;

/* Those of a file, or NULL where the compiler or the processor lacks the instructions. */
const kernels *apot_amx(void);
const kernels *apot_plain(void);
const kernels *apot_avx2(void);
const kernels *apot_avx_vnni(void);
const kernels *apot_avx512_vbmi(void);
const kernels *apot_avx512(void);
const kernels *apot_neon(void);

/* --- plans ------------------------------------------------------------------------------------ */

#define PLAN_MAGIC "apotplan"
#define PLAN_VERSION 2
#define PLAN_LINE 64 /* constants, and the steps behind them, begin at multiples of this */

/* The start of a plan. */
typedef struct {
    char magic[8];
    int64_t version, step_bytes;
    int64_t checksum; /* CRC-32 of all that follows this number */
    int64_t size;     /* of the file */
    int64_t steps_at, steps;
    int64_t arena_bytes, scratch_bytes; /* of an image's values; of a thread */
    int64_t channels, height, width;    /* of an image */
    int64_t output_at, outputs;         /* floats in the arena after the last step */
} plan;

struct apot_network {
    const kernels *by;
    plan plan;
    const step *steps;
    uint8_t *memory; /* the file, its constants' addresses made pointers */
    matrix *matrices; /* of each step; NULL: of none */
    int64_t ring_bytes; /* that they take, of a thread */
};

/* Check all that a run of a plan depends on, and make pointers of the addresses of its constants; 0 if
 * it would leave its memory. */
int apot_plan_is_sound(const plan *p, uint8_t *memory, step *steps);

/* Find the steps whose sums are products of matrices on a network's kernels; APOT_OK or APOT_NO_MEMORY. */
int apot_find_matrices(apot_network *n);
void apot_free_matrices(apot_network *n);

/* Kernels of an index, NULL after the last; the first are the fastest. */
const kernels *apot_find_kernels(int index);

/* For tests and profiles: run one step on what the steps before it left in the workspace. `image` is
 * what step 0 reads; `sums`, [height, width, channels] of the step's sums, or NULL. */
APOT_API int apot_run_step(
    const apot_network *network, int64_t index, const float *image, void *sums, int threads,
    void *workspace);

#endif
