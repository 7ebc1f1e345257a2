"""Where am I; the artefacts, checked and atomic; many files in many processes."""
