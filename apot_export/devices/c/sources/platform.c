/* Printing and starting: on a PC with stdio; without an operating system with semihosting, by which an
 * emulator or a debugger prints for the program. */
#include "platform.h"

#include <stddef.h>
#include <stdint.h>

#ifndef APOT_BARE

#include <stdio.h>

void platform_print(const char *text)
{
    fputs(text, stdout);
}

#else

#define WRITE 0x04
#define EXIT 0x18
#define EXIT_DONE 0x20026u
#define EXIT_FAILED 0x20023u

/* Compilers call these for loops that set or copy memory. */
void *memset(void *to, int byte, size_t size);
void *memcpy(void *to, const void *from, size_t size);

void *memset(void *to, int byte, size_t size)
{
    volatile uint8_t *at = (volatile uint8_t *)to;
    for (; size; size--)
        *at++ = (uint8_t)byte;
    return to;
}

void *memcpy(void *to, const void *from, size_t size)
{
    volatile uint8_t *at = (volatile uint8_t *)to;
    const uint8_t *source = (const uint8_t *)from;
    for (; size; size--)
        *at++ = *source++;
    return to;
}

extern uint32_t data_from[], data_start[], data_end[], bss_start[], bss_end[], stack_top[];
int main(void);
void start(void);

static void semihost(uintptr_t operation, uintptr_t argument)
{
#ifdef __riscv
    register uintptr_t a0 __asm__("a0") = operation;
    register uintptr_t a1 __asm__("a1") = argument;
    __asm__ volatile(".option push\n.option norvc\n.balign 16\n"
                     "slli x0, x0, 0x1f\nebreak\nsrai x0, x0, 7\n.option pop"
                     : "+r"(a0)
                     : "r"(a1)
                     : "memory");
#else
    register uintptr_t r0 __asm__("r0") = operation;
    register uintptr_t r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
#endif
}

void platform_print(const char *text)
{
    semihost(WRITE, (uintptr_t)text);
}

void start(void)
{
    const uint32_t *from = data_from;
    uint32_t *to;
    for (to = data_start; to != data_end; to++)
        *to = *from++;
    for (to = bss_start; to != bss_end; to++)
        *to = 0;
    semihost(EXIT, main() ? EXIT_FAILED : EXIT_DONE);
    for (;;) {
    }
}

#ifdef __riscv
__asm__(".section .vectors, \"ax\"\n.globl _start\n_start:\n"
        "la sp, stack_top\nj start\n.text");
#else
__attribute__((section(".vectors"), used)) static const uintptr_t vectors[16] = {
    (uintptr_t)stack_top, (uintptr_t)start, (uintptr_t)start, (uintptr_t)start};
#endif

#endif
