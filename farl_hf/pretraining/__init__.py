"""Pre-training on image-text pairs: contrastive learning and masked image modelling, as in the FaRL paper."""
