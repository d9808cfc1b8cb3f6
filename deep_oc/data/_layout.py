"""Which images lie in a folder, by the names of the files alone.

The layouts are those of `deep_oc.data.folder`.
"""
import collections
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from deep_oc.errors import InputError

NORMAL = 'good'
HIDDEN = 'hidden'  # why a file is ignored of which nobody needs to hear
SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp')


class Item(NamedTuple):
  """An image file, its split, its class, and the file of its mask, if any."""
  part: str
  kind: str
  path: pathlib.Path
  mask: pathlib.Path | None = None


@dataclasses.dataclass
class Found:
  """What lies in a folder, by the names of the files alone.

  Attributes:
    root: the folder.
    layout: how it was read, in words.
    items: the images, sorted by split, class and name.
    ignored: how many files were left out, by reason.
    problems: lines; each alone makes training fail.
    notes: lines worth reading.
    read, unread: folders that are a class, and folders that lie in them.
  """
  root: pathlib.Path
  layout: str
  items: list[Item] = dataclasses.field(default_factory=list)
  ignored: collections.Counter = dataclasses.field(
      default_factory=collections.Counter)
  problems: list[str] = dataclasses.field(default_factory=list)
  notes: list[str] = dataclasses.field(default_factory=list)
  read: set[pathlib.Path] = dataclasses.field(default_factory=set)
  unread: set[pathlib.Path] = dataclasses.field(default_factory=set)

  @property
  def masked(self) -> bool:
    return any(item.mask for item in self.items)

  @property
  def class_names(self) -> tuple[str, ...]:
    kinds = {item.kind for item in self.items}
    return (NORMAL, *sorted(kinds - {NORMAL}))


def find(path: str, anomalous_path: str | None = None) -> Found:
  """Returns which images lie in the folder; opens none.

  Raises:
    InputError: the folder is missing, or laid out otherwise.
  """
  if not path:
    raise InputError("the source 'folder' needs data.path: a folder of images")
  root = _folder(path)
  if (root / 'train').is_dir():
    found = Found(root, 'MVTec AD layout')
    _find_mvtec(found, anomalous_path)
  elif (root / NORMAL).is_dir() and not anomalous_path:
    found = Found(root, f'folder {NORMAL} beside those of anomalous images')
    _find_kinds(found)
  else:
    found = Found(root, 'folder of normal images')
    _find_plain(found, anomalous_path)
  _check_names(found)
  _hold_out(found)
  if found.unread - found.read:
    found.ignored['folders further down'] = len(found.unread - found.read)
  found.items.sort(key=lambda item: (
      item.part != 'train', item.kind != NORMAL, item.kind, item.path.name))
  if all(item.kind == NORMAL for item in found.items):
    place = (f'folders of {root}/test' if (root / 'train').is_dir() else
             f'folders beside {root}/{NORMAL}' if (root / NORMAL).is_dir() else
             'the folder that data.anomalous_path names')
    found.notes.append('no anomalous images: a model can be trained on these, '
                       f'but not evaluated; they belong in {place}')
  return found


def _folder(path: str) -> pathlib.Path:
  folder = pathlib.Path(path).expanduser()
  if not folder.is_dir():
    wrong = 'is a file, not a folder' if folder.exists() else 'does not exist'
    raise InputError(f'{folder} {wrong}; check the path')
  return folder


def _find_mvtec(found: Found, anomalous_path: str | None) -> None:
  root = found.root
  if anomalous_path:
    raise InputError(f'{root} holds a folder train, so that its anomalous '
                     f'images lie in {root}/test; leave anomalous_path out')
  if not (root / 'train' / NORMAL).is_dir():
    raise InputError(f'{root} holds a folder train, but no train/{NORMAL}; '
                     'name the folder of normal images so, or give it as path')
  masks = _find_masks(found)
  for part in ('train', 'test'):
    for folder in _subfolders(found, root / part):
      _add(found, part, folder.name, folder,
           masks.get(folder.name, {}) if part == 'test' else {})
  if any(masks.values()):
    _check_masks(found, masks)
  found.layout += ', with masks' if found.masked else ', without masks'


def _find_kinds(found: Found) -> None:
  root, empty = found.root, []
  if (root / NORMAL).is_symlink():
    raise InputError(f'{root}/{NORMAL} is a symbolic link, which is not '
                     'followed; give the folder itself as data.path')
  if _images(found, root, collections.Counter()):
    raise InputError(f'{root} holds images beside a folder {NORMAL}; normal '
                     f'ones belong into that, anomalous ones into others')
  for folder in _subfolders(found, root):
    if folder.name == NORMAL or _images(
        Found(root, ''), folder, collections.Counter()):
      part = 'train' if folder.name == NORMAL else 'test'
      _add(found, part, folder.name, folder)
    else:
      empty.append(folder.name)
  kinds = sorted({item.kind for item in found.items} - {NORMAL})
  if kinds:
    found.notes.append(f'anomalous, by the names of folders: {_quoted(kinds)}')
  if empty:
    found.notes.append(f'folders without images: {_quoted(empty)}')


def _find_plain(found: Found, anomalous_path: str | None) -> None:
  _add(found, 'train', NORMAL, found.root)
  if not found.items:
    raise InputError(_no_image(found))
  if not anomalous_path:
    return
  folder = _folder(anomalous_path)
  if folder.samefile(found.root):
    raise InputError(f'path and anomalous_path are one folder, {folder}')
  found.read.add(folder.resolve())
  kinds = [kind for kind in entries(folder, collections.Counter())
           if kind.is_dir() and kind.resolve() not in found.read]
  for kind in kinds:
    _add(found, 'test', kind.name, kind)
  if not kinds or _images(found, folder, collections.Counter()):
    _add(found, 'test', 'anomalous', folder)
  found.layout += ' and one of anomalous ones'


def _no_image(found: Found) -> str:
  """Returns what is wrong with a folder in which no image lies directly."""
  line, = found.problems
  sets = sorted(each.name for each in found.unread
                if (each / 'train').is_dir())
  if sets:
    return (f'{found.root} is a folder of data sets; give one of them: '
            + _quoted(sets))
  hint = _quoted(sorted(each.name for each in found.unread))
  return (f'{line}; it needs train/{NORMAL}, or images directly in it '
          f'({", ".join(SUFFIXES)})'
          + (f'; or give a folder in it as data.path, and one of anomalous '
             f'images as data.anomalous_path: {hint}' if hint else ''))


def _quoted(names: list[str]) -> str:
  return ', '.join(f"'{name}'" for name in names[:9])


def left_out(ignored: collections.Counter) -> str:
  """Returns ' (left out: 3 hidden)', or nothing."""
  listed = ', '.join(f'{n} {why}' for why, n in sorted(ignored.items()))
  return f' (left out: {listed})' if listed else ''


def entries(folder: pathlib.Path, ignored: collections.Counter
            ) -> Iterator[pathlib.Path]:
  """Yields files and folders by name; counts hidden ones and links."""
  try:
    there = sorted(folder.iterdir())
  except OSError as error:
    raise InputError(f'cannot read {folder}: {error.strerror}') from error
  for entry in there:
    if entry.is_symlink():
      ignored['symbolic links'] += 1
    elif entry.name.startswith('.'):
      ignored[HIDDEN] += 1
    else:
      yield entry


def _images(found: Found, folder: pathlib.Path, ignored: collections.Counter
            ) -> list[pathlib.Path]:
  """Returns the image files of a folder and counts what else it holds."""
  images = []
  for entry in entries(folder, ignored):
    if entry.is_dir():
      found.unread.add(entry.resolve())
    elif entry.suffix.lower() in SUFFIXES:
      images.append(entry)
    else:
      ignored[f'{entry.suffix or "other"} files'] += 1
  return images


def _subfolders(found: Found, folder: pathlib.Path) -> list[pathlib.Path]:
  if not folder.is_dir():
    return []
  there = list(entries(folder, found.ignored))
  folders = [entry for entry in there if entry.is_dir()]
  if len(there) > len(folders):
    found.ignored['files in no class folder'] += len(there) - len(folders)
  return folders


def _add(found: Found, part: str, kind: str, folder: pathlib.Path,
         masks: dict[str, pathlib.Path] | None = None) -> None:
  """Adds the images of a folder as a class."""
  found.read.add(folder.resolve())
  ignored = collections.Counter()
  images = _images(found, folder, ignored)
  if not images:
    found.problems.append(f'no image in {folder}{left_out(ignored)}')
  found.ignored += ignored
  found.items += [Item(part, kind, path, (masks or {}).get(path.stem))
                  for path in images]


def _find_masks(found: Found) -> dict[str, dict[str, pathlib.Path]]:
  """Returns the mask files by class and by the name of their image."""
  masks = {}
  for folder in _subfolders(found, found.root / 'ground_truth'):
    named = masks.setdefault(folder.name, {})
    for path in _images(found, folder, found.ignored):
      stem = path.stem.removesuffix('_mask')
      if stem in named:
        found.problems.append(f'{named[stem]} and {path} are masks of one '
                              'image; remove one')
      named[stem] = path
  return masks


def _check_masks(found: Found, masks: dict[str, dict[str, pathlib.Path]]
                 ) -> None:
  """Notes what is missing: if one defect has a mask, all need one."""
  tested = [item for item in found.items if item.part == 'test']
  for item in tested:
    if item.kind != NORMAL and not item.mask:
      found.problems.append(
          f'{item.path} has no mask; expected {found.root}/ground_truth/'
          f'{item.kind}/{item.path.stem}_mask.png')
  used = {item.mask for item in tested}
  found.notes += [f'mask without image: {path}' for named in masks.values()
                  for path in named.values() if path not in used]


def _check_names(found: Found) -> None:
  """Notes images of one name, as 000.png and 000.jpg: which is the mask's?"""
  first = {}
  for item in found.items:
    twin = first.setdefault(item.path.with_suffix(''), item.path)
    if twin != item.path:
      found.problems.append(f'{twin} and {item.path} have the same name; '
                            'remove or rename one')


def _hold_out(found: Found) -> None:
  """Moves a fifth of the normal images into a test split that has none."""
  normal = [item for item in found.items if item.kind == NORMAL]
  if any(item.part == 'test' for item in normal) or not normal:
    return
  if len(normal) < 2:
    found.problems.append(f'{normal[0].path} is the only normal image; one '
                          'to train with and one to test with are needed')
    return
  normal.sort(key=lambda item: hashlib.sha256(
      os.fsencode(item.path.name)).digest())
  held = set(normal[-max(1, len(normal) // 5):])
  found.items = [item._replace(part='test') if item in held else item
                 for item in found.items]
  found.notes.append(f'no normal images to test with: {len(held)} of the '
                     f'{len(normal)} are held out of training for it')
