"""Sums a GPU profile of `deep_oc.benchmark --profile` by kinds of kernels.

  python results/profile_kinds.py results/gpu_profile_*.csv

Kernels are told by their names: those of cuDNN and cuBLAS, and those that XLA
names after what it fused.
"""
import collections
import csv
import re
import sys

# The first that is found in a kernel's name is its kind.
KINDS = {
    'convolutions': r'wgrad|dgrad|fprop|ImplicitGemmConv|convolve|cudnn|nchw'
                    r'|nhwc',
    'matrix products': r'gemm|nvjet|cublas|splitK|xmma',
    'sums': r'reduce',
    'elementwise': r'fusion|loop|wrapped|copy|concatenate|slice',
}


def kind(operation: str) -> str:
  """Returns that of a kernel, 'other' if its name tells none."""
  return next((name for name, pattern in KINDS.items()
               if re.search(pattern, operation)), 'other')


def main() -> None:
  for path in sys.argv[1:]:
    calls, spent = collections.Counter(), collections.Counter()
    with open(path, newline='', encoding='utf-8') as file:
      for row in csv.DictReader(file):
        name = 'all' if row['operation'] == 'all' else kind(row['operation'])
        calls[name] += float(row['calls'])
        spent[name] += float(row['µs'])
    print(path)
    for name in ('all', *KINDS, 'other'):
      print(f'  {name:16}{calls[name]:8.1f} kernels a step'
            f'{spent[name] / 1e3:9.3f} ms')


if __name__ == '__main__':
  main()
