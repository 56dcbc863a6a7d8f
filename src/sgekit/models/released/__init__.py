"""The peers of SGE as arXiv 1905.09646's authors trained and released them.

SE, SK, BAM and CBAM differ there from their own papers; sgekit.modules has them as those papers
have them. Importing this registers `se_`, `sk_`, `bam_` and `cbam_resnet50` and `101` with timm.
"""

from sgekit.models.released import networks as _networks  # noqa: F401  (registers)
from sgekit.models.released.attention import ReleasedBam, ReleasedCbam
from sgekit.models.released.selective import SelectiveBottleneck

__all__ = ["ReleasedBam", "ReleasedCbam", "SelectiveBottleneck"]
