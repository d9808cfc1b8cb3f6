"""The service's page in a real browser."""
import base64
import io
import math
import re

import numpy as np
import pytest
from PIL import Image

from deep_oc import heat_colours
from tests import malformed, served

pytest.importorskip('fastapi', reason="no fastapi: pip install '.[serve]'")

pytestmark = pytest.mark.slow

NASTY = '<img src=x onerror=alert(1)>.png'


@pytest.fixture(scope='module')
def url(tmp_path_factory):
  process = served.Process('--bundle=' + str(served.write(
      tmp_path_factory.mktemp('served') / 'bundle')), '--max_bytes=2000000')
  yield process.url
  assert process.end() == 0


def _file(name, level, kind='png'):
  """Returns a picture with a bright square, as a browser takes files."""
  image = np.full((60, 80, 3), level, np.uint8)
  image[20:40, 10:50] = min(2 * level, 255)
  file = io.BytesIO()
  Image.fromarray(image).save(file, kind)
  return {'name': name, 'mimeType': f'image/{kind}', 'buffer': file.getvalue()}


@pytest.fixture
def opened(browser, url):
  """Opens the page; what went wrong and what it asked for is in lists."""
  def start(**options):
    view = browser.new_context(**options).new_page()
    wrong, asked = [], []
    view.on('console', lambda message: wrong.append(message.text))
    view.on('pageerror', lambda error: wrong.append(str(error)))
    view.on('dialog', lambda dialog: wrong.append(dialog.message))
    view.on('request', lambda request: asked.append(request.url))
    view.goto(url)
    return view, wrong, asked
  return start


def _add(view, *files):
  before = view.locator('#cards > li').count()
  view.locator('#files').set_input_files(list(files))
  _wait(view, before + len(files))


def _wait(view, count):
  view.wait_for_function(
      'count => document.querySelectorAll("#cards > li.normal, '
      '#cards > li.anomalous, #cards > li.failed").length === count', arg=count)


def test_pictures_are_scored_and_named(opened, url):
  view, wrong, asked = opened()
  _add(view, _file(NASTY, 30), _file('bright.jpg', 150, 'jpeg'),
       _file('page.tiff', 60, 'tiff'))
  cards = view.locator('#cards > li')
  assert cards.locator('h3').all_inner_texts() == [NASTY, 'bright.jpg',
                                                   'page.tiff']
  assert [each.split()[1] for each in cards.locator(
      '.verdict').all_inner_texts()] == ['normal', 'anomalous', 'normal']
  text = cards.nth(1).inner_text()
  score = float(re.search(r'score\s+(\S+)', text)[1])
  assert 150 < score < 180 and re.search(r'threshold\s+100', text)
  assert '≤ 0.05' in text
  assert view.locator('#status').inner_text() == '3 of 3 scored, 1 anomalous.'
  assert view.locator('#cards h3 img').count() == 0
  assert 'Normal is: <b>good</b> (parts)' in view.locator(
      '#model').inner_text()
  assert not wrong
  assert all(each.startswith((url, 'data:image/', 'blob:')) for each in asked)


def test_the_most_anomalous_come_first_if_asked_for(opened):
  view, wrong, _ = opened()
  files = [_file('dark', 30), _file('bright', 150), _file('middle', 60)]
  _add(view, *files)
  names = view.locator('#cards h3')
  view.locator('#sort').check()
  assert names.all_inner_texts() == ['bright', 'middle', 'dark']
  _add(view, _file('brightest', 200), dict(files[0], buffer=b'', name='no'))
  wanted = ['brightest', 'bright', 'middle', 'dark', 'no']
  assert names.all_inner_texts() == wanted
  view.locator('#sort').uncheck()
  assert names.all_inner_texts() == ['dark', 'bright', 'middle', 'brightest',
                                     'no']
  assert len(wrong) == 1 and '422' in wrong[0]  # of what is no picture


def test_a_score_is_told_from_the_threshold(opened):
  view, _, _ = opened()
  assert view.evaluate("""[
      apart(-2.0399, -2.0405), apart(-2.0405, -2.0399), apart(157.2, 100),
      apart(1, 1), apart(1e-7, 1)]""") == ['-2.04', '-2.041', '157', '1',
                                           '1e-7']


def test_the_lower_end_of_a_range_is_0_where_it_is_nothing_beside_the_upper(
    opened):
  view, _, _ = opened()
  assert view.evaluate("""[
      lower(1.55e-7, 95600), lower(-1e-9, 0.5), lower(29.55, 177200),
      lower(-5, 3), lower(0, 0)]""") == ['0', '0', '29.6', '-5', '0']


def test_what_is_refused_says_why_beside_what_is_scored(opened):
  view, wrong, _ = opened()
  _add(view, {'name': 'a.png', 'mimeType': 'image/png', 'buffer': b'GIF89a'},
       _file('good.png', 50), {'name': 'large.bmp', 'mimeType': 'image/bmp',
                               'buffer': bytes(2_100_000)})
  cards = view.locator('#cards > li')
  assert cards.nth(0).inner_text().count('a.png') == 1
  assert 'no PNG, JPEG, WebP, BMP or TIFF' in cards.nth(0).inner_text()
  assert 'normal' in cards.nth(1).inner_text()
  assert 'larger than 1 MB' in cards.nth(2).inner_text()
  assert view.locator('#status').inner_text() == (
      '1 of 3 scored, 0 anomalous, 2 not scored.')
  assert all('415' in each for each in wrong)  # the browser's own line


_PIXEL = """i => {
    const canvas = document.querySelectorAll('#cards canvas')[i];
    return [...canvas.getContext('2d').getImageData(
        canvas.width / 4 | 0, canvas.height / 2 | 0, 1, 1).data]; }"""


def test_the_heat_map_is_on_one_scale_and_fades(opened):
  view, wrong, _ = opened()
  _add(view, _file('dark.png', 30), _file('bright.png', 120))
  assert view.locator('#low').inner_text() == '30'
  assert view.locator('#middle').inner_text() == '82.5'
  assert view.locator('#high').inner_text() == '240'
  dark, bright = (view.evaluate(_PIXEL, i) for i in (0, 1))
  assert sum(bright[:3]) > 2 * sum(dark[:3]) and bright[3] > 1.5 * dark[3]
  slider = view.get_by_label('opacity')
  slider.focus()
  for _ in range(3):
    view.keyboard.press('ArrowLeft')
  assert slider.get_attribute('aria-valuetext') == '55 %'
  assert view.locator('canvas').first.evaluate(
      'each => getComputedStyle(each).opacity') == '0.55'
  assert not wrong


@pytest.mark.parametrize('knee', [20., None])
def test_the_scale_is_that_of_the_run_where_the_bundle_has_one(
    browser, tmp_path, knee):
  limits = heat_colours.Scale(0., 200., knee or math.inf)
  process = served.Process('--bundle=' + str(served.write(
      tmp_path / 'bundle', heat_colours=limits._asdict() | {'knee': knee})))
  view = browser.new_page()
  view.goto(process.url)
  _add(view, _file('dark.png', 30))
  assert [view.locator(each).inner_text() for each in (
      '#low', '#middle', '#high')] == [
          '0', f'{limits.middle():.3g}', '200']
  assert 'scale of the run’s own pictures' in view.locator(
      '#opacity-box').inner_text()
  red, green, blue, opacity = view.evaluate(_PIXEL, 0)
  share = limits.share(np.array(60.))
  np.testing.assert_allclose(
      [red, green, blue], heat_colours.colours(60., limits), atol=3)
  assert opacity == pytest.approx(255 * min(1, 0.05 + 1.4 * share), abs=2)
  assert process.end() == 0


def test_regions_are_counted_and_have_sharp_outlines(opened):
  from deep_oc.service import answers
  view, wrong, _ = opened()
  picture = answers._data_url(np.zeros((16, 16), np.uint8))
  result = dict(
      name='a', score=120, p_value=0.05, anomalous=True, threshold=100,
      false_alarm_rate=0.05, heat_map=picture, heat_low=0, heat_high=1,
      picture=picture, regions=[dict(left=0.25, top=0.25, width=0.5,
                                     height=0.5, area=0.2, peak=120)])
  view.route('**/score*', lambda route: route.fulfill(
      json={'results': [result]}))
  _add(view, _file('a.png', 30))
  assert re.search(r'regions\s+1\b', view.locator('#cards').inner_text())
  row = np.reshape(view.evaluate("""[...document.querySelector('#cards canvas'
      ).getContext('2d').getImageData(0, 8, 16, 1).data]"""), (16, 4))
  solid = {x: each[0] for x, each in enumerate(row) if each[3] == 255}
  assert solid == {3: 0, 4: 255, 11: 255, 12: 0} and not wrong


_TRANSFER = """([name, text]) => { const data = new DataTransfer();
    data.items.add(new File([Uint8Array.from(atob(text), c =>
        c.charCodeAt(0))], name, {type: 'image/png'})); return data; }"""


@pytest.mark.parametrize('event', ['drop', 'paste'])
def test_pictures_can_be_dropped_and_pasted(opened, event):
  view, wrong, _ = opened()
  data = view.evaluate_handle(_TRANSFER, ['x.png', base64.b64encode(
      malformed.picture()).decode()])
  view.evaluate("""([event, data]) => document.body.dispatchEvent(
      event === 'drop' ?
      new DragEvent('drop', {dataTransfer: data, bubbles: true}) :
      new ClipboardEvent('paste', {clipboardData: data, bubbles: true}))""",
                [event, data])
  _wait(view, 1)
  assert 'x.png' in view.locator('#cards > li').inner_text()
  view.get_by_role('button', name='Clear').click()
  assert view.locator('#cards > li').count() == 0
  assert view.evaluate('document.activeElement.id') == 'files'
  assert not wrong


@pytest.mark.parametrize('scheme', ['dark', 'light'])
def test_text_can_be_read_in_both_themes(opened, scheme):
  view, wrong, _ = opened(color_scheme=scheme)
  _add(view, _file('a.png', 30), _file('b.png', 150))

  def luminance(selector, name):
    colour = view.locator(selector).first.evaluate(
        f'each => getComputedStyle(each).{name}')
    share = np.array([int(x) for x in re.findall(r'\d+', colour)[:3]]) / 255
    linear = np.where(share <= 0.04045, share / 12.92,
                      ((share + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]
  for theme in scheme, {'dark': 'light', 'light': 'dark'}[scheme]:
    page = luminance('body', 'backgroundColor')
    assert (page < 0.2) == (theme == 'dark')
    for each in ('.normal .verdict', '.anomalous .verdict', '.about dt', 'h1'):
      text = luminance(each, 'color')
      low, high = sorted((page, text))
      assert (high + 0.05) / (low + 0.05) >= 4.5, (theme, each)
    view.get_by_role('button', name='Dark or light').click()
  assert not wrong


def test_a_phone_has_no_need_to_scroll_sideways(opened):
  view, wrong, _ = opened(viewport={'width': 360, 'height': 740},
                          is_mobile=True)
  _add(view, _file('a' * 80 + '.png', 30), _file('b.png', 150))
  assert view.evaluate('document.documentElement.scrollWidth') == 360
  assert view.locator('#cards canvas').first.is_visible() and not wrong


def test_all_that_has_hands_has_a_name(opened):
  view, _, _ = opened()
  _add(view, _file('a.png', 30))
  for each in view.locator('button:visible, input:visible').all():
    assert each.evaluate(
        "each => each.labels?.[0]?.textContent || each.textContent"), each
  assert view.locator('#status').get_attribute('role') == 'status'
  reached = set()
  for _ in range(12):
    view.keyboard.press('Tab')
    reached.add(view.evaluate('document.activeElement.id'))
  assert {'files', 'clear', 'opacity', 'theme'} <= reached


def test_without_scripts_the_form_sends(opened):
  view, _, _ = opened(java_script_enabled=False)
  view.locator('#files').set_input_files([_file('a.png', 30)])
  view.get_by_role('button', name='Score').click()
  assert '"name":"a.png"' in view.content()
