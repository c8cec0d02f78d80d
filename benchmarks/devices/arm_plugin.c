/* A plugin of QEMU's user emulation: prints how many instructions ran since the mark before, at every mark.
 * A mark is the system call getppid with a number of 1 or more. The declarations are those of qemu-plugin.h. */
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>

#define EXPORT __attribute__((visibility("default")))
#define GETPPID 173

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
typedef void (*translated)(plugin_id, struct qemu_plugin_tb *);
typedef void (*executed)(unsigned, void *);
typedef void (*called)(
    plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, translated);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, executed, int, void *);
void qemu_plugin_register_vcpu_syscall_cb(plugin_id, called);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
void qemu_plugin_outs(const char *);

EXPORT int qemu_plugin_version = 1;
static uint64_t count;

static void ran(unsigned processor, void *instructions)
{
    (void)processor;
    count += (uintptr_t)instructions;
}

static void seen(plugin_id id, struct qemu_plugin_tb *block)
{
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_cb(block, ran, 0, (void *)qemu_plugin_tb_n_insns(block));
}

static void call(
    plugin_id id, unsigned processor, int64_t number, uint64_t mark, uint64_t b, uint64_t c, uint64_t d,
    uint64_t e, uint64_t f, uint64_t g, uint64_t h)
{
    (void)id, (void)processor, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
    if (number != GETPPID || !mark)
        return;
    char line[64];
    snprintf(line, sizeof line, "%" PRIu64 " %" PRIu64 "\n", mark, count);
    qemu_plugin_outs(line);
    count = 0;
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int words, char **word)
{
    (void)info, (void)words, (void)word;
    qemu_plugin_register_vcpu_tb_trans_cb(id, seen);
    qemu_plugin_register_vcpu_syscall_cb(id, call);
    return 0;
}
