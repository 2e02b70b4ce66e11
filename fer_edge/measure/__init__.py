"""Measurements: accuracy, agreement, latency, the gate, the machine."""
