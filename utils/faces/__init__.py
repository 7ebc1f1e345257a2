"""Video → frames → faces → people; whole data sets of them."""
