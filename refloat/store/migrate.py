"""Brings a store to the newest schema, from any released one (Alembic migrations in migrations/)."""

from __future__ import annotations

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy.engine import Engine

# It names every plug-in that it loads.
logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)


def upgrade(engine: Engine) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
