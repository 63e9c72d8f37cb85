"""One segment of one rule: the update loop, tasks, evaluation and observers."""
