/* Prints how many instructions work() takes in QEMU with -icount shift=0, where one takes 1 ns.
 *
 * RISC-V counts them itself (minstret). The boards mps2-an385 and -an386 have a timer of 25 MHz: 40
 * instructions a tick. */
#include <stdint.h>

#include "platform.h"

void work(void);

#ifdef __riscv
#define READ(NAME, X)                                                                             \
    __asm__ volatile(".option push\n.option arch, +zicsr\ncsrr %0, " NAME "\n.option pop" : "=r"(X))

static void start_counting(void) {}

static uint64_t counted(void)
{
    uint32_t low, high, again;
    do {
        READ("minstreth", high);
        READ("minstret", low);
        READ("minstreth", again);
    } while (high != again);
    return (uint64_t)high << 32 | low;
}
#else
#define TIMER ((volatile uint32_t *)0x40000000)

static void start_counting(void)
{
    TIMER[2] = 0xffffffffu; /* reload */
    TIMER[1] = 0xffffffffu; /* value */
    TIMER[0] = 1;           /* enable */
}

static uint64_t counted(void)
{
    const uint64_t ticks = 0xffffffffu - TIMER[1];
    return (ticks << 5) + (ticks << 3);
}
#endif

int main(void)
{
    static char text[] = "0x0000000000000000\n";
    uint64_t found;
    int place;
    start_counting();
    found = counted();
    work();
    found = counted() - found;
    for (place = 17; place >= 2; place--, found >>= 4)
        text[place] = "0123456789abcdef"[found & 15];
    platform_print("instructions ");
    platform_print(text);
    return 0;
}
