"""Video → frames → faces → people; whole data sets of them."""

from utils.faces.detection import named_recipe
from utils.faces.extraction import extract_faces, find_example, one_face_a_video
from utils.faces.media import load_crop

__all__ = ["extract_faces", "find_example", "load_crop", "named_recipe", "one_face_a_video"]
