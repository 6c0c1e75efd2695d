"""What training with experts costs on many devices, on paper: ``python -m analysis.scaling``."""
