"""The entries of the catalogue, by room."""
