"""What /metrics tells, in Prometheus' text format."""
import prometheus_client
from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

TYPE = prometheus_client.CONTENT_TYPE_LATEST


class Measures:
  """Counters of one service, which share nothing with those of another."""

  def __init__(self):
    self.registry = registry = prometheus_client.CollectorRegistry()
    prometheus_client.ProcessCollector(registry=registry)
    self.requests = Counter(
        'deep_oc_requests', 'Requests that were answered.',
        ['path', 'status'], registry=registry)
    self.seconds = Histogram(
        'deep_oc_request_seconds', 'From the header of a request to the end of '
        'its answer.', ['path'], buckets=_SECONDS, registry=registry)
    self.accepted = Counter(
        'deep_oc_accepted', 'Requests to score that found a place in the '
        'queue.', registry=registry)
    self.finished = Counter(
        'deep_oc_finished', 'Accepted requests whose answer has been sent, or '
        'whose client has gone.', registry=registry)
    self.images = Counter(
        'deep_oc_images', 'Images that were scored.', ['verdict'],
        registry=registry)
    self.batches = Histogram(
        'deep_oc_batch_images', 'Images that the model saw at once.',
        buckets=_IMAGES, registry=registry)
    self.model_seconds = Histogram(
        'deep_oc_batch_seconds', 'The model took for a batch.',
        buckets=_SECONDS, registry=registry)
    self.queue = Gauge(
        'deep_oc_queue_requests', 'Requests that are worked on or wait.',
        registry=registry)
    self.waiting = Gauge(
        'deep_oc_queue_images', 'Images that wait for the model.',
        registry=registry)

  def batch(self, images: int, seconds: float) -> None:
    """Counts what the model has seen."""
    self.batches.observe(images)
    self.model_seconds.observe(seconds)

  def text(self) -> bytes:
    """Returns all of them."""
    return prometheus_client.generate_latest(self.registry)
