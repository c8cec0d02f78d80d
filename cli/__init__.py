"""The command line of apot-export: one verb a file, results rendered in `_render`."""

import time

STARTED = time.monotonic()
"""When the program began, before anything that takes time was imported."""
