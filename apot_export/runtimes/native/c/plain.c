/* Plain C: right everywhere, and what the other kernels are compared with. */
#include "plain.h"

const kernels *apot_plain(void)
{
    static const kernels found = KERNELS("plain", finish_row, maximum, spread, collect, NULL);
    return &found;
}
