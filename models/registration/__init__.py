"""Registration: what map takes points of one volume of a head into another.

- `similarity`: normalised mutual information of two volumes under a map.
- `foreground`: where the head is.
- `start`: a rigid map found from several starts at coarse resolution.
- `elastix`: rigid, affine and deformable registration, and any elastix parameter file.
"""
