"""What papers propose, one file each, usable in any PyTorch loop."""
