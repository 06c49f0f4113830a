"""How the shards of a run start: as processes, on other machines, or on a Dask cluster."""
