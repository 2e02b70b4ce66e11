"""What a training run is on disk, its recipe, and what a name means."""
