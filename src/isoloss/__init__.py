"""isoloss: what a training method is worth, at equal loss."""
