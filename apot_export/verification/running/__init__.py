"""Running every side on a data set: images, shards, processes, backends."""
