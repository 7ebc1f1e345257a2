"""Video → frames → faces → people; whole data sets of them."""

from utils.faces.detection import CropRecipe
from utils.faces.extraction import extract_faces, find_example, one_face_a_video
from utils.faces.media import load_crop

__all__ = ["CropRecipe", "extract_faces", "find_example", "load_crop", "one_face_a_video"]
