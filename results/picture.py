"""Draws the README's picture: the first test image of each of four defects.

  python -m deep_oc.train --config=configs/cutpaste_quickstart.py
  python -m deep_oc.evaluate --runs=runs/cutpaste_quickstart
  python results/picture.py

Each is the image, the heat map over it, and the same with the outline of what
is abnormal.
"""
import pathlib

from PIL import Image

KINDS = 'hole', 'stain', 'broken_thread', 'pulled_threads'
PICTURES = pathlib.Path('runs/cutpaste_quickstart/0/seed0/pictures')
GAP = 16  # pixels


def main() -> None:
  drawn = [Image.open(min((PICTURES / kind).iterdir())) for kind in KINDS]
  width, height = drawn[0].size
  canvas = Image.new('RGB', (2 * width + GAP, 2 * height + GAP), 'white')
  for i, each in enumerate(drawn):
    canvas.paste(each, (i % 2 * (width + GAP), i // 2 * (height + GAP)))
  canvas.save('results/cutpaste_quickstart.png', optimize=True)


if __name__ == '__main__':
  main()
