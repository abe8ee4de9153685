"""An nnU-Net data set from a run's outputs and the user's labels, and nnU-Net's training on it.

::

    channels  the volumes of a study on one grid     labels   a study's label file, on that grid
    classes   values of labels -> nnU-Net's classes  prepare  imagesTr, labelsTr, dataset.json
    train     nnU-Net itself, in a process of its own

A data set folder holds nnU-Net's three folders, so that no variable of the environment needs to be
set to use it::

    DEST/nnUNet_raw/Dataset501_Mine/{imagesTr,labelsTr,dataset.json,studies.tsv,classes.tsv}
    DEST/nnUNet_preprocessed/...    DEST/nnUNet_results/...
"""
