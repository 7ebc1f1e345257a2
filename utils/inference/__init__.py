"""Any file → one answer; many files → tables and pictures."""
