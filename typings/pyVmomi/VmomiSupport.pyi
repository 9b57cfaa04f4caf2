versionMap: dict[str, str]  # noqa: N816
