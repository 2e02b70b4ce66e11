"""Folders for other servers: Triton and DeepStream."""
