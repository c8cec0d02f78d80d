/* libapot: runs a network of levels and powers of two, as `apot-export emit native` plans it.
 *
 *     apot_network *network;
 *     int status = apot_open(&network, "network.apot", NULL);
 *     if (status)
 *         fprintf(stderr, "%s\n", apot_message(status));
 *     else
 *         status = apot_run(network, images, count, outputs, threads, NULL);
 *     apot_close(network);
 *
 * Needs a 64-bit little-endian processor and POSIX threads. Nothing is global: an open network never
 * changes, and any number of threads may run it at the same time, each with a workspace of its own. No
 * call prints, ends the process, or leaves threads behind.
 *
 * A plan is checked before it is used: a file that is damaged, or that somebody made to do harm, is
 * refused, or computes numbers that mean nothing within the memory that it was given.
 *
 * New versions add functions and statuses, and members at the end of `apot_options`, whose `size` says
 * which of them a caller knows; what is here stays as it is. A plan belongs to the version that its first bytes name: APOT_VERSION asks for a new one.
 *
 * `apot_integer.h`, the interpreter of packed files, has functions of the same names: a program links
 * one of the two. */
#ifndef APOT_H
#define APOT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define APOT_API __attribute__((visibility("default")))
#else
#define APOT_API
#endif

#define APOT_MOST_THREADS 64

enum apot_status {
    APOT_OK = 0,
    APOT_UNREADABLE = 1,   /* the file cannot be read */
    APOT_NOT_A_PLAN = 2,   /* it is no plan, or it is cut */
    APOT_VERSION = 3,      /* it is a plan for another version of this library */
    APOT_DAMAGED = 4,      /* its checksum is wrong */
    APOT_MALFORMED = 5,    /* it would leave its memory */
    APOT_TOO_LARGE = 6,    /* it asks for more memory than `apot_options.max_memory` allows */
    APOT_NO_MEMORY = 7,    /* the system has too little */
    APOT_NO_KERNELS = 8,   /* this processor, or this build, has no kernels of that name */
    APOT_NO_THREADS = 9,   /* the system started too few */
    APOT_BAD_ARGUMENT = 10 /* NULL, a negative count, a wrong size of options, or threads
                            * outside 1 to APOT_MOST_THREADS */
};

typedef struct apot_network apot_network;

typedef struct {
    size_t size;         /* sizeof(apot_options) */
    const char *kernels; /* a name of `apot_kernels_at`; NULL: the fastest that the processor has */
    uint64_t max_memory; /* bytes that one thread's workspace may take; 0: 256 MiB and 256 for each
                          * byte of the plan, 16 GiB at most */
} apot_options;

/* Open a plan, of a file or of memory, which is copied. `options` may be NULL. *network is NULL unless
 * the status is APOT_OK. */
APOT_API int apot_open(apot_network **network, const char *path, const apot_options *options);
APOT_API int apot_open_memory(
    apot_network **network, const void *plan, size_t size, const apot_options *options);

/* Free a network that nothing runs any more; NULL is allowed. */
APOT_API void apot_close(apot_network *network);

/* A sentence about a status. */
APOT_API const char *apot_message(int status);

/* Name of the kernels of an index, the fastest first: what this processor can run. NULL after the last. */
APOT_API const char *apot_kernels_at(int index);

/* Name of the kernels that a network runs on. */
APOT_API const char *apot_kernels(const apot_network *network);

/* Extents of an image, and how many numbers a run writes for it. */
APOT_API int64_t apot_channels(const apot_network *network);
APOT_API int64_t apot_height(const apot_network *network);
APOT_API int64_t apot_width(const apot_network *network);
APOT_API int64_t apot_outputs(const apot_network *network);

/* Bytes of a workspace for runs of that many threads; 0 where `threads` is not possible. It may hold
 * anything and begin anywhere; memory that begins with a large page is the fastest. What a run does not
 * touch takes no memory: all threads share one image's values where there are fewer images than threads. */
APOT_API size_t apot_workspace_bytes(const apot_network *network, int threads);

/* Run images, preprocessed, float32 [count][channels][height][width], to outputs, float32
 * [count][outputs]. Threads share the images, and the rows of those that are left over. The outputs do
 * not depend on the number of threads. `workspace` is the run's alone until it returns; NULL: the run
 * takes one and frees it. */
APOT_API int apot_run(
    const apot_network *network, const float *images, int64_t count, float *outputs, int threads,
    void *workspace);

#ifdef __cplusplus
}
#endif

#endif
