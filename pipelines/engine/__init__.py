"""Processes: `cluster`, the Dask cluster of a run; `worker`, what runs inside one of them."""
