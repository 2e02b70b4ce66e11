"""What several commands share: makers of options, what they name, and how results are printed."""
