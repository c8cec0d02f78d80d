/* Prints how many instructions work() takes in QEMU with -icount shift=0, where one takes 1 ns.
 *
 * RISC-V counts them itself (minstret). The boards mps2-an385 and -an386 have a timer of 25 MHz: 40
 * instructions a tick. */
#include <stdint.h>

#include "platform.h"

void work(void);

#ifdef __riscv
static void start_counting(void) {}

static uint32_t counted(void)
{
    uint32_t found;
    __asm__ volatile(".option push\n.option arch, +zicsr\ncsrr %0, minstret\n.option pop"
                     : "=r"(found));
    return found;
}
#define SCALE 0
#else
#define TIMER ((volatile uint32_t *)0x40000000)

static void start_counting(void)
{
    TIMER[2] = 0xffffffffu; /* reload */
    TIMER[1] = 0xffffffffu; /* value */
    TIMER[0] = 1;           /* enable */
}

static uint32_t counted(void)
{
    return 0xffffffffu - TIMER[1];
}
#define SCALE 1
#endif

int main(void)
{
    static char text[] = "0x00000000\n";
    uint32_t before, found;
    int place;
    start_counting();
    before = counted();
    work();
    found = counted() - before;
    if (SCALE)
        found = (found << 5) + (found << 3);
    for (place = 9; place >= 2; place--, found >>= 4)
        text[place] = "0123456789abcdef"[found & 15];
    platform_print("instructions ");
    platform_print(text);
    return 0;
}
