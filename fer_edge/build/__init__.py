"""From a trained network to a verified bundle: the pipeline, its steps, and what it writes."""
