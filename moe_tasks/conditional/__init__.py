"""Encoders whose layers are modulated by a task embedding (CA-MTL, arXiv 2009.09139)."""
