/* One image of a project that `apot-export emit c` wrote. */
#include "model.h"
#include "samples.h"

void work(void);

void work(void)
{
    static int32_t logits[APOT_CLASSES];
    apot_run(apot_samples[0], logits);
}
