"""Measuring: accuracy, agreement, latency, the gate, the machine; never a number without its n."""
