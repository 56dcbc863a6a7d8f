"""Fused kernels for GPUs, in Triton. Importing a module of this package imports Triton.

`tiles` has what they share, `statistics`, `forward` and `backward` the kernels themselves,
`configuration` how large their tiles are. Every kernel works on tiles of groups x channels of a
group x positions, in float32 whatever it reads and writes, on maps that lie in memory as
`(B, C, n)` or, where LAST, as `(B, n, C)`.
"""
