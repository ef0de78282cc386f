"""Sweeps: a notebook over a grid of parameters, on this machine or a cluster. Only this room imports Dask."""
