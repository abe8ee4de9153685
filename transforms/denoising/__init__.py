"""Denoising with a known noise level; nothing learned.

::

    nlm     non_local_means   the default: exact in parallel, patches that respect thick slices
    nlb     non_local_bayes   from dct on, learns from blocks that look alike: nearest to the truth
    dct     cosine_shrinkage  shrinks small blocks' cosine coefficients: local
    tv      total_variation   scikit-image's Chambolle iteration: faster on small volumes, flatter
    rician  signal_of_mean    the bias of magnitude images, and the way back
"""
