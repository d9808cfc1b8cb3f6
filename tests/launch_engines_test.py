"""Engines with real processes, and with stand-ins for what a cloud would do."""
import contextlib
import fcntl
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time

import pytest

from deep_oc import files, plugins
from deep_oc.errors import InputError
from launch import engines, sweep
from launch.engines import _process, local, ray, slurm, tpu_vm

ROOT = pathlib.Path(__file__).resolve().parent.parent

# A job: `work.py NAME STATUS...` ends with one status after another, run by
# run, the last one for ever; 's' sleeps until it is asked to end.
WORK = textwrap.dedent('''
    import pathlib, signal, sys, time
    starts = pathlib.Path(__file__).with_name(sys.argv[1] + '.starts')
    seen = starts.read_text().count('started') if starts.exists() else 0
    def save_and_end(*_):
      signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends it
      time.sleep(1.5)
      with starts.with_suffix('.saved').open('a') as file:
        file.write('saved\\n')
      sys.exit(75)

    signal.signal(signal.SIGTERM, save_and_end)
    with starts.open('a') as file:
      file.write('started\\n')
    print('hello from', sys.argv[1], flush=True)
    status = (sys.argv[2:] + sys.argv[-1:] * seen)[seen]
    if status == 's':
      time.sleep(600)
    sys.exit(int(status))
    ''')


@pytest.fixture
def job(tmp_path):
  """Makes jobs of the program above."""
  script = tmp_path / 'work.py'
  script.write_text(WORK)

  def make(name, *statuses):
    return engines.Job(name, ('-S', str(script), name, *statuses),
                       str(tmp_path / 'logs' / name / 'log.txt'))

  def count(name, suffix):
    path = tmp_path / f'{name}{suffix}'
    return len(path.read_text().splitlines()) if path.exists() else 0
  make.starts = lambda name: count(name, '.starts')
  make.saves = lambda name: count(name, '.saved')
  return make


def final(events):
  """Returns the last state of each job, all events gone through."""
  return {event.job.name: event.state for event in events if event}


def until(condition, seconds=60):
  """Waits for what another process does."""
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end
    time.sleep(0.02)


def alive(pid):
  """Tells whether a process runs; a zombie does not."""
  try:
    return pathlib.Path(f'/proc/{pid}/stat').read_text().split()[2] != 'Z'
  except FileNotFoundError:
    return False


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
  for engine in local, slurm, tpu_vm:
    monkeypatch.setattr(engine, '_POLL', 0.02 if engine is local else 0.2)


def test_exit_statuses_mean_what_the_contract_says(job):
  jobs = [job('good', '0'), job('bad_input', '2'), job('interrupted', '75',
          '75', '75', '0'), job('flaky', '1', '1', '0'), job('broken', '1')]
  states = final(local.submit(jobs, retries=2, jobs=2))
  assert states == {'good': 'done', 'bad_input': 'failed', 'flaky': 'done',
                    'interrupted': 'done', 'broken': 'failed'}
  assert {name: job.starts(name) for name in states} == {
      'good': 1, 'bad_input': 1, 'interrupted': 4, 'flaky': 3, 'broken': 3}


def test_output_is_appended_to_the_log_below_the_command(job):
  flaky = job('flaky', '1', '0')
  list(local.submit([flaky], retries=1))
  lines = pathlib.Path(flaky.log).read_text().splitlines()
  assert lines[1::2] == ['hello from flaky'] * 2
  assert all(line.startswith('# ') and 'work.py flaky 1 0' in line
             for line in lines[::2])


def test_as_many_run_at_once_as_are_asked_for(job):
  most, now = 0, set()
  for event in local.submit([job(str(i), '75', '0') for i in range(6)], jobs=3):
    if event:
      (now.add if event.state == 'running' else now.discard)(event.job)
      most = max(most, len(now))
  assert most == 3


def test_each_process_sees_one_gpu(tmp_path, monkeypatch):
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '4,7')
  said = 'import os, time; print(os.environ["CUDA_VISIBLE_DEVICES"]); ' \
         'time.sleep(0.5)'
  jobs = [engines.Job(name, ('-S', '-c', said), str(tmp_path / name))
          for name in 'ab']
  assert set(final(local.submit(jobs)).values()) == {'done'}
  seen = [(tmp_path / name).read_text().splitlines()[-1] for name in 'ab']
  assert sorted(seen) == ['4', '7']


def test_closing_asks_the_jobs_to_end_and_waits(job):
  events = local.submit([job('sleeper', 's'), job('next', '0')])
  next(event for event in events if event and event.state == 'running')
  until(lambda: job.starts('sleeper'))
  events.close()
  log = job('sleeper').log
  with open(log) as file:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody holds it
  assert job.saves('sleeper') == 1 and job.starts('next') == 0


@pytest.mark.skipif(sys.platform != 'linux', reason='prctl is of Linux')
def test_a_launcher_killed_by_sigkill_leaves_no_process(job, tmp_path):
  pid = tmp_path / 'pid'
  script = (f'import os, time; open({str(pid)!r}, "w").write(str(os.getpid()));'
            ' time.sleep(600)')
  launcher = subprocess.Popen([sys.executable, '-c', textwrap.dedent(f'''
      from launch import engines
      from launch.engines import local
      job = engines.Job('orphan', ('-S', '-c', {script!r}),
                        {str(tmp_path / 'log.txt')!r})
      list(local.submit([job]))
      ''')], cwd=ROOT)
  until(lambda: pid.exists() and pid.read_text())
  child = int(pid.read_text())
  assert alive(child)
  launcher.send_signal(signal.SIGKILL)
  launcher.wait()
  try:
    until(lambda: not alive(child), 30)
  finally:
    with contextlib.suppress(ProcessLookupError):
      os.kill(child, signal.SIGKILL)


def test_no_job_runs_twice_at_the_same_time(job):
  sleeper = job('sleeper', 's', '0')
  first = _process.start(sleeper)
  until(lambda: job.starts('sleeper'))
  events = local.submit([sleeper])
  assert next(events) == engines.Event(
      sleeper, 'queued', 'another process is at it')
  assert next(events) is None and job.starts('sleeper') == 1
  _process.stop([first])
  assert first.returncode == 75
  assert final(events) == {'sleeper': 'done'} and job.starts('sleeper') == 2


def test_a_misspelt_engine_offers_the_nearest():
  with pytest.raises(InputError, match="unknown engine 'slrum'.*'slurm'"):
    plugins.find('launch.engines', 'slrum', 'submit')


def test_an_engine_whose_program_is_missing_says_so(job, tmp_path, monkeypatch):
  monkeypatch.setenv('PATH', str(tmp_path))
  with pytest.raises(InputError, match='squeue is not installed'):
    next(slurm.submit([job('a', '0')], folder=str(tmp_path)))
  with pytest.raises(InputError, match='gcloud is not installed'):
    next(tpu_vm.submit([job('a', '0')], zone='z', accelerator='v4-8'))
  with pytest.raises(InputError, match='needs --zone and --accelerator'):
    next(tpu_vm.submit([job('a', '0')]))
  monkeypatch.setitem(sys.modules, 'ray', None)
  with pytest.raises(InputError, match=r"pip install 'deep_oc\[ray\]'"):
    next(ray.submit([job('a', '0')]))


def program(folder, name, text):
  """Writes an executable that stands in for one of a cluster."""
  folder.mkdir(exist_ok=True)
  path = folder / name
  path.write_text(f'#!{sys.executable} -S\n{textwrap.dedent(text)}')
  path.chmod(path.stat().st_mode | stat.S_IEXEC)


# Plays slurmctld in a folder: sbatch starts every element at once, in a session
# of its own; squeue tells of them by their pids; requeueing is starting again.
FAKE_SLURM = '''
    import json, os, pathlib, re, signal, subprocess, sys
    here = pathlib.Path(__file__).parent / 'state'
    here.mkdir(exist_ok=True)
    called = pathlib.Path(sys.argv[0]).name
    with (here / 'calls').open('a') as file:
      file.write(json.dumps([called, *sys.argv[1:]]) + chr(10))

    def start(id, script):
      array, index = id.split('_')
      process = subprocess.Popen(
          ['bash', script], start_new_session=True, env=os.environ | {
              'SLURM_ARRAY_JOB_ID': array, 'SLURM_ARRAY_TASK_ID': index})
      (here / id).write_text(f'{process.pid} {script}')

    def running(pid):
      try:
        stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
      except FileNotFoundError:
        return False
      return stat.split()[2] != 'Z'

    if called == 'sbatch':
      if '--fail' in sys.argv:
        sys.exit('invalid partition')
      script = sys.argv[-1]
      last = re.search(r'--array=0-([0-9]+)', open(script).read())[1]
      array = len(list(here.glob('*_0')))
      for i in range(int(last) + 1):
        start(f'{array}_{i}', script)
    elif called == 'squeue':
      for path in here.glob('*_*'):
        pid, script = path.read_text().split()
        name = pathlib.Path(script).stem
        state = 'RUNNING' if running(pid) else 'FAILED'
        print(name, path.name.split('_')[1], path.name, state)
    elif called == 'scancel' and '--batch' in sys.argv:
      number = getattr(signal, 'SIG' + sys.argv[2].split('=')[1])
      for id in sys.argv[3:]:
        os.kill(int((here / id).read_text().split()[0]), number)
    elif called == 'scontrol':
      start(sys.argv[2], (here / sys.argv[2]).read_text().split()[1])
    '''


@pytest.fixture
def fake_slurm(tmp_path, monkeypatch):
  for name in ('sbatch', 'squeue', 'scancel', 'scontrol'):
    program(tmp_path / 'bin', name, FAKE_SLURM)
  monkeypatch.setenv('PATH', f'{tmp_path / "bin"}:{os.environ["PATH"]}')
  return tmp_path / 'bin' / 'state'


def test_slurm_statuses_and_retries(job, tmp_path, fake_slurm):
  jobs = [job('good', '0'), job('bad_input', '2'), job('flaky', '1', '0'),
          job('broken', '1')]
  states = final(slurm.submit(jobs, retries=1, folder=str(tmp_path / 'own'),
                              sbatch='--partition="my gpus" --time=9'))
  assert states == {'good': 'done', 'bad_input': 'failed', 'flaky': 'done',
                    'broken': 'failed'}
  assert {name: job.starts(name) for name in states} == {
      'good': 1, 'bad_input': 1, 'flaky': 2, 'broken': 2}
  assert '"--partition=my gpus", "--time=9"' in (
      fake_slurm / 'calls').read_text()
  assert pathlib.Path(jobs[0].log).read_text().count('hello from good') == 1


def test_slurm_requeues_what_has_no_time_left(job, tmp_path, fake_slurm):
  events = slurm.submit([job('long', 's', '0')], folder=str(tmp_path / 'own'))
  next(event for event in events if event)
  until(lambda: job.starts('long'))
  pid = int((fake_slurm / '0_0').read_text().split()[0])
  os.kill(pid, signal.SIGUSR1)  # as SLURM does two minutes before the end
  assert final(events) == {'long': 'done'}
  assert '["scontrol", "requeue", "0_0"]' in (fake_slurm / 'calls').read_text()
  assert job.starts('long') == 2 and job.saves('long') == 1


def test_slurm_jobs_of_a_killed_launcher_are_found_again(
    job, tmp_path, fake_slurm):
  jobs = [job('long', 's'), job('other', '0')]
  args = dict(folder=str(tmp_path / 'own'))
  events = slurm.submit(jobs, **args)
  next(event for event in events if event)
  until(lambda: job.starts('long'))
  again = slurm.submit(jobs[:1], **args)  # the first is not closed: it is dead
  next(event for event in again if event)
  assert job.starts('long') == 1
  again.close()
  until(lambda: b'RUNNING' not in subprocess.check_output(['squeue']))
  assert job.starts('long') == job.saves('long') == 1


@pytest.mark.parametrize('silent', [4, 99])
def test_slurm_is_asked_again_what_is_left_to_cancel(
    silent, monkeypatch, capsys):
  monkeypatch.setattr(slurm, '_POLL', 0)
  called = []
  listed = iter([*[None] * silent, {('sweep', 0): ('7_0', 'PENDING')},
                 *[None] * silent, {}])
  monkeypatch.setattr(slurm, '_listed', lambda: next(listed))
  monkeypatch.setattr(slurm, '_call', lambda *command: called.append(command))
  slurm._cancel([('sweep', 0)])
  given_up = silent == 99
  assert called == [('scancel', '--state=PENDING', '7_0')] * (not given_up)
  assert ('jobs may remain' in capsys.readouterr().err) == given_up


def test_no_slurm_job_is_submitted_again_for_want_of_an_answer(
    job, tmp_path, monkeypatch):
  monkeypatch.setattr(slurm, '_POLL', 0)
  (tmp_path / 'sweep.json').write_text('["long"]')
  listed = [{('sweep', 0): ('7_0', 'RUNNING')}, None, None]
  monkeypatch.setattr(
      slurm, '_listed', lambda: listed.pop() if listed else None)
  monkeypatch.setattr(slurm, '_array', lambda *_: pytest.fail('submitted'))
  long = job('long', 's')
  assert slurm._adopted({'long': long}, str(tmp_path)) == {('sweep', 0): long}
  with pytest.raises(InputError, match='squeue does not answer, so what an'):
    next(slurm.submit([long], folder=str(tmp_path)))


def test_what_sbatch_refuses_is_one_line(job, tmp_path, fake_slurm):
  with pytest.raises(InputError, match='sbatch refused .*invalid partition'):
    next(slurm.submit([job('a', '0')], folder=str(tmp_path), sbatch='--fail'))


# Plays the cloud: a resource is a file with its state, its home a folder, and
# ssh runs the command there. The second run on a slice is preempted.
FAKE_GCLOUD = '''
    import json, os, pathlib, subprocess, sys
    here = pathlib.Path(__file__).parent / 'state'
    here.mkdir(exist_ok=True)
    with (here / 'calls').open('a') as file:
      file.write(json.dumps(sys.argv[1:]) + chr(10))
    if sys.argv[1] != 'compute':
      sys.exit()
    group, verb, name = sys.argv[3:6]
    state = here / f'{name}.state'
    if verb == 'create':
      assert not state.exists()
      state.write_text('WAITING_FOR_RESOURCES')
    elif verb == 'describe':
      if not state.exists():
        sys.exit('NOT_FOUND')
      print(state.read_text())
      if state.read_text() == 'WAITING_FOR_RESOURCES':
        state.write_text('ACTIVE')
    elif verb == 'delete':
      state.unlink(missing_ok=True)
    elif verb == 'ssh':
      assert state.read_text() == 'ACTIVE' and '--worker=all' in sys.argv
      home = here / name
      home.mkdir(exist_ok=True)
      command = sys.argv[-1].removeprefix('--command=')
      runs = here / f'{name}.runs'
      if 'exec' in command:
        with runs.open('a') as file:
          file.write('run ')
        if runs.read_text() == 'run run ':
          state.write_text('SUSPENDED')
          sys.exit(255)
      sys.exit(subprocess.run(['bash', '-c', command], env=os.environ | {
          'HOME': str(home)}).returncode)
    '''


@pytest.fixture
def fake_gcloud(tmp_path, monkeypatch):
  program(tmp_path / 'bin', 'gcloud', FAKE_GCLOUD)
  monkeypatch.setenv('PATH', f'{tmp_path / "bin"}:{os.environ["PATH"]}')
  return tmp_path / 'bin' / 'state'


def calls(state, word):
  return [line for line in (state / 'calls').read_text().splitlines()
          if f'"{word}"' in line]


def test_preempted_tpu_slices_are_made_again_until_all_is_done(
    job, fake_gcloud):
  jobs = [job('a', '0'), job('b', '0'), job('asked', '75', '0'),
          job('broken', '1')]
  states = final(tpu_vm.submit(
      jobs, retries=0, zone='us-central2-b', accelerator='v4-8',
      setup='touch was_set_up'))
  assert states == {'a': 'done', 'b': 'done', 'asked': 'done',
                    'broken': 'failed'}
  assert {name: job.starts(name) for name in states} == {
      'a': 1, 'b': 1, 'asked': 2, 'broken': 1}  # none lost, none twice
  created = calls(fake_gcloud, 'create')
  assert len(created) == 2  # the second for what was preempted
  assert all(word in created[0] for word in (
      '"--spot"', '"--zone=us-central2-b"', '"--accelerator-type=v4-8"',
      '"--runtime-version=tpu-ubuntu2204-base"', '"--node-id='))
  assert len([call for call in calls(fake_gcloud, 'ssh')
              if 'was_set_up' in call]) == 2
  assert not list(fake_gcloud.glob('*.state'))  # nothing is left that costs


def test_a_new_launcher_ends_what_still_runs_on_a_slice(job, fake_gcloud):
  events = tpu_vm.submit([job('long', 's', '0')], zone='z', accelerator='t')
  next(event for event in events if event and event.state == 'running')
  until(lambda: job.starts('long'))
  [pid] = [int(path.read_text()) for path in fake_gcloud.glob('*/sweep/pid')]
  [name] = [path.stem for path in fake_gcloud.glob('*.state')]
  assert alive(pid)
  try:
    tpu_vm._Slice(name, 'z', [], '', None).end()  # as a new launcher begins
    assert not alive(pid) and job.saves('long') == 1
  finally:
    with contextlib.suppress(ProcessLookupError):
      os.kill(pid, signal.SIGKILL)
    events.close()
  assert not list(fake_gcloud.glob('*.state'))


def test_a_setup_that_fails_ends_the_sweep(job, fake_gcloud):
  with pytest.raises(InputError, match='--setup failed on sweep-'):
    list(tpu_vm.submit([job('a', '0')], zone='z', accelerator='t',
                       setup='false'))
  assert job.starts('a') == 0 and not list(fake_gcloud.glob('*.state'))


def test_whatever_goes_wrong_with_a_slice_ends_the_sweep(
    job, fake_gcloud, monkeypatch):
  def make_ready(_):
    raise PermissionError('gcloud')

  monkeypatch.setattr(tpu_vm._Slice, 'make_ready', make_ready)
  with pytest.raises(PermissionError, match='gcloud'):
    for event in tpu_vm.submit([job('a', '0')], zone='z', accelerator='t'):
      assert event, 'nobody tells what has become of the job'
  assert len(calls(fake_gcloud, 'delete')) == 1


def test_what_gcloud_says_need_not_be_utf_8():
  assert tpu_vm._call('printf', r'\377').stdout == '\N{REPLACEMENT CHARACTER}'


def test_what_the_launcher_cannot_write_ends_the_sweep_in_one_line(
    tmp_path, fake_gcloud, fake_slurm):
  (tmp_path / 'file').touch()
  nowhere = tmp_path / 'file' / 'folder'
  job = engines.Job('a', ('-S', '-c', '0'), str(nowhere / 'log.txt'))
  for events in (local.submit([job]), tpu_vm.submit([job], zone='z',
                 accelerator='t'), slurm.submit([job], folder=str(nowhere))):
    with pytest.raises(files.WriteError, match='cannot write .*folder/'):
      list(events)


def test_the_jobset_is_of_runs_that_a_sweep_knows():
  yaml = pytest.importorskip('yaml')
  jobset = yaml.safe_load(
      (ROOT / 'launch' / 'kubernetes' / 'sweep.yaml').read_text())
  [runs] = jobset['spec']['replicatedJobs']
  spec = runs['template']['spec']
  [container] = spec['template']['spec']['containers']
  wanted = sweep.expand('configs/dacl_cifar10.py', classes=['0'],
                        root='gs://BUCKET/runs')
  assert runs['replicas'] == len(wanted)
  for seed, run in enumerate(wanted):
    command = [each.replace('$(SEED)', str(seed))
               for each in container['command']]
    assert command == ['python', *run.job.command, '--processes=1']
  rules = spec['podFailurePolicy']['rules']
  codes = {rule['action']: rule['onExitCodes']['values'] for rule in rules
           if 'onExitCodes' in rule}
  assert codes == {'FailJob': [engines.BAD_INPUT], 'Ignore': [engines.AGAIN]}
  # JobSet requires the status, where a Job by itself has it by default.
  assert rules[-1]['onPodConditions'] == [
      {'type': 'DisruptionTarget', 'status': 'True'}]


slurmctld = pytest.mark.skipif(
    not shutil.which('sinfo') or subprocess.run(
        ['sinfo'], capture_output=True, check=False).returncode != 0,
    reason='no SLURM here; launch/slurm_local.sh starts one')


@pytest.mark.slow
@slurmctld
def test_a_real_slurm_runs_requeues_and_cancels(job, tmp_path):
  jobs = [job('good', '0'), job('flaky', '1', '0'), job('long', 's', '0')]
  args = dict(folder=str(tmp_path / 'own'), retries=1)
  states, told = {}, False
  for event in slurm.submit(jobs, **args):
    if event:
      states[event.job.name] = event.state
    if job.starts('long') == 1 and not told:
      told = True
      [id] = [id for (_, index), (id, state) in slurm._listed().items()
              if index == 2 and state == 'RUNNING']
      subprocess.run(['scancel', '--batch', '--signal=USR1', id], check=True)
  assert set(states.values()) == {'done'}
  assert {name: job.starts(name) for name in states} == {
      'good': 1, 'flaky': 2, 'long': 2}
  events = slurm.submit([job('sleeper', 's')], **args)
  next(event for event in events if event and event.state == 'running')
  until(lambda: job.starts('sleeper'))
  events.close()
  assert all(state in slurm._ENDED for _, state in slurm._listed().values())
  assert job.starts('sleeper') == job.saves('sleeper') == 1
  events = slurm.submit([job('cancelled', 's')], **args)
  next(event for event in events if event and event.state == 'running')
  until(lambda: job.starts('cancelled'))
  subprocess.run(['scancel', '--me'], check=True)  # by hand
  assert final(events) == {'cancelled': 'failed'}
  assert job.starts('cancelled') == job.saves('cancelled') == 1


@pytest.mark.slow
@slurmctld
def test_all_tasks_of_a_real_slurm_job_save_when_its_time_is_up(job, tmp_path):
  wide = job('wide', 's', 's', '0')
  events = slurm.submit([wide], folder=str(tmp_path / 'own'),
                        sbatch='--ntasks=2')
  next(event for event in events if event and event.state == 'running')
  until(lambda: job.starts('wide') == 2)
  [id] = [id for id, state in slurm._listed().values() if state == 'RUNNING']
  subprocess.run(['scancel', '--batch', '--signal=USR1', id], check=True)
  assert final(events) == {'wide': 'done'}
  assert job.starts('wide') == 4 and job.saves('wide') == 2


@pytest.mark.slow
def test_runs_of_a_killed_ray_node_go_on_elsewhere_and_no_other_runs_twice(
    tmp_path):
  cluster_utils = pytest.importorskip('ray.cluster_utils')
  cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={
      'num_cpus': 0, 'object_store_memory': 10**8})
  nodes = [cluster.add_node(num_cpus=1, object_store_memory=10**8)
           for _ in range(2)]
  root = tmp_path / 'runs'
  sweep = subprocess.Popen([
      sys.executable, '-m', 'launch.sweep', '--config=configs/quickstart.py',
      '--classes=3', '--seeds=0,1,2,3', '--engine=ray', f'--root={root}',
      f'--address={cluster.address}', '--set=train.steps=60',
      '--set=train.log_every=10', '--set=train.checkpoint_every=10'], cwd=ROOT,
      env=os.environ | {'JAX_PLATFORMS': 'cpu'}, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
  try:
    def of_all(what):
      return list(root.glob(f'quickstart/3/seed*/{what}'))
    until(lambda: of_all('embeddings/test.npz') and of_all('checkpoints/10') and
          len(of_all('embeddings/test.npz')) < len(of_all('config.json')), 900)
    finished = {path.parent.parent for path in of_all('embeddings/test.npz')}
    cluster.remove_node(nodes[0], allow_graceful=False)
    out, _ = sweep.communicate(timeout=900)
    assert sweep.returncode == 0, out
    assert '4 of 4 runs done' in out
    for workdir in of_all('.'):
      assert len((workdir / 'results.csv').read_text().splitlines()) > 10
      steps = [line.split(',')[0] for line in
               (workdir / 'metrics.jsonl').read_text().splitlines()]
      assert steps == [f'{{"step": {step}' for step in range(10, 70, 10)]
    starts = {path.parent: f'\n{path.read_text()}'.count('\n# 20')
              for path in of_all('log.txt')}
    assert all(starts[workdir] == 1 for workdir in finished)
    assert sorted(starts.values()) in ([1, 1, 1, 1], [1, 1, 1, 2])
  finally:
    sweep.kill()
    cluster.shutdown()


@pytest.mark.slow
def test_what_a_ray_node_cannot_run_is_a_failed_job(tmp_path):
  cluster = pytest.importorskip('ray')
  (tmp_path / 'file').touch()
  job = engines.Job('a', ('-S', '-c', '0'), str(tmp_path / 'file' / 'log.txt'))
  events = [event for event in ray.submit([job], retries=1) if event]
  cluster.shutdown()
  assert [event.state for event in events] == ['queued', 'failed']
  assert 'cannot write' in events[-1].note
