"""Other people's loops, loggers and old runs. Optional packages are imported only where they are used."""
