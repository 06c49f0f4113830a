"""Keys, certificates and the judgement of peers. Nothing here does I/O."""
