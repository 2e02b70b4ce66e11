"""INT8: calibration ranges, placement of Q/DQ nodes, weight rounding, trials."""
