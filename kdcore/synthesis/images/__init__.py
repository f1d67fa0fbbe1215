"""Images out of a classifier: what the methods share, and a file for each of them; `make_images` is the entrance."""
