"""Where an export and the original first differ, and what would explain it."""
