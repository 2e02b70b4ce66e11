"""Hyper-parameter search: the space, the study, the workers."""
