"""`vit-patch distil`: a smaller data set of a run's images, as a folder of images."""
