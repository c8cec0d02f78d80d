"""The command line of apot-export: one verb a file, results rendered in `_render`."""
