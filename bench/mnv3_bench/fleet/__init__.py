"""One plan measured on several hosts, over dask.distributed.

groups       what may be measured apart, and which hosts may measure it
wire         what client and hosts say to each other: plain data
host         what happens on a host
agent        the process that measures there
shipping     prepared artifacts and files, from one store to another
cluster      dask: who is there, and how they are spoken to
coordinator  the client: who measures what next, and what has come of it
"""
