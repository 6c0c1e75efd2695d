"""What experts cost, measured: ``python -m analysis.bench`` (runs models, so it imports torch)."""
