"""Translation of MR into Hounsfield units.

::

    network     HounsfieldNetwork   any backbone -> HU and tissue classes
"""
