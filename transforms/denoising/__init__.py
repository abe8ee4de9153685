"""Denoising with a known noise level; nothing learned.

::

    nlm   non_local_means   the default: exact in parallel, patches that respect thick slices
    tv    total_variation   scikit-image's Chambolle iteration: faster on small volumes, flatter
"""
