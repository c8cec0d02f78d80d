/* Opens plans: of a file or of memory, for kernels that this processor has. */
#include "apot_steps.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

/* What a file may ask for: as `apot_export/budgets.py` says. */
#define FIXED_MEMORY ((uint64_t)256 << 20)
#define MEMORY_OF_A_BYTE 256
#define MOST_MEMORY ((uint64_t)16 << 30)

#define MOST_FILE ((int64_t)1 << 40)
#define MOST_EXTENT ((int64_t)1 << 31)
#define LARGE_PAGE ((size_t)1 << 21)

const char *apot_message(int status)
{
    static const char *const messages[] = {
        "no error",
        "the plan cannot be read: is the path right, and may this user read it?",
        "this is no plan, or it is cut: write it again with `apot-export emit native`",
        "the plan is for another version of libapot: write it again with the apot-export that these "
        "sources came with",
        "the plan is damaged: its checksum is wrong",
        "the plan would leave its memory: do not use a file that you do not trust",
        "the plan asks for more memory than a file of its size should need: if you trust it, set "
        "max_memory in apot_options",
        "the system has too little memory",
        "this processor, or this build of libapot, has no kernels of that name: apot_kernels_at lists them",
        "the system did not start the threads that were asked for",
        "an argument is not possible: NULL, a negative count, apot_options without their size, or threads "
        "outside 1 to 64",
    };
    int known = status >= 0 && (size_t)status < sizeof messages / sizeof *messages;
    return known ? messages[status] : "an unknown status";
}

/* CRC-32, as zlib computes it. */
static uint32_t checksum(const uint8_t *bytes, size_t size)
{
    uint32_t table[256], crc = 0xffffffffu;
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t entry = i;
        for (int bit = 0; bit < 8; bit++)
            entry = entry >> 1 ^ (entry & 1 ? 0xedb88320u : 0);
        table[i] = entry;
    }
    for (size_t i = 0; i < size; i++)
        crc = crc >> 8 ^ table[(crc ^ bytes[i]) & 255];
    return ~crc;
}

/* A network's numbers take thousands of small pages, more than a processor keeps addresses of. */
static uint8_t *large_memory(size_t size)
{
    void *memory = NULL;
    size_t whole = (size + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE;
    if (posix_memalign(&memory, LARGE_PAGE, whole))
        return NULL;
#ifdef MADV_HUGEPAGE
    madvise(memory, whole, MADV_HUGEPAGE); /* where it is refused, small pages do */
#endif
    return memory;
}

static int number_is_possible(int64_t number, int64_t low, int64_t high)
{
    return number >= low && number <= high;
}

/* Compare a header with the size of its file and with what the file may ask for. */
static int checked_header(const plan *p, int64_t size, uint64_t max_memory)
{
    if (p->version != PLAN_VERSION || p->step_bytes != (int64_t)sizeof(step))
        return APOT_VERSION;
    if (p->size != size)
        return APOT_NOT_A_PLAN;
    int possible =
        number_is_possible(p->steps_at, sizeof(plan), size) && p->steps_at % PLAN_LINE == 0 &&
        number_is_possible(p->steps, 1, (size - p->steps_at) / (int64_t)sizeof(step)) &&
        number_is_possible(p->arena_bytes, 1, MOST_FILE) && p->arena_bytes % PLAN_LINE == 0 &&
        number_is_possible(p->scratch_bytes, 0, MOST_FILE) && p->scratch_bytes % PLAN_LINE == 0 &&
        number_is_possible(p->channels, 1, MOST_EXTENT) &&
        number_is_possible(p->height, 1, MOST_EXTENT) &&
        number_is_possible(p->width, 1, MOST_EXTENT) &&
        number_is_possible(p->outputs, 1, MOST_EXTENT);
    if (!possible)
        return APOT_MALFORMED;
    uint64_t most = FIXED_MEMORY + MEMORY_OF_A_BYTE * (uint64_t)size;
    most = max_memory ? max_memory : most < MOST_MEMORY ? most : MOST_MEMORY;
    return (uint64_t)(p->arena_bytes + p->scratch_bytes) > most ? APOT_TOO_LARGE : APOT_OK;
}

/* Check a file in memory of the network's own, and make pointers of its addresses. */
static int checked(apot_network *n, int64_t size, uint64_t max_memory)
{
    size_t start = offsetof(plan, checksum) + sizeof n->plan.checksum;
    if (size < (int64_t)sizeof(plan) || memcmp(n->memory, PLAN_MAGIC, sizeof n->plan.magic))
        return APOT_NOT_A_PLAN;
    memcpy(&n->plan, n->memory, sizeof n->plan);
    int status = checked_header(&n->plan, size, max_memory);
    if (status)
        return status;
    if (n->plan.checksum != (int64_t)checksum(n->memory + start, (size_t)size - start))
        return APOT_DAMAGED;
    step *steps = (step *)(n->memory + n->plan.steps_at);
    n->steps = steps;
    return apot_plan_is_sound(&n->plan, n->memory, steps) ? apot_find_matrices(n) : APOT_MALFORMED;
}

static const kernels *kernels_named(const char *name)
{
    const kernels *found;
    for (int i = 0; (found = apot_find_kernels(i)); i++)
        if (!name || !strcmp(found->name, name))
            return found;
    return NULL;
}

/* Give back a network whose memory was filled, or free it. */
static int opened(apot_network **network, apot_network *n, int64_t size, const apot_options *options)
{
    n->by = kernels_named(options ? options->kernels : NULL);
    int status = n->by ? checked(n, size, options ? options->max_memory : 0) : APOT_NO_KERNELS;
    if (status)
        apot_close(n);
    else
        *network = n;
    return status;
}

static int options_are_possible(const apot_options *options)
{
    return !options || options->size == sizeof *options;
}

static apot_network *with_memory(size_t size)
{
    apot_network *n = calloc(1, sizeof *n);
    if (n && !(n->memory = large_memory(size))) {
        free(n);
        return NULL;
    }
    return n;
}

int apot_open_memory(
    apot_network **network, const void *bytes, size_t size, const apot_options *options)
{
    if (network)
        *network = NULL;
    if (!network || !bytes || !options_are_possible(options))
        return APOT_BAD_ARGUMENT;
    if (size < sizeof(plan) || size > (size_t)MOST_FILE)
        return APOT_NOT_A_PLAN;
    apot_network *n = with_memory(size);
    if (!n)
        return APOT_NO_MEMORY;
    memcpy(n->memory, bytes, size);
    return opened(network, n, (int64_t)size, options);
}

int apot_open(apot_network **network, const char *path, const apot_options *options)
{
    if (network)
        *network = NULL;
    if (!network || !path || !options_are_possible(options))
        return APOT_BAD_ARGUMENT;
    FILE *file = fopen(path, "rb");
    plan start;
    if (!file)
        return errno == ENOMEM ? APOT_NO_MEMORY : APOT_UNREADABLE;
    int status = APOT_OK;
    apot_network *n = NULL;
    if (fread(&start, sizeof start, 1, file) != 1)
        status = ferror(file) ? APOT_UNREADABLE : APOT_NOT_A_PLAN;
    else if (memcmp(start.magic, PLAN_MAGIC, sizeof start.magic))
        status = APOT_NOT_A_PLAN;
    else if (start.version != PLAN_VERSION)
        status = APOT_VERSION;
    /* What the file claims takes no memory before it is known to be there. */
    else if (fseek(file, 0, SEEK_END) || ftell(file) != start.size || start.size > MOST_FILE)
        status = APOT_NOT_A_PLAN;
    else if (!(n = with_memory((size_t)start.size)))
        status = APOT_NO_MEMORY;
    else {
        rewind(file);
        if (fread(n->memory, (size_t)start.size, 1, file) != 1)
            status = APOT_UNREADABLE;
    }
    fclose(file);
    if (status) {
        apot_close(n);
        return status;
    }
    return opened(network, n, start.size, options);
}

void apot_close(apot_network *network)
{
    if (!network)
        return;
    apot_free_matrices(network);
    free(network->memory);
    free(network);
}

const char *apot_kernels(const apot_network *network) { return network->by->name; }
int64_t apot_channels(const apot_network *network) { return network->plan.channels; }
int64_t apot_height(const apot_network *network) { return network->plan.height; }
int64_t apot_width(const apot_network *network) { return network->plan.width; }
int64_t apot_outputs(const apot_network *network) { return network->plan.outputs; }
