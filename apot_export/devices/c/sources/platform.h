/* How main.c prints. Replace platform.c by what your board has. */
#ifndef APOT_PLATFORM_H
#define APOT_PLATFORM_H

#ifdef __cplusplus
extern "C" {
#endif

void platform_print(const char *text);

#ifdef __cplusplus
}
#endif

#endif
