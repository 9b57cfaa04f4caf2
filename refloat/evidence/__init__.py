"""The evidence of a job: what was decided, done and seen, as data and as one page for people."""

from refloat.evidence.chain import verify
from refloat.evidence.collect import FORMAT, LIMITS, bundle, shown_record
from refloat.evidence.render import page

__all__ = ["FORMAT", "LIMITS", "bundle", "page", "shown_record", "verify"]
