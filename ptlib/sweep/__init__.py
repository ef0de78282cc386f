"""Sweeps: run a notebook over a grid of parameters, on this machine or a cluster. Only this package imports Dask."""
