"""Layouts that people have → one index, audit, leak-free split, cheap baselines."""
