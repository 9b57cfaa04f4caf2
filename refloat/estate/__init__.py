"""The estate file: sites, networks and their mappings, policies, protected VMs and targets.

This is the files' edge: pydantic checks the form, and everything behind it gets frozen records.
"""

from refloat.estate.estate import Estate
from refloat.estate.load import load_estate
from refloat.estate.sites import Network, Site

__all__ = ["Estate", "Network", "Site", "load_estate"]
