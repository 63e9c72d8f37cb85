"""The forms of the library, one small declaration each, and their registry by name."""
