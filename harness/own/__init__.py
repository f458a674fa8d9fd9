"""Suite ``own``: settings for models and data of one's own, from what is measured of them."""
