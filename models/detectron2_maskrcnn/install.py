"""States the line that installs Detectron2.

It is not on the package index; its setup imports torch, so the build must see the installed one.
"""

DETECTRON2_INSTALL = "pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git'"
