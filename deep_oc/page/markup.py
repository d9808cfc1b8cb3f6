"""HTML as elements, which escape what they are given, and the whole page."""
import base64
import hashlib
import io
import pathlib
import xml.etree.ElementTree as etree
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from PIL import Image

Element = etree.Element
Part = Element | str | int | None

_LARGE = 48  # pixels; what is larger is a photograph and becomes a JPEG


def tag(name: str, /, *parts: Part | Iterable[Part],
        **attributes: object) -> Element:
  """Returns an element of these parts, text or elements, in their order.

  Attributes are written as Python has to: `class_` is class, `aria_label` is
  aria-label; None and False leave one out, True is one without a value.
  """
  element = Element(name, {
      key.rstrip('_').replace('_', '-'): '' if value is True else str(value)
      for key, value in attributes.items()
      if value is not None and value is not False})
  for part in _flat(parts):
    if etree.iselement(part):
      element.append(part)
    elif len(element):
      element[-1].tail = (element[-1].tail or '') + str(part)
    else:
      element.text = (element.text or '') + str(part)
  return element


def _flat(parts):
  for part in parts:
    if part is None:
      continue
    if isinstance(part, str | int) or etree.iselement(part):
      yield part
    else:
      yield from _flat(part)


def table(key: str, caption: Part | Sequence[Part], header: Sequence[str],
          rows: Iterable[Sequence[Part]], sortable: bool = False) -> Element:
  """Returns a table that scrolls in a box of its own where it is too wide.

  The first cell of a row is its heading. An element as a row is taken as it is.
  """
  body = [row if etree.iselement(row) else table_row(row) for row in rows]
  return tag(
      'div', tag('table',
                 tag('caption', tag('span', caption),
                     id=f'{key}-caption'),
                 tag('thead', tag('tr', [
                     tag('th', name, scope='col', class_='number' if any(
                         row[i].get('class') == 'number' for row in body)
                         else None) for i, name in enumerate(header)])),
                 tag('tbody', body), id=key,
                 class_='sortable' if sortable else None),
      class_='scroll', role='region', tabindex=0,
      aria_labelledby=f'{key}-caption')


def table_row(cells: Sequence[Part], **attributes: object) -> Element:
  """Returns a row; of numbers, `number` makes the cells."""
  first, *others = cells
  return tag('tr', tag('th', _breakable(first), scope='row'),
             [tag('td', cell, class_='number' if _is_number(cell) else None)
              for cell in others], **attributes)


def _breakable(cell):
  """Returns the parts of a name, which may be broken after an underscore."""
  if not isinstance(cell, str):
    return cell
  first, *others = cell.split('_')
  return [first, [['_', tag('wbr'), each] for each in others]]


def _is_number(cell):
  return isinstance(cell, int) or etree.iselement(cell) and cell.tag == 'data'


def number(value: str | float | None, sign: bool = False) -> Part:
  """Shows a number with one decimal, and keeps the whole; '' shows nothing."""
  if value is None or value == '':
    return ''
  # A gap of -0.04 is no -0.0.
  shown = f'{round(float(value), 1) + 0.:{"+" if sign else ""}.1f}'
  return tag('data', shown, value=value)


def brief(value: float, digits: int = 4) -> str:
  """Returns so many digits of a number: 2e5 and 1e-4, not 2e+05 and 1e-04."""
  shown, e, power = f'{value:.{digits}g}'.partition('e')
  return shown + e + (str(int(power)) if power else '')


def unfold(title: Part, *parts: Part | Iterable[Part], **attributes: object
           ) -> Element:
  """Returns what is shown when its title is pressed."""
  return tag('details', tag('summary', title), parts, **attributes)


def data_uri(image: np.ndarray, side: int | None = None) -> str:
  """Returns u8[h, w, 3] or u8[h, w] as a data URI, its longer side at most so.

  Small images and grey ones keep every value; photographs become JPEGs.
  """
  photograph = image.ndim == 3 and max(image.shape[:2]) > _LARGE
  if image.ndim == 3 and (image == image[..., :1]).all():
    image = image[..., 0]
  picture = Image.fromarray(image)
  if side:
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
  kind, options = ('jpeg', {'quality': 80}) if photograph else ('png', {})
  file = io.BytesIO()
  picture.save(file, kind, optimize=True, **options)
  return (f'data:image/{kind};base64,'
          f'{base64.b64encode(file.getvalue()).decode()}')


def document(title: str, sections: Mapping[str, Element],
             *introduction: Part | Iterable[Part]) -> bytes:
  """Returns the page as UTF-8; it asks for nothing beside itself.

  The only script and the only style that a browser may apply are ours, by their
  hashes, so that nothing a file smuggled in could run.

  Args:
    title: of the page.
    sections: by their headings; each has an id.
    introduction: what stands before them.
  """
  style, script = (pathlib.Path(__file__).with_name(name).read_text('utf-8')
                   for name in ('page.css', 'page.js'))
  policy = (f"default-src 'none'; img-src data:; style-src {_hash(style)}; "
            f"script-src {_hash(script)}; base-uri 'none'; form-action 'none'")
  head = tag(
      'head', tag('meta', charset='utf-8'),
      tag('meta', http_equiv='Content-Security-Policy', content=policy),
      tag('meta', name='viewport',
          content='width=device-width, initial-scale=1'),
      tag('meta', name='color-scheme', content='light dark'),
      tag('title', title), tag('style', style))
  links = [tag('li', tag('a', name, href=f"#{section.get('id')}"))
           for name, section in sections.items()]
  body = tag(
      'body', tag('a', 'Skip to the results', href='#main', class_='skip'),
      tag('header', tag('h1', title), introduction,
          tag('button', 'Dark or light', type='button', id='theme',
              hidden=True)),
      tag('nav', tag('ul', links), aria_label='Sections'),
      tag('main', [_headed(*each) for each in sections.items()], id='main'),
      tag('script', script))
  page = etree.tostring(tag('html', head, body, lang='en'), 'unicode',
                        method='html')
  return f'<!doctype html>\n{page}\n'.encode('utf-8', 'replace')


def _headed(name, section):
  key = f"{section.get('id')}-heading"
  section.insert(0, tag('h2', name, id=key))
  section.set('aria-labelledby', key)
  return section


def _hash(text):
  digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
  return f"'sha256-{digest}'"
