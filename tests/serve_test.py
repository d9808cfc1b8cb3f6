"""The service, asked as clients ask it: most of all what it must survive."""
import asyncio
import base64
import concurrent.futures
import contextlib
import io
import json
import re
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest
from conftest import ROOT, peak_memory, the_error
from PIL import Image

from deep_oc import bundle
from deep_oc.errors import InputError
from tests import malformed, served

for name in ('fastapi', 'uvicorn', 'python_multipart', 'prometheus_client',
             'httpx', 'flatbuffers'):
  pytest.importorskip(name, reason=f"no {name}: pip install '.[serve]' httpx")

import httpx  # noqa: E402

from deep_oc.service import app as service_app  # noqa: E402
from deep_oc.service import (  # noqa: E402
    answers, decoding, edge, limits, worker)

PNG = malformed.picture()


@pytest.fixture
def fake():
  return served.Fake()


@pytest.fixture
def start(fake):
  """Makes the service in this process, with limits."""
  made = []

  def create(**chosen):
    made.append(service_app.create_app(fake, limits.Limits(**chosen)))
    return made[-1]
  yield create
  fake.gate.set()
  for app in made:
    app.state.service.close()


def _client(app):
  return httpx.AsyncClient(transport=httpx.ASGITransport(app),
                           base_url='http://service')


def _ask(app, method='POST', path='/score', **request):
  async def ask():
    async with _client(app) as client:
      return await client.request(method, path, **request)
  return asyncio.run(ask())


def _files(*contents, name='a.png'):
  return [('image', (name, content)) for content in contents]


def _image(url):
  kind, _, data = url.partition(',')
  assert kind == 'data:image/png;base64'
  return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_scores_are_those_of_the_bundle(start, fake):
  content = [malformed.picture(seed, (60 + seed, 40), kind) for seed, kind in
             enumerate(('png', 'jpeg', 'webp', 'bmp', 'tiff'))]
  answer = _ask(start(), files=_files(*content))
  assert answer.status_code == 200
  images = np.stack([fake.prepare(each) for each in content])
  judged = fake.judge(images)
  told = answer.json()
  assert [each['score'] for each in told['results']] == judged.score.tolist()
  assert [each['p_value'] for each in told['results']
          ] == judged.p_value.tolist()
  assert [each['anomalous'] for each in told['results']
          ] == judged.anomalous.tolist()
  assert told['results'][0]['threshold'] == 100
  assert told['results'][0]['heat_map'] is None and not fake.mapped
  assert told['results'][0]['regions'] is None
  assert told['model']['step'] == 60 and 'secret' not in answer.text


def test_heat_maps_can_be_read_back(start, fake):
  content = malformed.picture(3)
  result, = _ask(start(), path='/score?maps=true', files=_files(content)
                 ).json()['results']
  image = fake.prepare(content)
  heat, = fake.heat_maps(image[None])
  low, high = result['heat_low'], result['heat_high']
  np.testing.assert_allclose(
      low + _image(result['heat_map']) / 255. * (high - low), heat,
      atol=(high - low) / 500)
  np.testing.assert_array_equal(_image(result['picture']), image)


@pytest.mark.parametrize('query', ['', '?maps=true'])
def test_where_it_is_anomalous_is_told_if_maps_are_judged(start, fake, query):
  fake.by_maps = fake.has_regions = True
  image = np.full((16, 32, 3), 50, np.uint8)
  image[4:8, 16:] = 200
  dark = np.zeros_like(image)
  first, other = _ask(start(), path=f'/score{query}', files=_files(
      *(answers.png(each) for each in (image, dark)))).json()['results']
  assert first['regions'] == [dict(left=0.5, top=0.25, width=0.5, height=0.25,
                                   area=0.125, peak=200)]
  assert other['regions'] == [] and fake.mapped == [2]
  assert (first['heat_map'] is None) == (not query)


def test_a_body_may_be_the_picture_itself(start):
  app = start()
  form = _ask(app, files=_files(PNG)).json()['results'][0]
  for kind in ('image/png', 'image/anything', 'application/octet-stream'):
    result, = _ask(app, content=PNG, headers={'content-type': kind}
                   ).json()['results']
    assert result == form | {'name': 'image'}


def test_photographs_are_upright_as_for_the_bundle(start, fake):
  picture = Image.open(io.BytesIO(malformed.picture(5)))
  exif = Image.Exif()
  exif[0x0112] = 6
  file = io.BytesIO()
  picture.save(file, 'jpeg', exif=exif)
  result, = _ask(start(), path='/score?maps=true',
                 files=_files(file.getvalue())).json()['results']
  np.testing.assert_array_equal(_image(result['picture']),
                                fake.prepare(file.getvalue()))


def _form(*lines):
  return {'content': '\r\n'.join(lines).encode(), 'headers': {
      'content-type': 'multipart/form-data; boundary=x'}}


_PART = 'Content-Disposition: form-data; name="image"; filename="a.png"'
REFUSALS = {
    'the file is empty': (422, {'files': _files(b'')}),
    'no PNG, JPEG, WebP, BMP or TIFF': (415, {'files': _files(b'GIF89a')}),
    'damaged or cut off': (422, {'files': _files(PNG[:-100])}),
    '6000×6000 pixels, more than 1,000,000': (
        413, {'files': _files(malformed.png_bomb(6000))}),
    'tiles of the picture have 8192×8192': (
        413, {'files': _files(malformed.tiff_bomb(8192))}),
    'scans, more than 500': (413, {'files': _files(malformed.scans(600))}),
    'several frames': (422, {'files': _files(malformed.animated('webp', 3))}),
    '32-bit pixels': (422, {'files': _files(malformed.floats())}),
    'more than 3 pictures': (413, {'files': _files(*[PNG] * 4)}),
    'more than 100,000 bytes': (413, {'files': _files(bytes(100_000))}),
    "not 'text/plain'": (415, {
        'content': b'x', 'headers': {'content-type': 'text/plain'}}),
    "not ''": (415, {'content': b'x'}),
    'must not be compressed': (415, {
        'content': PNG, 'headers': {'content-type': 'image/png',
                                    'content-encoding': 'gzip'}}),
    "the field 'image', not 'file'": (422, {'files': {'file': PNG}}),
    'there is no picture': (422, {'files': {'a': (None, b'text')}}),
    'too many fields': (413, {'files': [('a', (None, b''))] * 17}),
    'no boundary': (400, {
        'content': b'x', 'headers': {'content-type': 'multipart/form-data'}}),
    'form is malformed': (400, _form('--y', _PART, '', 'z', '--y--', '')),
    'form is cut off': (400, _form('--x', _PART, '', 'abc')),
    'maps: input should be a valid boolean': (
        422, {'params': {'maps': 'perhaps'}, 'files': _files(PNG)})}


@pytest.mark.parametrize('reason', REFUSALS)
def test_what_is_refused_is_told_why(start, fake, reason):
  status, request = REFUSALS[reason]
  app = start(max_bytes=100_000, max_pixels=1_000_000, max_images=3)
  answer = _ask(app, **request)
  assert answer.status_code == status, answer.text
  assert reason in answer.json()['error'] and not fake.seen
  assert _ask(app, files=_files(PNG)).status_code == 200


def test_one_bad_picture_refuses_its_request_by_name(start, fake):
  files = [*_files(PNG), ('image', ('<b>ü</b>.png', PNG[:90])), *_files(PNG)]
  answer = _ask(start(), files=files)
  assert answer.status_code == 422 and answer.json() == {
      'error': '<b>ü</b>.png: the file is damaged or cut off',
      'file': '<b>ü</b>.png', 'index': 1}
  assert answer.headers['content-type'] == 'application/json'
  assert not fake.seen


def test_maps_of_a_model_without_them_are_refused(start, fake):
  fake.localizes = None
  answer = _ask(start(), path='/score?maps=1', files=_files(PNG))
  assert answer.status_code == 422 and 'no heat maps' in answer.text


def test_a_photograph_with_a_second_picture_is_one(start):
  image = Image.open(io.BytesIO(PNG))
  file = io.BytesIO()
  image.save(file, 'mpo', save_all=True, append_images=[image])
  assert _ask(start(), files=_files(file.getvalue())).status_code == 200


def test_so_is_one_with_a_film_behind_it(start):
  photograph = malformed.picture(kind='jpeg', progressive=True)
  film = np.random.default_rng(0).bytes(15 * 2**20)
  assert _ask(start(), files=_files(photograph + film)).status_code == 200


_PARTS = {
    'fill bytes': ('jpeg', b'\xff'), 'stuffed bytes': ('jpeg', b'\xff\0'),
    'bare markers': ('jpeg', b'\xff\xd0'),
    'junk': ('jpeg', b'\xff\xd0' + bytes(98)),
    'comments': ('jpeg', b'\xff\xfe\0\2'),
    'Exif': ('jpeg', b'\xff\xe1\0\x0aExif\0\0ab'),
    'chunks': ('png', malformed.chunk(b'abCd'))}


@pytest.mark.parametrize('name', _PARTS)
def test_a_header_of_many_parts_is_not_read_to_its_end(fake, name):
  calls = []
  content = malformed.headed(*_PARTS[name], 2**19)
  sys.setprofile(lambda frame, event, arg: calls.append(event))
  try:
    with pytest.raises(limits.Refused, match='more than 10,000 reads') as found:
      decoding.read(content, fake, 10**6)
  finally:
    sys.setprofile(None)
  assert found.value.status == 413 and calls.count('c_call') < 150_000


def test_scans_are_counted_by_the_pixels_that_they_go_through(
    fake, monkeypatch):
  monkeypatch.setattr(decoding, '_SCANNED', 30 * 256**2)
  content = malformed.scans(15, 256)
  scans = content.count(b'\xff\xda')
  assert 20 < scans <= 30
  assert decoding.read(content, fake, 10**6).shape == fake.image_shape
  for content in malformed.scans(25, 256), malformed.scans(15, 320):
    with pytest.raises(limits.Refused, match='scans of .* pixels, more than '
                       '1,966,080 in all') as found:
      decoding.read(content, fake, 10**6)
    assert found.value.status == 413
  # A film behind a picture may hold the marker by chance.
  content = malformed.picture(0, (320, 320), 'jpeg') + 100 * b'\xff\xda\0'
  assert decoding.read(content, fake, 10**6).shape == fake.image_shape


def test_what_cameras_leave_between_the_parts_of_a_header_is_passed(start):
  files = [malformed.headed('jpeg', b'\xff', 4096),
           malformed.headed('jpeg', b'\xff\xfe\xff\xff' + bytes(65533), 2**23)]
  assert _ask(start(), files=_files(*files)).status_code == 200


def test_pixels_may_be_in_many_parts(start):
  at, end = PNG.index(b'IDAT') - 4, PNG.index(b'IEND') - 4
  data = PNG[at + 8:end - 4]
  split = b''.join(malformed.chunk(b'IDAT', data[i:i + 1])
                   for i in range(len(data)))
  assert 3 * len(data) > 10_000  # reads
  answer = _ask(start(), files=_files(PNG[:at] + split + PNG[end:]))
  assert answer.status_code == 200, answer.text


def test_an_endless_upload_ends(start, monkeypatch):
  monkeypatch.setattr(edge, '_UNREAD', 2**20)
  taken = []

  async def endless():
    while sum(taken) < 10**7:
      taken.append(2**16)
      yield bytes(2**16)
  answer = _ask(start(max_bytes=10**6), content=endless(),
                headers={'content-type': 'image/png'})
  assert answer.status_code == 413
  assert 10**6 < sum(taken) < 10**6 + 2**20 + 2**18


def test_a_slow_upload_is_given_up(start):
  async def slow():
    yield PNG[:9]
    await asyncio.sleep(20)
    yield PNG[9:]
  begin = time.monotonic()
  answer = _ask(start(timeout=0.3), content=slow(),
                headers={'content-type': 'image/png'})
  assert answer.status_code == 408 and '0.3 s' in answer.json()['error']
  assert time.monotonic() - begin < 5


@pytest.mark.parametrize('bits', [4, 8])
def test_what_pillow_would_decode_in_python_is_refused(start, bits):
  content = malformed.bmp_of_runs(bits)
  with Image.open(io.BytesIO(content)) as image:
    assert image.convert('L').size == (64, 64)  # a picture, for others
  answer = _ask(start(), files=_files(content))
  assert answer.status_code == 415
  assert 'a BMP file packed as bmp_rle are not read' in answer.json()['error']


def test_who_waits_too_long_is_told_and_forgotten(start, fake):
  app = start(timeout=0.3)
  fake.gate.clear()

  async def ask():
    async with _client(app) as client:
      tasks = []
      for _ in range(3):
        tasks.append(asyncio.create_task(
            client.post('/score', files=_files(PNG))))
        await asyncio.sleep(0.05)
      return await asyncio.gather(*tasks)
  answers = asyncio.run(ask())
  assert {each.status_code for each in answers} == {504}
  assert {each.headers['retry-after'] for each in answers} == {'1'}
  fake.gate.set()
  assert _ask(app, files=_files(PNG)).status_code == 200
  assert fake.seen == [1, 1]  # of the three, only the first had begun


async def _gathered(app, fake, requests):
  """Sends requests while the model waits; lets it go once all have come."""
  async with _client(app) as client:
    tasks = []
    for request in requests:
      tasks.append(asyncio.create_task(client.post(**request)))
      await asyncio.sleep(0.1)
    fake.gate.set()
    return await asyncio.gather(*tasks)


def test_a_full_queue_says_when_to_come_again(start, fake):
  app = start(queue=3)
  fake.gate.clear()
  answers = asyncio.run(_gathered(
      app, fake, [{'url': '/score', 'files': _files(PNG)}] * 5))
  assert [each.status_code for each in answers] == [200] * 3 + [503] * 2
  assert answers[-1].headers['retry-after'] == '1'
  assert '3 requests are being worked on' in answers[-1].json()['error']
  told = served.metrics(_ask(app, 'GET', '/metrics').text)
  assert told['deep_oc_accepted_total'] == told['deep_oc_finished_total'] == 3
  assert told['deep_oc_queue_requests'] == 0


def test_what_waits_is_scored_together_and_answered_apart(start, fake):
  fake.gate.clear()
  content = [malformed.picture(seed) for seed in range(8)]
  answers = asyncio.run(_gathered(start(), fake, [
      {'url': '/score', 'files': _files(*each)} for each in
      (content[:1], content[1:4], content[4:6], content[6:8], content[:4])]))
  assert fake.seen == [1, 3 + 2 + 2, 4]  # a batch is 8
  scores = [result['score'] for answer in answers
            for result in answer.json()['results']]
  images = np.stack([fake.prepare(each) for each in content + content[:4]])
  assert scores == fake.judge(images).score.tolist()


def test_a_heat_map_makes_only_those_wait_who_want_it(start, fake):
  drawn, others_are_done = [], threading.Event()
  fake.heat_maps = lambda images: drawn.append(
      others_are_done.wait(20)) or images[..., 0].astype(np.float32)
  judge, begun = fake.judge, threading.Event()
  fake.judge = lambda images: begun.set() or judge(images)
  fake.gate.clear()
  app = start()

  async def ask():
    async with _client(app) as client:
      def post(path):
        return asyncio.create_task(client.post(path, files=_files(PNG)))
      tasks = [post('/score')]
      await asyncio.to_thread(begun.wait, 20)
      tasks += [post('/score?maps=true'), post('/score')]
      while app.state.service._worker.waiting < 2:  # they will be one batch
        await asyncio.sleep(0.01)
      fake.gate.set()
      plain = [await tasks[0], await tasks[2]]
      early = not drawn
      others_are_done.set()
      return [*plain, await tasks[1]], early
  answers, early = asyncio.run(ask())
  assert [each.status_code for each in answers] == [200] * 3
  assert early and drawn == [True]


def test_a_heat_map_that_was_judged_by_is_not_drawn_again(start, fake):
  fake.by_maps = True
  content = [malformed.picture(seed) for seed in range(3)]
  app = start()
  for path in '/score', '/score?maps=true':
    results = _ask(app, path=path, files=_files(*content)).json()['results']
    heat = served.Fake().heat_maps(np.stack(list(map(fake.prepare, content))))
    assert [each['score'] for each in results] == [
        each.max() for each in heat]
  assert [each['heat_high'] for each in results] == [
      each.max() for each in heat]
  assert fake.mapped == [3, 3] and not fake.seen


def test_a_heat_map_that_was_judged_by_goes_to_whose_picture_it_is(fake):
  fake.by_maps = True
  images = np.random.default_rng(0).integers(
      0, 256, (6, *served.SHAPE), np.uint8)
  jobs = [worker._Job(part, maps, np.inf, concurrent.futures.Future())
          for part, maps in zip(np.split(images, [1, 3]), (True, False, True),
                                strict=True)]
  one = worker.Worker(fake)
  one._answer(jobs)
  one.close()
  assert fake.mapped == [6]
  for job in jobs:
    judged, maps = job.answer.result(0)
    heat = served.Fake().heat_maps(job.images)
    np.testing.assert_array_equal(judged.score, heat.max(axis=(1, 2)))
    np.testing.assert_array_equal(maps, heat)


def test_a_model_that_fails_is_no_end(start, fake):
  app, fake.broken = start(), ValueError('/home/secret')
  answer = _ask(app, files=_files(PNG))
  assert answer.status_code == 500 and 'secret' not in answer.text
  assert answer.json()['error'] and 'nosniff' in answer.headers.values()
  fake.broken = None
  assert _ask(app, files=_files(PNG)).status_code == 200
  assert _ask(app, 'GET', '/health').json()['status'] == 'ok'
  told = served.metrics(_ask(app, 'GET', '/metrics').text)
  assert told['deep_oc_requests_total{path="/score",status="500"}'] == 1
  assert told['deep_oc_finished_total'] == 2


def test_health_tells_of_the_model_and_of_its_end(start):
  app = start(max_images=3)
  told = _ask(app, 'GET', '/health')
  assert told.status_code == 200 and told.json()['status'] == 'ok'
  assert told.json()['model']['name'] == 'tiny'
  assert told.json()['limits']['max_images'] == 3
  app.state.service.close()
  told = _ask(app, 'GET', '/health')
  assert told.status_code == 503 and told.json()['status'] == 'failed'


@pytest.mark.parametrize('colours', [
    dict(low=1.5, high=9., knee=2.), dict(low=1.5, high=9., knee=None), None])
def test_the_scale_of_the_runs_heat_maps_is_told(start, fake, colours):
  if colours:
    fake.about['heat_colours'] = colours
  assert _ask(start(), 'GET', '/health').json()['model'][
      'heat_colours'] == colours


def test_metrics_count_what_happened(start):
  app = start()
  for content in (PNG, PNG, b''):
    _ask(app, files=_files(content, content))
  for path in ('/a', '/b'):
    _ask(app, 'GET', path)
  told = served.metrics(_ask(app, 'GET', '/metrics').text)
  for name, value in {
      'requests_total{path="/score",status="200"}': 2,
      'requests_total{path="/score",status="422"}': 1,
      'requests_total{path="other",status="404"}': 2,
      'request_seconds_count{path="/score"}': 3,
      'images_total{verdict="anomalous"}': 4, 'accepted_total': 3,
      'finished_total': 3, 'batch_images_sum': 4, 'queue_images': 0}.items():
    assert told[f'deep_oc_{name}'] == value, name


def test_the_page_asks_nothing_of_others(start):
  app = start()
  page = _ask(app, 'GET', '/')
  assert page.headers['content-type'].startswith('text/html')
  policy = page.headers['content-security-policy']
  assert "default-src 'none'" in policy and 'unsafe' not in policy
  asked = re.findall(r'(?:src|href)="([^"#][^"]*)"', page.text)
  assert len(asked) == 5 and 'data:,' in asked
  for path in filter(lambda each: not each.startswith('data:'), asked):
    assert re.fullmatch(r'[a-z]+\.(css|js|png)', path)
    assert _ask(app, 'GET', f'/{path}').status_code == 200
  assert not re.search(r'<script(?![^>]*src)|style=|\son\w+=', page.text)
  for path in ('/', '/app.js', '/score', '/nothing', '/metrics'):
    headers = _ask(app, 'GET', path).headers
    assert headers['x-content-type-options'] == 'nosniff'
    assert headers['content-security-policy'] == policy
    assert 'access-control-allow-origin' not in headers


def test_what_there_is_can_be_looked_up_offline(start):
  app = start()
  for path in ('/docs', '/redoc'):  # they load scripts from elsewhere
    assert _ask(app, 'GET', path).status_code == 404
  told = _ask(app, 'GET', '/openapi.json').json()
  score = told['paths']['/score']['post']
  assert 'image' in score['requestBody']['content']['multipart/form-data'][
      'schema']['properties']
  assert {'200', '413', '415', '503'} <= set(score['responses'])
  assert _ask(app, 'GET', '/score').json() == {
      'error': 'GET /score: method not allowed'}


def test_a_bomb_costs_no_memory():
  code = """
import resource
from deep_oc.service import decoding, limits
from tests import malformed, served
found = served.Fake()
decoding.read(malformed.picture(), found, 30_000_000)
bombs = [malformed.png_bomb(30000), malformed.tiff_bomb(20000),
         malformed.webp_bomb(), malformed.bmp(30000),
         malformed.animated('gif', 500)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for bomb in bombs:
  try:
    decoding.read(bomb, found, 30_000_000)
  except limits.Refused:
    before_and_after = before, resource.getrusage(
        resource.RUSAGE_SELF).ru_maxrss
    print('refused')
print((before_and_after[1] - before_and_after[0]) / 1024)
"""
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, text=True,
                        capture_output=True, check=True)
  *refused, grown = done.stdout.split()
  assert refused == ['refused'] * 5 and float(grown) < 20  # MB, of 1,300


@pytest.mark.parametrize('kind, said', [
    ('webp', limits.BYTES_OF_WEBP), ('png', limits.BYTES_OF_OTHERS)])
def test_a_picture_takes_no_more_bytes_a_pixel_than_is_said(
    tmp_path, kind, said):
  code = """
import pathlib, sys
from deep_oc.service import decoding
from tests import served
decoding.read(pathlib.Path(sys.argv[1]).read_bytes(), served.Fake(), 10**7)
"""
  peaks, sides = [], (100, 3000)  # 36 MB: glibc returns what it maps, > 32 MB
  for side in sides:
    Image.new('RGBA', (side, side), (9, 99, 199, 128)).save(
        tmp_path / f'{side}.{kind}')
    peaks.append(1024 * peak_memory('-c', code, f'{tmp_path}/{side}.{kind}'))
  taken = (peaks[1] - peaks[0]) / (sides[1]**2 - sides[0]**2)
  assert said - 1 < taken < said + 0.5


@pytest.mark.parametrize('method', ['squeeze', 'square'])
def test_a_long_strip_costs_no_memory(method):
  found, content = served.Fake(), malformed.strip(20_000)
  found.prepare = lambda picture: bundle.pictures.prepare(
      picture, served.SHAPE, served.HOW | {'method': method})
  tracemalloc.start()
  image = decoding.read(content, found, 10**6)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert image.shape == served.SHAPE and (image == 200).all()
  assert peak < 5e6


def test_a_picture_of_just_the_allowed_size_is_scored():
  found = served.Fake()
  content = malformed.picture(0, (100, 80))
  image = decoding.read(content, found, 8000)
  np.testing.assert_array_equal(image, found.prepare(content))
  with pytest.raises(limits.Refused, match='100×80 pixels'):
    decoding.read(content, found, 7999)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return served.write(tmp_path_factory.mktemp('served') / 'bundle')


@pytest.fixture(scope='module')
def running(folder):
  """A process that serves a real bundle."""
  process = served.Process(f'--bundle={folder}', '--max_bytes=2000000',
                           '--queue=40')
  yield process
  assert process.end() == 0


def test_it_listens_on_this_machine_alone(running):
  assert running.url.startswith('http://127.0.0.1:')
  port = int(running.url.rpartition(':')[2])
  others = {each[4][0] for each in socket.getaddrinfo(
      socket.gethostname(), port, socket.AF_INET, socket.SOCK_STREAM)}
  for address in others - {'127.0.0.1'}:
    with pytest.raises(OSError), socket.create_connection((address, port), 2):
      pass


def test_a_process_scores_as_its_bundle_does(running, folder):
  found = bundle.load(folder)
  content = [malformed.picture(seed) for seed in range(5)]
  results = httpx.post(f'{running.url}/score', params={'maps': 'true'},
                       files=_files(*content)).json()['results']
  images = np.stack([found.prepare(each) for each in content])
  judged = found.judge(images)
  assert [each['score'] for each in results] == judged.score.tolist()
  assert [each['p_value'] for each in results] == judged.p_value.tolist()
  assert [(each['heat_low'], each['heat_high']) for each in results] == [
      (heat.min(), heat.max()) for heat in found.heat_maps(images)]


def test_200_malformed_uploads_leave_it_serving(running):
  before, count, peak = running.metrics(), 0, running.peak()
  with httpx.Client(base_url=running.url, timeout=30) as client:
    for why, content in malformed.uploads():
      answer = client.post('/score', files=_files(content))
      assert 400 <= answer.status_code < 500, (why, answer.text)
      assert answer.json()['error'], why
      count += 1
    assert client.post('/score', files=_files(PNG)).status_code == 200
  told = running.metrics()
  assert count == 200
  assert told['deep_oc_finished_total'] - before[
      'deep_oc_finished_total'] == 201
  assert running.peak() - peak < 60  # MB


def test_who_breaks_off_leaves_it_serving(running):
  address = running.url.removeprefix('http://').split(':')
  head = (b'POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n'
          b'Content-Length: 1000\r\n\r\n')
  for sent in (b'', b'POST', head, head + PNG[:99], b'\0\xff\r\n\r\n',
               b'GET / HTTP/1.1\r\n' + b'a: b\r\n' * 20_000):
    with (socket.create_connection(address) as client,
          contextlib.suppress(OSError)):  # it may have hung up
      client.sendall(sent)
  assert httpx.post(f'{running.url}/score', files=_files(PNG)
                    ).status_code == 200
  deadline = time.monotonic() + 10
  while running.metrics()['deep_oc_queue_requests']:
    assert time.monotonic() < deadline, 'a place in the queue is lost'
    time.sleep(0.1)


async def _client_loop(url, content, score, until, answers):
  """Asks one after the other, until then or until nobody answers."""
  async with httpx.AsyncClient(base_url=url, timeout=60, verify=False
                               ) as client:
    while time.monotonic() < until:
      try:
        answer = await client.post('/score', files=_files(content))
      except httpx.TransportError as error:
        answers.append(error)
        return
      answers.append(answer.status_code)
      if answer.status_code == 200:
        assert answer.json()['results'][0]['score'] == score
      else:
        await asyncio.sleep(float(answer.headers['retry-after']) / 4)


def _load(url, folder, clients, seconds):
  """Returns all statuses and errors that clients in parallel have seen."""
  found, answers = bundle.load(folder), []
  content = [malformed.picture(seed) for seed in range(clients)]
  scores = [found.judge(found.prepare(each)[None]).score[0]
            for each in content]
  until = time.monotonic() + seconds

  async def ask():
    await asyncio.gather(*(
        _client_loop(url, *each, until, answers)
        for each in zip(content, scores, strict=True)))
  asyncio.run(ask())
  return answers


def _check_load(running, folder, seconds):
  before = running.metrics()
  answers = _load(running.url, folder, 50, seconds)
  told = running.metrics()
  seen = {each: answers.count(each) for each in set(answers)}
  print(seen, f'in {seconds} s')
  assert set(seen) <= {200, 503} and seen[200] > 10 * seconds

  def more(name):
    return told[f'deep_oc_{name}'] - before.get(f'deep_oc_{name}', 0)
  assert more('accepted_total') == more('finished_total') == seen[200]
  for status, number in seen.items():
    assert more(f'requests_total{{path="/score",status="{status}"}}') == number
  assert told['deep_oc_queue_requests'] == told['deep_oc_queue_images'] == 0


def test_50_clients_lose_no_accepted_request(running, folder):
  _check_load(running, folder, 4)


@pytest.mark.slow
def test_50_clients_lose_no_accepted_request_in_a_minute(running, folder):
  _check_load(running, folder, 60)


def test_sigterm_under_load_loses_no_accepted_request(folder):
  process = served.Process(f'--bundle={folder}')

  async def load():
    answers = []
    clients = [asyncio.create_task(_client_loop(
        process.url, PNG, score, time.monotonic() + 60, answers))
               for _ in range(20)]
    await asyncio.sleep(2)
    process.process.send_signal(signal.SIGTERM)
    await asyncio.gather(*clients)
    return answers
  found = bundle.load(folder)
  score = found.judge(found.prepare(PNG)[None]).score[0]
  answers = asyncio.run(load())
  out, _ = process.process.communicate(timeout=30)
  assert process.process.returncode == 0, out
  answered = answers.count(200)
  assert answered > 20
  assert len([each for each in answers if each != 200]) == 20  # each its last
  assert f'stopped: {answered} requests accepted, {answered} answered' in out
  assert 'Traceback' not in out


def test_sigterm_waits_no_longer_than_it_must_for_who_does_not_read():
  code = """
from deep_oc.service import app, limits, server
from tests import served
server._MARGIN = 0
chosen = limits.Limits(timeout=0.5)
address = server.bind('127.0.0.1', 0)
server.run(app.create_app(served.Fake(), chosen), address,
           lambda: print(address.getsockname()[1], flush=True), chosen)
"""
  process = subprocess.Popen(
      [sys.executable, '-c', code], cwd=ROOT, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE)
  with socket.socket() as client:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(('127.0.0.1', int(process.stdout.readline())))
    client.sendall(b'GET /app.js HTTP/1.1\r\nHost: a\r\n\r\n' * 400)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=20)
  assert process.returncode == 0 and 'Traceback' not in error


@pytest.mark.parametrize('flag, words', [
    ('--port=80000', '--port=80000'),
    ('--max_bytes=0', '--max_bytes=0'),
    ('--timeout=soon', '--timeout=soon'),
    ('--bundle=', '--bundle is required'),
    ('--bundle=nowhere', 'no bundle in nowhere'),
    ('--host=256.0.0.1', 'cannot serve on --host=256.0.0.1')])
def test_bad_flags_are_one_line(binary, folder, flag, words):
  args = [f'--bundle={folder}', flag]
  assert words in the_error(binary('serve', *args))


def test_a_taken_port_is_one_line(binary, folder, running):
  port = running.url.rpartition(':')[2]
  line = the_error(binary('serve', f'--bundle={folder}', f'--port={port}'))
  assert f'--port={port}: Address already in use' in line


def test_a_damaged_bundle_is_one_line(binary, folder, tmp_path):
  copy = tmp_path / 'bundle'
  copy.mkdir()
  for path in folder.iterdir():
    (copy / path.name).write_bytes(path.read_bytes())
  about = json.loads((copy / 'bundle.json').read_text())
  (copy / 'bundle.json').write_text(json.dumps(about | {'threshold': 0}))
  assert 'is not as it was written' in the_error(
      binary('serve', f'--bundle={copy}'))


def test_a_missing_extra_is_named(monkeypatch):
  for name in list(sys.modules):
    if name.startswith('deep_oc.service'):
      monkeypatch.delitem(sys.modules, name)
  monkeypatch.setitem(sys.modules, 'fastapi', None)
  serve = runpy.run_module('deep_oc.serve')
  with pytest.raises(InputError, match=re.escape("pip install '.[serve]'")):
    serve['_service']()


@pytest.mark.slow
@pytest.mark.parametrize('localize', [
    dict(name='gradcam'),
    dict(name='windows', side=8, stride=4, positions='each')])
def test_a_trained_run_scores_as_its_detector_does(binary, tmp_path, localize):
  from deep_oc import trained_run
  from tests import untrained
  config = untrained.parts(tmp_path / 'data')
  config.localize = localize
  run = untrained.run(config, tmp_path / 'run')
  done = binary('export', f'--workdir={run}', '--false_alarm_rate=0.2')
  assert done.returncode == 0, done.stderr
  process = served.Process(f'--bundle={run}/bundle')
  content = [malformed.picture(seed) for seed in range(5)]
  results = httpx.post(f'{process.url}/score', params={'maps': 'true'},
                       files=_files(*content)).json()['results']
  assert process.end() == 0
  found = trained_run.load(run, false_alarm_rate=0.2)
  images = [Image.open(io.BytesIO(each)) for each in content]
  judged = found.judge(images)
  np.testing.assert_allclose([each['score'] for each in results],
                             judged.score, rtol=1e-5)
  np.testing.assert_allclose([each['p_value'] for each in results],
                             judged.p_value)
  heat = found.heat_maps(images)
  np.testing.assert_allclose([each['heat_high'] for each in results],
                             heat.max(axis=(1, 2)), rtol=1e-3)
