"""The error codes of CloudStack's API (class ApiErrorCode) and the exception that carries one."""

UNAUTHORIZED = 401
THROTTLED = 429
PARAM = 431
UNSUPPORTED = 432
INTERNAL = 530
ACCOUNT = 531
LIMIT = 532
CAPACITY = 533
UNAVAILABLE = 534
ALLOCATION = 535
IN_USE = 536


class ApiError(Exception):
    """CloudStack says no: `code` is the HTTP status and errorcode, the text is the errortext."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


def refuse(text: str) -> ApiError:
    """InvalidParameterValueException: 431, also as the result of an async job (ApiAsyncJobDispatcher)."""
    return ApiError(PARAM, text)


def broken(text: str) -> ApiError:
    """CloudRuntimeException: 530."""
    return ApiError(INTERNAL, text)
