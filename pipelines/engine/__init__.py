"""Processes: how studies are given to workers, how they share a machine, what becomes of them.

- `cluster`: the Dask workers of a run, threads of this process or a cluster's.
- `tasks`: what Dask runs on a worker; `supervisor`: the processes that a worker looks after, with
  `gate` (memory and devices), `death` (why one died) and `messages` between them.
- `process`: what such a process does; `worker`: one study through every stage.
- `selection`, `space`, `pace`: which stages run, whether the disk can take it, how it gets on.
"""
