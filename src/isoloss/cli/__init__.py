"""The commands; no logic of their own, and nothing heavy imported until one runs."""
