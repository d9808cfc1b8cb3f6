"""What a request may ask for, and how it is told that it asks for more."""
from typing import NamedTuple

# Bytes that a pixel takes, at most, while its picture is decoded.
BYTES_OF_WEBP, BYTES_OF_OTHERS = 24, 16


class Limits(NamedTuple):
  """How much one request may be, and all of them together.

  Memory is bounded by them: `queue` times `max_bytes` of uploads that wait, and
  BYTES_OF_WEBP for each of `max_pixels` of the two pictures that are decoded at
  a time.

  Attributes:
    max_bytes: of a request's body.
    max_pixels: of a picture, as its header and its tiles say.
    max_images: of a request.
    timeout: seconds that an upload may take, and then its answer.
    queue: requests that are worked on or wait.
  """
  max_bytes: int = 16 * 2**20
  max_pixels: int = 30_000_000
  max_images: int = 16
  timeout: float = 30.
  queue: int = 64


class Refused(Exception):
  """A request that is not served.

  Attributes:
    status: of HTTP, 4xx or 503 or 504.
    reason: one line for whoever asked.
    more: what else the answer says: `file` and `index` of a picture.
    retry: seconds after which it may go better, or None.
  """

  def __init__(self, status: int, reason: str, *, retry: int | None = None,
               **more: object):
    super().__init__(reason)
    self.status, self.reason, self.retry = status, reason, retry
    self.more = more
