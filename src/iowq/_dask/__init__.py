"""iowq on a Dask cluster: what runs on its workers, in its scheduler, and at its clients."""
