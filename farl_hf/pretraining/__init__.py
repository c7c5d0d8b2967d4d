"""
Pre-training on image-text pairs: contrastive learning and masked image modelling, as in the FaRL paper.

`loop.pretrain` runs it, `configuration.PretrainConfig` holds its settings, `laion_face` opens data sets, `stream` makes
global batches of them.

May import `conversion`, `inference`, `hub`, `synthetic`, `datasets`, `metrics` and `models`; not `finetuning`.
"""
