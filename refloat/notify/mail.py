"""One mail to one server, by SMTP."""

from __future__ import annotations

import smtplib
import socket
from contextlib import suppress

from refloat.errors import Failed
from refloat.notices import Notice
from refloat.notify.bounded import QUIET, SHOWN, WHOLE, ends_within, in_words, trusting
from refloat.notify.channels import Mail, MailTls
from refloat.notify.render import mail
from refloat.text import safe


def send(channel: Mail, notice: Notice, url: str, whole: float = WHOLE) -> str:
    """What the server answered when it took the mail for every receiver. Raises Failed where it took it for
    none or not for all, Refused (secret) where the password cannot be read."""
    message = mail(notice, url, channel.sender, channel.to)
    password = channel.password.read() if channel.password else ""
    try:
        with socket.create_connection(channel.place, timeout=QUIET) as plain, ends_within(whole, plain):
            server = _server(channel, plain)
            try:
                if password:
                    server.login(channel.user, password)
                if refused := server.send_message(message):
                    raise smtplib.SMTPRecipientsRefused(refused)
                with suppress(OSError, smtplib.SMTPException):
                    server.putcmd("quit")  # it has taken the mail, whatever it says now
            finally:
                server.close()
        return f"{channel.server} took it for {', '.join(channel.to)}"
    except (OSError, smtplib.SMTPException, ValueError) as error:
        raise Failed(
            f"{channel.server}: {_in_words(error)}", code="not_delivered", hint="see the mail server's log"
        ) from error


def _server(channel: Mail, plain: socket.socket) -> smtplib.SMTP:
    """Greeted, and within TLS unless the channel is without. smtplib would connect and greet in one go,
    before anything could end it; `_host` is the name that the certificate must have."""
    name = channel.place[0]
    context = None if channel.tls is MailTls.NONE else trusting(channel.ca)
    server = smtplib.SMTP(local_hostname=socket.gethostname(), timeout=QUIET)
    server.sock = plain
    if context and channel.tls is MailTls.TLS:
        server.sock = context.wrap_socket(plain, server_hostname=name)
    server._host = name  # type: ignore[attr-defined]
    code, said = server.getreply()
    if code != 220:
        raise smtplib.SMTPConnectError(code, said)
    if context and channel.tls is MailTls.STARTTLS:
        server.starttls(context=context)  # SMTPNotSupportedError where the server has none
    return server


def _in_words(error: Exception) -> str:
    match error:
        case smtplib.SMTPRecipientsRefused():
            said = ", ".join(f"{to}: {_answer(*answer)}" for to, answer in error.recipients.items())
            return f"not taken for {said}"
        case smtplib.SMTPAuthenticationError():
            return f"it does not take the user and password ({error.smtp_code})"
        case smtplib.SMTPResponseException():
            return f"it answered {_answer(error.smtp_code, error.smtp_error)}"
        case UnicodeError():  # its text would show some of them
            return "it cannot be sent: the user or the password is not ASCII"
        case smtplib.SMTPException():
            return safe(error)[:SHOWN]
    return in_words(error)


def _answer(code: int, said: bytes | str) -> str:
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
    return f"{code} {safe(text)[:SHOWN]}"
