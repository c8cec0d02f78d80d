/* Eight registers of 16 rows of 64 bytes: the instructions of AMX or, with APOT_EMULATED_TILES, C that
 * computes what they do and ends the process where they would raise an exception. The numbers of registers
 * are literals. */
#ifndef TILE_REGISTERS_H
#define TILE_REGISTERS_H

#include <stdint.h>

#define REGISTER_ROWS 16
#define REGISTER_BYTES 64
#define REGISTERS 8

/* What `ldtilecfg` reads. */
typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16]; /* of a row */
    uint8_t rows[16];
} register_shapes;

#ifndef APOT_EMULATED_TILES
#include <immintrin.h>

/* Compilers do not know all the memory that these instructions read: what was written must be there. */
#define MEMORY_IS_WRITTEN(at) __asm__ volatile("" ::"r"(at) : "memory")
#define tile_configure(shapes) (_tile_loadconfig(shapes))
#define tile_release() _tile_release()
#define tile_zero(to) _tile_zero(to)
#define tile_load(to, from, between) _tile_loadd(to, from, between)
#define tile_store(from, to, between) _tile_stored(from, to, between)
#define tile_multiply_bytes(sums, a, b) _tile_dpbusd(sums, a, b)
#define tile_multiply_halves(sums, a, b) _tile_dpbf16ps(sums, a, b)

#else
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define MEMORY_IS_WRITTEN(at) ((void)(at))

/* How often registers were multiplied, loaded and stored, by all threads; for tests and counts. */
enum { PRODUCTS, LOADS, STORES, COUNTS };
static _Atomic int64_t emulated_counts[COUNTS];

static _Thread_local struct {
    register_shapes shapes;
    uint8_t content[REGISTERS][REGISTER_ROWS][REGISTER_BYTES];
} emulated;

/* Products touch registers alone: what watches memory watches loads and stores. */
#define UNWATCHED __attribute__((no_sanitize("address", "thread", "undefined")))

static void require_tile(int holds)
{
    if (!holds)
        abort();
}

static void tile_configure(const register_shapes *shapes)
{
    require_tile(shapes->palette == 1 && shapes->start_row == 0);
    for (int i = 0; i < 14; i++)
        require_tile(!shapes->reserved[i]);
    for (int i = 0; i < 16; i++) {
        require_tile(!shapes->rows[i] == !shapes->bytes[i] && (i < REGISTERS || !shapes->rows[i]));
        require_tile(shapes->rows[i] <= REGISTER_ROWS && shapes->bytes[i] <= REGISTER_BYTES);
    }
    memset(&emulated, 0, sizeof emulated);
    emulated.shapes = *shapes;
}

static void tile_release(void) { memset(&emulated, 0, sizeof emulated); }

static void tile_zero(int to)
{
    require_tile(emulated.shapes.palette == 1 && emulated.shapes.rows[to]);
    memset(emulated.content[to], 0, sizeof emulated.content[to]);
}

static void tile_load(int to, const void *from, ptrdiff_t between)
{
    tile_zero(to);
    emulated_counts[LOADS]++;
    for (int row = 0; row < emulated.shapes.rows[to]; row++)
        memcpy(
            emulated.content[to][row], (const uint8_t *)from + row * between,
            emulated.shapes.bytes[to]);
}

static void tile_store(int from, void *to, ptrdiff_t between)
{
    require_tile(emulated.shapes.palette == 1 && emulated.shapes.rows[from]);
    emulated_counts[STORES]++;
    for (int row = 0; row < emulated.shapes.rows[from]; row++)
        memcpy((uint8_t *)to + row * between, emulated.content[from][row], emulated.shapes.bytes[from]);
}

static void require_product(int sums, int a, int b)
{
    const register_shapes *s = &emulated.shapes;
    require_tile(s->palette == 1 && sums != a && sums != b && a != b);
    require_tile(s->rows[sums] && s->rows[a] && s->rows[b]);
    require_tile(s->bytes[sums] % 4 == 0 && s->bytes[a] % 4 == 0 && s->bytes[b] % 4 == 0);
    require_tile(s->rows[sums] == s->rows[a] && s->bytes[a] / 4 == s->rows[b]);
    require_tile(s->bytes[sums] == s->bytes[b]);
    emulated_counts[PRODUCTS]++;
}

/* TDPBUSD: unsigned bytes of `a` times signed ones of `b`, four to a sum of 32 bits. */
UNWATCHED static void tile_multiply_bytes(int sums, int a, int b)
{
    require_product(sums, a, b);
    for (int m = 0; m < emulated.shapes.rows[sums]; m++)
        for (int n = 0; n < emulated.shapes.bytes[sums] / 4; n++) {
            int32_t sum;
            memcpy(&sum, &emulated.content[sums][m][4 * n], sizeof sum);
            for (int k = 0; k < emulated.shapes.rows[b]; k++)
                for (int i = 0; i < 4; i++)
                    sum += emulated.content[a][m][4 * k + i] *
                           (int8_t)emulated.content[b][k][4 * n + i];
            memcpy(&emulated.content[sums][m][4 * n], &sum, sizeof sum);
        }
}

UNWATCHED static float without_denormals(float x) { return fabsf(x) < 0x1p-126f ? copysignf(0, x) : x; }

UNWATCHED static float of_half(const uint8_t *at)
{
    float found;
    uint8_t bytes[4] = {0, 0, at[0], at[1]};
    memcpy(&found, bytes, sizeof found);
    return without_denormals(found);
}

/* TDPBF16PS: pairs of bfloat16; those of even and of odd places have sums of their own, which are rounded
 * once a product and then added. */
UNWATCHED static void tile_multiply_halves(int sums, int a, int b)
{
    require_product(sums, a, b);
    for (int m = 0; m < emulated.shapes.rows[sums]; m++)
        for (int n = 0; n < emulated.shapes.bytes[sums] / 4; n++) {
            float sum, part[2] = {0, 0};
            memcpy(&sum, &emulated.content[sums][m][4 * n], sizeof sum);
            for (int k = 0; k < emulated.shapes.rows[b]; k++)
                for (int i = 0; i < 2; i++)
                    part[i] = without_denormals(fmaf(
                        of_half(&emulated.content[a][m][4 * k + 2 * i]),
                        of_half(&emulated.content[b][k][4 * n + 2 * i]), part[i]));
            sum = without_denormals(
                without_denormals(sum) + without_denormals(part[0] + part[1]));
            memcpy(&emulated.content[sums][m][4 * n], &sum, sizeof sum);
        }
}
#endif

#endif
