"""Task representations: where the vector of a task comes from. One file per representation."""
