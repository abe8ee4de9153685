"""Registration: what map takes points of one volume of a head into another.

- `similarity`: normalised mutual information of two volumes under a map.
- `foreground`: where the head is.
- `start`: a rigid map found from several starts at coarse resolution.
- `elastix`: rigid, affine and deformable registration, and any elastix parameter file.
- `methods`: one way in to elastix, voxelmorph and hybrid.
- `deformable`: hybrid and voxelmorph, from two volumes and an affine map to fields in mm.
- `working_grid`, `descriptors`, `search`, `instance`, `gauss_newton`, `flow`: its parts.
- `structures`: what the segmentation network sees in both heads, for hybrid.
- `network`, `forces`, `learned`: VoxelMorph, what it is told beside the images; on any pair of
  volumes.
"""
