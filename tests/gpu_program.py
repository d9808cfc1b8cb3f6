"""What XLA makes of a train step for a GPU, compiled where there is none.

  python -m tests.gpu_program

prints a line of JSON for each task. It needs JAX's CUDA plug-in and NVIDIA's
libraries, with LD_LIBRARY_PATH naming their folders; XLA chooses no algorithms,
for it would time them.
"""
import json
import re

import jax
import numpy as np
from jax.experimental import topologies

from tests import compiled

# A text-format GpuTargetConfigProto of an H200.
_TARGET = """
platform_name: "CUDA"
device_description_str: "NVIDIA H200"
dnn_version_info { major: 9 minor: 19 }
runtime_version { major: 13 }
gpu_device_info {
  cuda_compute_capability {
    major: 9
    feature_extension: ACCELERATED_FEATURES
  }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 4800000000000
  l2_cache_size: 62914560
  device_memory_size: 150000000000
}
"""
_ENCODER = dict(name='resnet', depth=10, width=1.0)  # twelve BatchNorms
_ACTIVATIONS = r'f32\[(32|64),(4|8|16|32),\d+,\d{2,}\]'
_NO_KERNEL = ('parameter', 'constant', 'bitcast', 'tuple', 'while',
              'get-tuple-element', 'call', 'conditional')


def facts(task: str) -> dict[str, object]:
  """Returns what three steps of bfloat16 do, of the loop that they are."""
  described = topologies.get_topology_desc(
      platform='cuda', topology='1x1x1', target_config=_TARGET)
  mesh = jax.sharding.Mesh(np.array(described.devices), ('data',))
  _, program = compiled.traced(
      task, mesh, dtype='bfloat16', encoder=_ENCODER, size=32)
  text = program.lower().compile().as_text()
  kernels = list(_kernels(text))
  return {
      'kernels': len(kernels),
      'convolutions': sum('cudnn-conv' in line for line in kernels),
      'of BatchNorm': sum(bool(re.search(
          r'op_name="[^"]*encoder/[^"]*BatchNorm_\d/reduce(_sum)?"', line))
                          for line in kernels),
      'wide': [line.strip()[:200] for line in kernels
               if re.search(_ACTIVATIONS, _result(line))],
      'copies': [line.strip()[:200] for line in kernels
                 if _operation(line) == 'copy'],
      'to the host': re.findall(
          r'\s(infeed|outfeed|send|recv|\w*callback\w*)\(', text)}


def _kernels(text: str):
  """Yields the lines of what is started in one turn of the loop."""
  bodies = {}
  for block in re.split(r'\n(?=%|ENTRY )', text):
    name = re.match(r'%([\w.\-]+) \(', block)
    if name:
      bodies[name[1]] = [line for line in block.splitlines()[1:]
                         if ' = ' in line]

  def started(name):
    for line in bodies[name]:
      called = re.search(r' call\(.*to_apply=%(command_buffer[\w.\-]*)', line)
      if called:
        yield from started(called[1])
      elif _operation(line) not in _NO_KERNEL:
        yield line
  loop, = set(re.findall(r' while\(.*body=%([\w.\-]+)', text))
  return started(loop)


def _result(line: str) -> str:
  """Returns the shapes that an instruction results in."""
  return re.match(r'.*? = (\(.*?\)|\S+) [\w\-]+\(', line)[1]


def _operation(line: str) -> str:
  return re.match(r'.*? = (?:\(.*?\)|\S+) ([\w\-]+)\(', line)[1]


def main() -> None:
  for task in ('rotation', 'contrastive'):
    print(json.dumps({'task': task} | facts(task)))


if __name__ == '__main__':
  main()
