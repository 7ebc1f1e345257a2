"""A frozen decision on whole videos: headline, groups, corruption, heat maps, elsewhere."""
