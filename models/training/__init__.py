"""The training room: what a bundle's ``train.yaml`` runs.

::

    run          Training            the run: MONAI's trainer, resumable, with EMA and checkpoints
    settings     TrainingSettings    its numbers
    tasks/       Denoising, ...      what each network learns: input, loss, metrics, pictures
    sources      open_source         the generator over label maps, or the user's scans
    pack         pack                label maps to packed heads; phantoms beside them
"""
