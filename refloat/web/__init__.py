"""The hub's page: what is going on, what was proven, and the operator's decisions.

Server-rendered (Jinja2), with htmx for parts that change and server-sent events for what is live. Every asset
is served by the hub itself. `htmx.min.js` is htmx 2.0.11 (0BSD) from npm, unchanged.
"""

from refloat.web.app import install

__all__ = ["install"]
