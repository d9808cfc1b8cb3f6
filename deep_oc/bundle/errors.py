"""What goes wrong with bundles, in one line each."""


class BundleError(ValueError):
  """What is wrong with a bundle, or with what it was asked, in one line."""


class PictureError(BundleError):
  """What is wrong with one picture, in one line."""


def line(error: object) -> str:
  """Returns the message, its beginning if it is long."""
  return ' '.join(str(error).split())[:200] or type(error).__name__
