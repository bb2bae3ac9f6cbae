"""The standard evaluations, each in its own file.

Left out, since published numbers are known not to reproduce (transformers#13761): the Children's Book Test and One
Billion Words.
"""
