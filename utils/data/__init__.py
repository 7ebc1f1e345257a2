"""Layouts that people have → one index, audit, leak-free split, cheap baselines."""

from utils.data.layouts import index_videos

__all__ = ["index_videos"]
