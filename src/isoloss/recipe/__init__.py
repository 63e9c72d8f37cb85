"""The ground all rooms share: what a run is, how it is addressed, and the names a study may use."""
