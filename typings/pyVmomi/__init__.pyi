# The parts of pyVmomi that Refloat uses. Its own stubs make every property optional and leave constructors
# untyped; the types themselves are made at run time.
from typing import Any

vim: Any
vmodl: Any

class SoapStubAdapter:
    cookie: str
    schemeArgs: dict[str, Any]  # noqa: N815
    scheme: Any
    def __init__(
        self,
        host: str = ...,
        port: int = ...,
        *,
        path: str = ...,
        version: str | None = ...,
        poolSize: int = ...,  # noqa: N803
        sslContext: Any = ...,  # noqa: N803
        httpConnectionTimeout: float | None = ...,  # noqa: N803
    ) -> None: ...
    def DropConnections(self) -> None: ...  # noqa: N802
    def SetSessionId(self, sessionId: str | None) -> None: ...  # noqa: N802, N803
    def InvokeMethod(self, *words: Any, **more: Any) -> Any: ...  # noqa: N802
