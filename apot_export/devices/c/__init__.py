"""`apot-export emit c`: a C99 project of an integer network, for machines without a multiplier."""
