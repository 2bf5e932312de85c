"""A device report that people trust: what each runtime costs on this machine, and how two of them differ."""
