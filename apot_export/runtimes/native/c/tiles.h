/* Tiles of every size, from `integer_tile` and `float_tile` of the file that includes this. */
#define TILE(P, R, G)                                                                           \
    static void integers_##P##R##G(                                                             \
        void *sums, const uint8_t *first, const uint8_t *second, ptrdiff_t pixel,               \
        const int32_t *offsets, int64_t taps, int64_t narrow_run, const void *weights,           \
        const uint8_t *ahead)                                                                   \
    {                                                                                           \
        (void)narrow_run, (void)ahead;                                                          \
        integer_tile(                                                                           \
            P, R, G, sums, first, second, pixel, offsets, taps, narrow_run, weights, ahead);    \
    }                                                                                           \
    static void floats_##P##R##G(                                                               \
        void *sums, const uint8_t *first, const uint8_t *second, ptrdiff_t pixel,               \
        const int32_t *offsets, int64_t taps, int64_t narrow_run, const void *weights,           \
        const uint8_t *ahead)                                                                   \
    {                                                                                           \
        (void)narrow_run, (void)ahead;                                                          \
        float_tile(P, R, G, sums, first, second, pixel, offsets, taps, weights, ahead);         \
    }
#define TILES_OF(P) TILE(P, 1, 1) TILE(P, 1, 2) TILE(P, 2, 1) TILE(P, 2, 2)
TILES_OF(1) TILES_OF(2) TILES_OF(3) TILES_OF(4) TILES_OF(5) TILES_OF(6) TILES_OF(7)

#define NAMES_OF(kind, P) {{kind##P##11, kind##P##12}, {kind##P##21, kind##P##22}}
#define ALL_TILES(kind)                                                                         \
    {NAMES_OF(kind, 1), NAMES_OF(kind, 2), NAMES_OF(kind, 3), NAMES_OF(kind, 4),                \
     NAMES_OF(kind, 5), NAMES_OF(kind, 6), NAMES_OF(kind, 7)}
#define KERNELS(name, finish, maximum, spread, collect, squares)                                \
    {name, ALL_TILES(integers_), ALL_TILES(floats_), finish, maximum, spread, collect, squares, NULL}
