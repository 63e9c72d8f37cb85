"""Several processes for one run: which of them computes what, and how sums come out as they do in one process."""
