"""How fast a model can be expected to answer, as a range."""
